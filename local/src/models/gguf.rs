//! A language model in GGUF version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! Two layers of the `llama` architecture, 64 wide. Its vocabulary is the 256 bytes, some words with their beginnings
//! (the tokeniser joins a word from left to right), and punctuation. One channel of every embedding is constant and no
//! layer writes to it, so the output weight on that channel is a bias per token: words are likely, an end is likely now
//! and then, single bytes and beginnings of words are left to grammars that ask for them.

use std::collections::BTreeMap;

use super::half;
use super::random::Random;

/// Vectors have this many numbers.
const WIDTH: usize = 64;
/// Attention heads of a layer.
const HEADS: u32 = 4;
/// Numbers of a head.
const HEAD_WIDTH: u32 = 16;
/// Width of the feed-forward part.
const INNER_WIDTH: usize = 128;
const LAYERS: u32 = 2;
/// How many tokens a conversation may have.
const CONTEXT_TOKENS: u32 = 8192;
/// Tensors begin at multiples of this, the format's default.
const ALIGNMENT: usize = 32;
const SEED: u64 = 0x574f_5052;

/// The constant channel: 2.0 in every embedding.
const CONSTANT: i16 = 2048;
/// Output weights on the constant channel, in units of 1/1024.
const LIKELY: i16 = 0;
/// About one token in forty.
const NOW_AND_THEN: i16 = 768;
const UNLIKELY: i16 = -1024;
const NEVER: i16 = -4096;

/// Kinds of tokens, numbers of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    Byte = 6,
}

#[derive(Debug)]
struct Token {
    text: String,
    kind: Kind,
    /// Pairs of symbols whose joint text has the highest score are joined first.
    score: f32,
    bias: i16,
}

const PUNCTUATION: &str = ".,:;!?\"'()[]{}-0123456789";

/// The whole file. The same bytes each time.
pub fn model() -> Vec<u8> {
    let tokens = vocabulary();
    let mut file = Writer::default();
    let tensors = tensors(&tokens);
    file.bytes(b"GGUF");
    file.u32(3);
    file.count(tensors.len());
    let metadata = metadata(&tokens);
    file.count(metadata.len());
    for (key, value) in &metadata {
        file.string(key);
        value.write(&mut file);
    }
    let mut offset = 0;
    for tensor in &tensors {
        file.string(&tensor.name);
        file.u32(u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX));
        for length in &tensor.shape {
            file.count(*length);
        }
        file.u32(tensor.format);
        file.count(offset);
        offset += tensor.content.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in &tensors {
        file.align();
        file.bytes(&tensor.content);
    }
    file.align();
    file.0
}

fn vocabulary() -> Vec<Token> {
    let special = |text: &str, kind, bias| Token { text: text.to_owned(), kind, score: 0.0, bias };
    let mut tokens = vec![
        special("<unk>", Kind::Unknown, NEVER),
        special("<s>", Kind::Control, NEVER),
        special("</s>", Kind::Control, NOW_AND_THEN),
    ];
    tokens.extend((0..=u8::MAX).map(|byte| special(&format!("<0x{byte:02X}>"), Kind::Byte, NEVER)));
    let mut pieces: BTreeMap<String, i16> = BTreeMap::new();
    for word in super::words() {
        let word = format!("\u{2581}{word}");
        let beginnings = word.char_indices().skip(1).map(|(end, _)| word[..end].to_owned());
        for beginning in beginnings.collect::<Vec<_>>() {
            pieces.entry(beginning).or_insert(NEVER);
        }
        pieces.insert(word, LIKELY);
    }
    tokens.extend(pieces.into_iter().map(|(text, bias)| Token { text, kind: Kind::Normal, score: -1.0, bias }));
    tokens.extend(PUNCTUATION.chars().map(|character| {
        // A quotation mark ends the strings of structured answers, as an end of text ends the others.
        let bias = if character == '"' { NOW_AND_THEN } else { UNLIKELY };
        Token { text: character.to_string(), kind: Kind::Normal, score: -2.0, bias }
    }));
    tokens
}

/// A value of the file's head.
enum Value<'a> {
    Number(u32),
    Fraction(f32),
    Text(&'a str),
    Flag(bool),
    Texts(Vec<&'a str>),
    Fractions(Vec<f32>),
    Kinds(Vec<Kind>),
}

impl Value<'_> {
    fn write(&self, file: &mut Writer) {
        match self {
            Self::Number(number) => {
                file.u32(4);
                file.u32(*number);
            }
            Self::Fraction(fraction) => {
                file.u32(6);
                file.bytes(&fraction.to_le_bytes());
            }
            Self::Flag(flag) => {
                file.u32(7);
                file.bytes(&[u8::from(*flag)]);
            }
            Self::Text(text) => {
                file.u32(8);
                file.string(text);
            }
            Self::Texts(texts) => {
                file.array(8, texts.len());
                for text in texts {
                    file.string(text);
                }
            }
            Self::Fractions(fractions) => {
                file.array(6, fractions.len());
                for fraction in fractions {
                    file.bytes(&fraction.to_le_bytes());
                }
            }
            Self::Kinds(kinds) => {
                file.array(5, kinds.len());
                for kind in kinds {
                    file.u32(*kind as u32);
                }
            }
        }
    }
}

fn metadata(tokens: &[Token]) -> Vec<(&'static str, Value<'_>)> {
    let template =
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:";
    let width = u32::try_from(WIDTH).unwrap_or(u32::MAX);
    vec![
        ("general.architecture", Value::Text("llama")),
        ("general.name", Value::Text("wopr-tiny")),
        ("general.description", Value::Text("random weights that say words; for local stacks and tests")),
        ("general.alignment", Value::Number(u32::try_from(ALIGNMENT).unwrap_or(u32::MAX))),
        ("general.file_type", Value::Number(1)), // mostly half precision
        ("llama.context_length", Value::Number(CONTEXT_TOKENS)),
        ("llama.embedding_length", Value::Number(width)),
        ("llama.block_count", Value::Number(LAYERS)),
        ("llama.feed_forward_length", Value::Number(u32::try_from(INNER_WIDTH).unwrap_or(u32::MAX))),
        ("llama.attention.head_count", Value::Number(HEADS)),
        ("llama.attention.head_count_kv", Value::Number(HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Fraction(1e-5)),
        ("llama.rope.dimension_count", Value::Number(HEAD_WIDTH)),
        ("llama.vocab_size", Value::Number(u32::try_from(tokens.len()).unwrap_or(u32::MAX))),
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens.iter().map(|token| token.text.as_str()).collect())),
        ("tokenizer.ggml.scores", Value::Fractions(tokens.iter().map(|token| token.score).collect())),
        ("tokenizer.ggml.token_type", Value::Kinds(tokens.iter().map(|token| token.kind).collect())),
        ("tokenizer.ggml.unknown_token_id", Value::Number(0)),
        ("tokenizer.ggml.bos_token_id", Value::Number(1)),
        ("tokenizer.ggml.eos_token_id", Value::Number(2)),
        ("tokenizer.ggml.add_bos_token", Value::Flag(true)),
        ("tokenizer.ggml.add_eos_token", Value::Flag(false)),
        ("tokenizer.ggml.add_space_prefix", Value::Flag(true)),
        ("tokenizer.chat_template", Value::Text(template)),
    ]
}

struct Tensor {
    name: String,
    /// Innermost dimension first.
    shape: Vec<usize>,
    /// 0: single precision, 1: half precision.
    format: u32,
    content: Vec<u8>,
}

impl Tensor {
    /// A matrix in half precision from numbers in units of 1/1024, by row and column.
    fn matrix(name: String, rows: usize, columns: usize, mut number: impl FnMut(usize, usize) -> i16) -> Self {
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let content = cells.flat_map(|(row, column)| half::bits(number(row, column)).to_le_bytes()).collect();
        Self { name, shape: vec![columns, rows], format: 1, content }
    }

    /// The factors of a normalisation: all one.
    fn ones(name: String) -> Self {
        Self { name, shape: vec![WIDTH], format: 0, content: 1_f32.to_le_bytes().repeat(WIDTH) }
    }
}

fn tensors(tokens: &[Token]) -> Vec<Tensor> {
    let mut random = Random::new(SEED);
    let mut tensors = vec![Tensor::matrix("token_embd.weight".to_owned(), tokens.len(), WIDTH, |_, column| {
        if column == 0 { CONSTANT } else { random.within(512) }
    })];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.push(Tensor::ones(name("attn_norm")));
        for part in ["attn_q", "attn_k", "attn_v"] {
            tensors.push(Tensor::matrix(name(part), WIDTH, WIDTH, |_, _| random.within(320)));
        }
        // The first row of what is added to the stream stays zero: that is the constant channel.
        let mut added = |row: usize| if row == 0 { 0 } else { random.within(64) };
        tensors.push(Tensor::matrix(name("attn_output"), WIDTH, WIDTH, |row, _| added(row)));
        tensors.push(Tensor::matrix(name("ffn_down"), WIDTH, INNER_WIDTH, |row, _| added(row)));
        tensors.push(Tensor::ones(name("ffn_norm")));
        for part in ["ffn_gate", "ffn_up"] {
            tensors.push(Tensor::matrix(name(part), INNER_WIDTH, WIDTH, |_, _| random.within(256)));
        }
    }
    tensors.push(Tensor::ones("output_norm.weight".to_owned()));
    tensors.push(Tensor::matrix("output.weight".to_owned(), tokens.len(), WIDTH, |row, column| {
        let bias = tokens.get(row).map_or(NEVER, |token| token.bias);
        match (column, bias) {
            (0, bias) => bias,
            (_, LIKELY) => random.within(320),
            _ => 0,
        }
    }));
    tensors
}

/// Numbers in the file are little-endian.
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
        self.bytes(&(count as u64).to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn array(&mut self, element: u32, length: usize) {
        self.u32(9);
        self.u32(element);
        self.count(length);
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_same_bytes_each_time() {
        let model = model();
        assert!(model.len() < 1_000_000, "{} bytes", model.len());
        assert_eq!(
            hex::encode(Sha256::digest(&model)),
            "9f1ab9e2ff789d9205bbe3bba2366c9ec13eeef8a76b9e1d56b83ead2270bd7f"
        );
    }

    #[test]
    fn a_word_is_joined_from_pieces_that_are_all_tokens() {
        let tokens = vocabulary();
        let known = |text: &str| tokens.iter().filter(|token| token.text == text).count();
        for word in crate::models::words() {
            let word = format!("\u{2581}{word}");
            for (end, character) in word.char_indices().skip(1) {
                let piece = &word[..end + character.len_utf8()];
                assert_eq!(known(piece), 1, "{piece}");
            }
        }
        assert_eq!(tokens[2].text, "</s>");
        assert_eq!(tokens[3].text, "<0x00>");
    }

    #[test]
    fn tensors_begin_where_the_head_says() {
        let tokens = vocabulary();
        let tensors = tensors(&tokens);
        let sizes: Vec<usize> = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).collect();
        for (tensor, size) in tensors.iter().zip(&sizes) {
            assert_eq!(tensor.content.len(), size * if tensor.format == 0 { 4 } else { 2 }, "{}", tensor.name);
        }
        let content: usize = tensors.iter().map(|tensor| tensor.content.len().next_multiple_of(ALIGNMENT)).sum();
        let model = model();
        assert_eq!((model.len() - content) % ALIGNMENT, 0);
        assert!(model.starts_with(b"GGUF\x03\0\0\0"));
    }
}
