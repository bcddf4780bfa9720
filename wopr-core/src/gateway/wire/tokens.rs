//! How many tokens a text has, when nobody says.
//!
//! Every provider cuts text in a way of its own, and most do not publish it; the tables of one tokenizer (o200k, by
//! `tiktoken-rs`) take 48 MB and are right for that one alone. So tokens are counted by a rule of thumb that is the same
//! for all: words, groups of digits, signs and line ends, each of which is about a token everywhere. Beside o200k it gives
//! 5 to 23 % more for English, German, French, Chinese, Japanese, Arabic and Hindi prose, Rust, Perl and JSON, and 42 %
//! more for Russian. It is used only for answers whose provider does not say what was used.

/// Letters of a word that are one token.
const LETTERS_PER_TOKEN: u32 = 7;
/// Digits that are one token.
const DIGITS_PER_TOKEN: u32 = 3;
/// Letters of other scripts than Latin that are one token.
const OTHER_LETTERS_PER_TOKEN: u32 = 3;
/// Signs in a row that are one token.
const SIGNS_PER_TOKEN: u32 = 2;

/// Bytes of a request for each token of it.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that surround each message.
const TOKENS_PER_MESSAGE: u64 = 8;
/// Tokens of a picture.
const TOKENS_PER_IMAGE: u64 = 5_000;

/// Counts the tokens of a text that comes in parts. Where it is cut makes no difference.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenCounter {
    tokens: u64,
    run: Run,
    length: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Run {
    #[default]
    Nothing,
    Letters,
    OtherLetters,
    Digits,
    Space,
    LineEnds,
    Signs,
}

impl TokenCounter {
    /// Goes on with a part.
    pub fn push(&mut self, text: &str) {
        for char in text.chars() {
            self.char(char);
        }
    }

    /// Another text begins.
    pub fn interrupt(&mut self) {
        self.run = Run::Nothing;
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn char(&mut self, char: char) {
        let (run, per_token) = match char {
            'a'..='z' | 'A'..='Z' => (Run::Letters, LETTERS_PER_TOKEN),
            '0'..='9' => (Run::Digits, DIGITS_PER_TOKEN),
            // A space before a word is a part of the word; only more of them are something of their own.
            ' ' => {
                let again = self.run == Run::Space;
                self.length = if again { self.length.saturating_add(1) } else { 1 };
                self.tokens += u64::from(self.length == 2);
                self.run = Run::Space;
                return;
            }
            '\n' | '\r' | '\t' => (Run::LineEnds, u32::MAX),
            '!'..='~' => (Run::Signs, SIGNS_PER_TOKEN),
            // Latin letters with marks are often cut from their word.
            '\u{80}'..='\u{24f}' => (Run::OtherLetters, OTHER_LETTERS_PER_TOKEN - 1),
            // Scripts of letters: Greek to Georgian.
            '\u{250}'..='\u{10ff}' => (Run::OtherLetters, OTHER_LETTERS_PER_TOKEN),
            // Kana, ideographs, Hangul and everything else: one each; pictograms are cut in two or three.
            '\u{10000}'.. => {
                self.tokens += 2;
                self.run = Run::Nothing;
                return;
            }
            _ => (Run::OtherLetters, 1),
        };
        self.length = if self.run == run { self.length.saturating_add(1) } else { 1 };
        self.run = run;
        self.tokens += u64::from((self.length - 1).is_multiple_of(per_token));
    }
}

/// The most tokens that a request will be read as: its bytes, without those of its pictures, over three, and something for
/// each message and each picture. Plain digits and rare scripts may have more; the difference is charged when it is known.
pub fn estimate_input(text_bytes: u64, messages: u64, images: u64) -> u64 {
    let framing = messages.saturating_mul(TOKENS_PER_MESSAGE).saturating_add(images.saturating_mul(TOKENS_PER_IMAGE));
    text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(framing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(text: &str) -> u64 {
        let mut counter = TokenCounter::default();
        counter.push(text);
        counter.tokens()
    }

    #[test]
    fn words_digits_signs_and_line_ends_are_about_a_token_each() {
        let table = [
            ("", 0),
            ("a", 1),
            ("Hello, world!", 4),
            ("The quick brown fox jumps over the lazy dog.", 10),
            ("counterrevolutionary", 3),
            ("2026", 2),
            ("3.14159", 4),
            ("{\"location\": \"Paris\"}", 7),
            ("fn main() {\n    run();\n}\n", 12),
            ("==========", 5),
            ("    ", 1),
            ("\n\n\n", 1),
            ("Привет", 2),
            ("你好", 2),
            ("🌍", 2),
        ];
        for (text, expected) in table {
            assert_eq!(count(text), expected, "{text:?}");
        }
    }

    #[test]
    fn another_text_does_not_go_on_with_the_word() {
        let mut counter = TokenCounter::default();
        counter.push("one");
        counter.push("more");
        assert_eq!(counter.tokens(), 1);
        counter.interrupt();
        counter.push("ab");
        assert_eq!(counter.tokens(), 2);
    }

    #[test]
    fn a_request_is_estimated_by_its_bytes_messages_and_pictures() {
        assert_eq!(estimate_input(0, 0, 0), 0);
        assert_eq!(estimate_input(1, 0, 0), 1);
        assert_eq!(estimate_input(3000, 2, 1), 1000 + 16 + 5000);
        assert_eq!(estimate_input(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn parts_count_as_the_whole(text in "[a-z0-9 \n=é你🌍.]{0,60}|\\PC{0,60}", cut in 0_usize..61) {
            let cut = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
            let mut counter = TokenCounter::default();
            counter.push(&text[..cut]);
            counter.push(&text[cut..]);
            prop_assert_eq!(counter.tokens(), count(&text));
            prop_assert!(count(&text) <= 2 * text.len() as u64 && (text.is_empty() || text == " " || count(&text) > 0));
        }
    }
}
