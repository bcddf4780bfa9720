//! A speech recognition model in the format of whisper.cpp:
//! <https://github.com/ggml-org/whisper.cpp/blob/master/models/convert-pt-to-ggml.py>.
//!
//! One layer on each side, 64 wide, English only. As in [`super::gguf`] one channel makes a bias per token: the last
//! normalisation puts one into it, and the embedding of a token, which is its output weight as well, holds the bias.
//! Texts are a few words that nobody said.

use super::half;
use super::random::Random;

/// First bytes of the file.
const MAGIC: u32 = 0x6767_6d6c;
/// The vocabulary of the English-only models; programs know its special tokens by number.
const TOKENS: usize = 51_864;
/// Tokens that stand for text; the first one after them ends a text.
const TEXT_TOKENS: usize = 50_256;
/// The token that the server looks up as a single space.
const SPACE: usize = 220;
const WIDTH: usize = 64;
const INNER_WIDTH: usize = 4 * WIDTH;
/// Positions of sound, 30 seconds.
const SOUND_POSITIONS: usize = 1500;
const TEXT_POSITIONS: usize = 448;
const MELS: usize = 80;
/// Frequencies of a window of 400 samples.
const FREQUENCIES: usize = 201;
const SEED: u64 = 0x574f_5053;

/// Biases of tokens in units of 1/1024.
const END: i16 = 5632;
const SPECIAL: i16 = -16_384;

/// The whole file. The same bytes each time.
pub fn model() -> Vec<u8> {
    let mut file = Writer::default();
    let mut random = Random::new(SEED);
    file.u32(MAGIC);
    // Vocabulary, sound (positions, width, heads, layers), text (the same), frequencies bands, half precision.
    for number in [TOKENS, SOUND_POSITIONS, WIDTH, 1, 1, TEXT_POSITIONS, WIDTH, 1, 1, MELS, 1] {
        file.count(number);
    }
    filters(&mut file);
    vocabulary(&mut file);
    sound(&mut file, &mut random);
    text(&mut file, &mut random);
    file.0
}

/// Which frequencies make up a band: each takes a few neighbours in equal parts.
fn filters(file: &mut Writer) {
    file.count(MELS);
    file.count(FREQUENCIES);
    for band in 0..MELS {
        for frequency in 0..FREQUENCIES {
            let taken = (2 * band..2 * band + 4).contains(&frequency);
            let share: f32 = if taken { 0.25 } else { 0.0 };
            file.bytes(&share.to_le_bytes());
        }
    }
}

fn vocabulary(file: &mut Writer) {
    let words: Vec<String> = super::words().map(|word| format!(" {word}")).collect();
    file.count(TEXT_TOKENS);
    for token in 0..TEXT_TOKENS {
        let word = if token == SPACE { " " } else { words[token % words.len()].as_str() };
        file.count(word.len());
        file.bytes(word.as_bytes());
    }
}

fn sound(file: &mut Writer, random: &mut Random) {
    file.singles("encoder.positional_embedding", &[WIDTH, SOUND_POSITIONS], |_| random.within(128));
    file.halves("encoder.conv1.weight", &[3, MELS, WIDTH], |_| random.within(128));
    file.singles("encoder.conv1.bias", &[1, WIDTH], |_| 0);
    file.halves("encoder.conv2.weight", &[3, WIDTH, WIDTH], |_| random.within(128));
    file.singles("encoder.conv2.bias", &[1, WIDTH], |_| 0);
    file.norm("encoder.ln_post");
    file.feed_forward("encoder.blocks.0", random);
    file.attention("encoder.blocks.0.attn", random);
}

fn text(file: &mut Writer, random: &mut Random) {
    file.singles("decoder.positional_embedding", &[WIDTH, TEXT_POSITIONS], |_| random.within(512));
    file.halves("decoder.token_embedding.weight", &[WIDTH, TOKENS], |cell| match (cell / WIDTH, cell % WIDTH) {
        (TEXT_TOKENS, 0) => END,
        (token, 0) if token > TEXT_TOKENS => SPECIAL,
        (_, 0) => 0,
        _ => random.within(192),
    });
    let constant = |cell: usize| if cell == 0 { (0, 1024) } else { (1024, 0) };
    file.singles("decoder.ln.weight", &[WIDTH], |cell| constant(cell).0);
    file.singles("decoder.ln.bias", &[WIDTH], |cell| constant(cell).1);
    file.feed_forward("decoder.blocks.0", random);
    file.attention("decoder.blocks.0.attn", random);
    file.attention("decoder.blocks.0.cross_attn", random);
}

/// Numbers in the file are little-endian; tensors give their innermost dimension first.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn head(&mut self, name: &str, format: u32, shape: &[usize]) -> usize {
        self.count(shape.len());
        self.count(name.len());
        self.u32(format);
        for length in shape {
            self.count(*length);
        }
        self.bytes(name.as_bytes());
        shape.iter().product()
    }

    /// A tensor in half precision, from numbers in units of 1/1024 by cell.
    fn halves(&mut self, name: &str, shape: &[usize], mut number: impl FnMut(usize) -> i16) {
        for cell in 0..self.head(name, 1, shape) {
            self.bytes(&half::bits(number(cell)).to_le_bytes());
        }
    }

    /// The same in single precision.
    fn singles(&mut self, name: &str, shape: &[usize], mut number: impl FnMut(usize) -> i16) {
        for cell in 0..self.head(name, 0, shape) {
            self.bytes(&half::single(number(cell)).to_le_bytes());
        }
    }

    fn norm(&mut self, name: &str) {
        self.singles(&format!("{name}.weight"), &[WIDTH], |_| 1024);
        self.singles(&format!("{name}.bias"), &[WIDTH], |_| 0);
    }

    fn linear(&mut self, name: &str, from: usize, to: usize, random: &mut Random) {
        self.halves(&format!("{name}.weight"), &[from, to], |_| random.within(192));
        self.singles(&format!("{name}.bias"), &[to], |_| 0);
    }

    fn feed_forward(&mut self, block: &str, random: &mut Random) {
        self.norm(&format!("{block}.mlp_ln"));
        self.linear(&format!("{block}.mlp.0"), WIDTH, INNER_WIDTH, random);
        self.linear(&format!("{block}.mlp.2"), INNER_WIDTH, WIDTH, random);
    }

    fn attention(&mut self, name: &str, random: &mut Random) {
        self.norm(&format!("{name}_ln"));
        self.linear(&format!("{name}.query"), WIDTH, WIDTH, random);
        self.halves(&format!("{name}.key.weight"), &[WIDTH, WIDTH], |_| random.within(192));
        self.linear(&format!("{name}.value"), WIDTH, WIDTH, random);
        self.linear(&format!("{name}.out"), WIDTH, WIDTH, random);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_same_bytes_each_time() {
        assert_eq!(
            hex::encode(Sha256::digest(model())),
            "43f487b32e0911b9d8ba3a7e14fe7a2479b2955ee605d1812f1d714a62bcb21f"
        );
    }
}
