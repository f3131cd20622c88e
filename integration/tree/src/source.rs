//! Rust code without what is not code: comments, the contents of strings, and unit tests become
//! spaces, so that lines and columns stay as they are.

use crate::tokens::{Token, tokens};

/// Words that begin an item, after its attributes and its visibility.
const ITEMS: [&str; 16] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
    "use",
];

/// Replaces comments and the contents of strings and character literals by spaces.
#[must_use]
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (begin, end, next) = literal(bytes, at);
        for byte in &mut out[begin..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Like [`blank`], and without the items that only tests see.
#[must_use]
pub fn production(text: &str) -> String {
    let code = blank(text);
    let mut out = code.clone().into_bytes();
    let tokens = tokens(&code);
    let mut at = 0;
    while at < tokens.len() {
        let Some(attribute) = test_attribute(&tokens, at) else {
            at += 1;
            continue;
        };
        let last = end_of_item(&tokens, attribute);
        let end = tokens.get(last).map_or(out.len(), Token::end);
        for byte in &mut out[tokens[at].at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = last + 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The index of the token that closes the one at `open`: a bracket of any kind.
#[must_use]
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// What to blank out at `at`, and where to go on.
fn literal(bytes: &[u8], at: usize) -> (usize, usize, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let end = find(bytes, b"\n", at);
        return (at, end, end);
    }
    if rest.starts_with(b"/*") {
        let end = end_of_comment(bytes, at);
        return (at, end, end);
    }
    if let Some((begin, end, next)) = raw_string(bytes, at) {
        return (begin, end, next);
    }
    if rest[0] == b'"' {
        let mut end = at + 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let end = end.min(bytes.len());
        return (at + 1, end, end + 1);
    }
    if rest[0] == b'\''
        && let Some(length) = character(rest)
    {
        return (at + 1, at + length - 1, at + length);
    }
    (at, at, at + 1)
}

/// Block comments nest.
fn end_of_comment(bytes: &[u8], begin: usize) -> usize {
    let (mut depth, mut at) = (0_usize, begin);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            break;
        }
    }
    at.min(bytes.len())
}

/// `r"…"`, `br#"…"#` and the like, which know no escapes.
fn raw_string(bytes: &[u8], at: usize) -> Option<(usize, usize, usize)> {
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let prefix = [&b"br"[..], b"cr", b"r"]
        .into_iter()
        .find(|prefix| bytes[at..].starts_with(prefix))?;
    let after = &bytes[at + prefix.len()..];
    let hashes = after.iter().take_while(|byte| **byte == b'#').count();
    if in_word || after.get(hashes) != Some(&b'"') {
        return None;
    }
    let begin = at + prefix.len() + hashes + 1;
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let end = find(bytes, &close, begin);
    Some((begin, end, (end + close.len()).min(bytes.len())))
}

/// The length of a character literal. A quote that closes nothing begins a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'')?;
        return Some(close + 4);
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(5)]);
    let valid = text.unwrap_or_else(|error| {
        std::str::from_utf8(&rest[1..=error.valid_up_to()]).unwrap_or_default()
    });
    let letter = valid.chars().next()?;
    let close = 1 + letter.len_utf8();
    (rest.get(close) == Some(&b'\'')).then_some(close + 1)
}

fn find(bytes: &[u8], needle: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest
        .windows(needle.len())
        .position(|window| window == needle);
    found.map_or(bytes.len(), |at| from + at)
}

/// If `#[cfg(test)]`, alone or in `all(…)`, begins here: the index after it.
fn test_attribute(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let texts: Vec<&str> = tokens
        .iter()
        .skip(at)
        .take(8)
        .map(|token| token.text)
        .collect();
    let is_test = texts.starts_with(&["#", "[", "cfg", "(", "test", ")"])
        || texts.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"]);
    is_test.then(|| closing(tokens, at + 1) + 1)
}

/// The index of the last token of what follows the attributes at `at`: an item, a field or a
/// statement.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    while text(at) == "#" {
        at = closing(tokens, at + 1) + 1;
    }
    if text(at) == "pub" {
        at += 1;
        if text(at) == "(" {
            at = closing(tokens, at) + 1;
        }
    }
    let (is_use, is_item) = (text(at) == "use", ITEMS.contains(&text(at)));
    while at < tokens.len() {
        match text(at) {
            ";" => return at,
            "," if !is_item => return at,
            "}" => return at - 1,
            "{" if !is_use => return closing(tokens, at),
            "(" | "[" | "{" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    at
}

#[test]
fn comments_strings_and_characters_become_spaces() {
    let text = "let a = \"x // y\"; // z\nlet b = r#\"\"q\"#; /* /* n */ m */ let c: &'static str = f('\"', '\\'', 'ü');";
    let code = blank(text);
    assert_eq!(code.lines().count(), 2);
    assert!(code.contains("let a = \"      \";"), "{code}");
    assert!(code.contains("let c: &'static str = f(' ', '  ', '  ');"));
    for gone in ["x", "z", "q", "n */", "ü"] {
        assert!(!code.contains(gone), "{gone} is left in {code}");
    }
}

#[test]
fn items_for_tests_are_cut_and_what_follows_them_stays() {
    let text = "struct A {\n    #[cfg(test)]\n    probe: u8,\n    kept: u8,\n}\n#[cfg(test)]\nuse a::{b, c};\n\
        #[cfg(test)]\n#[allow(dead_code)]\npub(crate) fn only<T, U>() { {} }\nfn last() {}\n#[cfg(test)]\nmod tests;\n";
    let code = production(text);
    for gone in ["probe", "use", "only", "tests"] {
        assert!(!code.contains(gone), "{gone} is left in {code}");
    }
    assert!(code.contains("kept: u8") && code.contains("fn last() {}"));
    assert_eq!(code.lines().count(), text.lines().count());
}
