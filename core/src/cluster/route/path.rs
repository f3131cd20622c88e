//! Paths of requests: what they are matched by, and how a prefix is replaced.
//!
//! A path is compared as the client sent it, byte by byte. One that servers could read as another
//! path, since they resolve `..`, follows no route; see [`has_dot_segment`].

use std::sync::Arc;

use serde::Serialize;

use super::TextPattern;

/// What the path of a request has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// This.
    Exact(Arc<str>),
    /// This, or one below it: `/a` and `/a/` match `/a`, `/a/` and `/a/b`, and not `/ab`.
    Prefix(Arc<str>),
    /// One that matches as a whole.
    Pattern(TextPattern),
}

// === PathMatch ===

impl PathMatch {
    /// Whether it is `path`, which has no query.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *path,
            Self::Prefix(prefix) => is_under(path, prefix),
            Self::Pattern(pattern) => pattern.matches(path.as_bytes()),
        }
    }
}

/// Whether `path` is `prefix`, or below it; a slash at the end of the prefix has no meaning.
#[must_use]
pub fn is_under(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the text can be the path of a match or of a filter: it begins with a slash, has only
/// characters of a path, with well-formed escapes, and no segment that is empty, `.` or `..`.
#[must_use]
pub fn is_route_path(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let is_digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
        let is_right = match byte {
            b'%' => is_digit(bytes.next()) && is_digit(bytes.next()),
            _ => byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !is_right {
            return false;
        }
    }
    text.starts_with('/') && !text.contains("//") && !has_dot_segment(text)
}

/// Whether some server may read a segment of the path as `.` or `..`, and so the path as another
/// one than it is matched as: segments are looked for behind `/`, `\` and their escapes.
#[must_use]
pub fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    // Of the segment so far: its dots, if it has nothing else.
    let (mut dots, mut at) = (Some(0), 0);
    while at < bytes.len() {
        let (byte, width) = unescaped(&bytes[at..]);
        dots = match byte {
            b'/' | b'\\' if matches!(dots, Some(1 | 2)) => return true,
            b'/' | b'\\' => Some(0),
            b'.' => dots.map(|dots: usize| dots + 1),
            // Some servers cut parameters off a segment: `..;a=b`.
            b';' if matches!(dots, Some(1 | 2)) => return true,
            _ => None,
        };
        at += width;
    }
    matches!(dots, Some(1 | 2))
}

/// The first byte of `bytes`, which is not empty, and of how many it is written.
fn unescaped(bytes: &[u8]) -> (u8, usize) {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    match (bytes[0], digit(1), digit(2)) {
        (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
        (byte, ..) => (byte, 1),
    }
}

/// `path`, which is [under](is_under) `prefix`, with `replacement` in place of that; slashes at the
/// ends of both have no meaning, and the result is never empty.
#[must_use]
pub fn with_prefix_replaced(path: &str, prefix: &str, replacement: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let replaced = format!("{}{rest}", replacement.trim_end_matches('/'));
    if replaced.is_empty() {
        "/".to_owned()
    } else {
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_whole_segments() {
        for prefix in ["/abc", "/abc/"] {
            for path in ["/abc", "/abc/", "/abc/def"] {
                assert!(is_under(path, prefix), "{path} under {prefix}");
            }
            for path in ["/abcd", "/ab", "/", "/ABC"] {
                assert!(!is_under(path, prefix), "{path} under {prefix}");
            }
        }
        assert!(is_under("/", "/") && is_under("/x", "/"));
    }

    /// The table of `HTTPPathModifier.replacePrefixMatch`.
    #[test]
    fn a_prefix_is_replaced_as_the_specification_says() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
        ] {
            let replaced = with_prefix_replaced(path, prefix, replacement);
            assert_eq!(replaced, expected, "{path}, {prefix}, {replacement}");
        }
    }

    #[test]
    fn a_path_that_servers_may_resolve_is_found() {
        for path in [
            "/..",
            "/a/../b",
            "/a/.",
            "/./a",
            "/a/%2e%2e/b",
            "/a/.%2E",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a%5c..",
            "/a/..;/b",
            "/a/..;x=1/b",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in [
            "/",
            "/a/b",
            "/a/...",
            "/a.b/c..d",
            "/.well-known/x",
            "/a%2fb",
            "/a/%",
            "/a//b",
        ] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn a_path_of_a_match_has_no_query_and_no_odd_segment() {
        for path in ["/", "/v1/models", "/a/", "/a%20b", "/a:b@c"] {
            assert!(is_route_path(path), "{path}");
        }
        for path in [
            "", "a", "/a?b", "/a#b", "/a b", "/a//b", "/a/../b", "/a%2", "/ä",
        ] {
            assert!(!is_route_path(path), "{path}");
        }
    }
}
