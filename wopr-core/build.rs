//! Writes the text of all migrations into one file, so that a change of any of them is a change of the build.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=../migrations");
    let mut folders: Vec<_> = fs::read_dir("../migrations")?.collect::<Result<_, _>>()?;
    folders.sort_by_key(fs::DirEntry::file_name);
    let mut text = String::new();
    for folder in folders {
        text += &folder.file_name().to_string_lossy();
        text += &fs::read_to_string(folder.path().join("up.sql"))?;
    }
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("migrations.txt"), text)
}
