//! Secrets of the command line: given as a value, or as a file that holds the value.

use std::path::Path;

use anyhow::{Context as _, bail};

/// The secret named `name`: `value` if set, else the content of `file` without surrounding white space.
///
/// Empty values count as not set.
///
/// # Errors
/// When both are given, or the file cannot be read or is empty.
pub fn resolve(name: &str, value: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let value = value.filter(|text| !text.trim().is_empty());
    match (value, file) {
        (Some(_), Some(_)) => bail!("{name} is given both as a value and as a file; give one"),
        (Some(value), None) => Ok(Some(value.trim().to_owned())),
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {name} from {}", path.display()))?;
            let text = text.trim();
            if text.is_empty() {
                bail!("{name} in {} is empty", path.display());
            }
            Ok(Some(text.to_owned()))
        }
        (None, None) => Ok(None),
    }
}
