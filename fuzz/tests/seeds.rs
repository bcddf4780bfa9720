//! What libFuzzer begins with, and bytes at random, without it.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Every file of both folders, and each with one bit changed, in every third byte.
#[test]
fn the_seeds_and_what_is_almost_one() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for folder in ["seeds", "../wopr-core/src/gateway/wire/recordings"] {
        for file in fs::read_dir(here.join(folder)).expect("a folder of seeds") {
            let bytes = fs::read(file.expect("a seed").path()).expect("a seed");
            all(&bytes);
            for place in (0..bytes.len()).step_by(3) {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << (place % 7);
                all(&changed);
            }
            count += 1;
        }
    }
    assert!(count > 15, "{count} seeds");
}

proptest! {
    #[test]
    fn bytes_at_random(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        all(&bytes);
    }
}

fn all(bytes: &[u8]) {
    wopr_fuzz::events(bytes);
    wopr_fuzz::translation(bytes);
    wopr_fuzz::bodies(bytes);
}
