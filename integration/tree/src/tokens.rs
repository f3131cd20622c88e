//! Words and signs of code that [`crate::source::blank`] has gone over.

/// A word, a number, `::`, or one sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As written.
    pub text: &'a str,
    /// Where it begins, in bytes.
    pub at: usize,
    /// Its line, from 1.
    pub line: usize,
}

/// All tokens of `code`, in order. Lifetimes are a quote and a word.
#[must_use]
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let length = match bytes[at] {
            b'\n' => {
                line += 1;
                0
            }
            byte if byte.is_ascii_whitespace() || !byte.is_ascii() => 0,
            byte if is_word(byte) => bytes[at..]
                .iter()
                .take_while(|byte| is_word(**byte))
                .count(),
            b':' if bytes[at..].starts_with(b"::") => 2,
            _ => 1,
        };
        if length > 0 {
            let text = &code[at..at + length];
            found.push(Token { text, at, line });
        }
        at += length.max(1);
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

// === Token ===

impl Token<'_> {
    /// Where it ends, in bytes.
    #[must_use]
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }

    /// Whether it can be a name.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.text
            .starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
    }
}

#[test]
fn words_paths_and_signs_are_tokens_with_their_lines() {
    let texts: Vec<(&str, usize)> = tokens("a::b(\n 'c, 1_0)")
        .iter()
        .map(|token| (token.text, token.line))
        .collect();
    let expected = [
        ("a", 1),
        ("::", 1),
        ("b", 1),
        ("(", 1),
        ("'", 2),
        ("c", 2),
        (",", 2),
        ("1_0", 2),
        (")", 2),
    ];
    assert_eq!(texts, expected);
}
