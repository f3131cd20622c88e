//! Whether the text of a JSON object that arrives in fragments is complete.

/// Follows the braces of one object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JsonProgress {
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    is_complete: bool,
    is_trailed: bool,
}

impl JsonProgress {
    pub(super) fn follow(&mut self, fragment: &str) {
        for byte in fragment.bytes() {
            if self.is_complete {
                self.is_trailed |= !byte.is_ascii_whitespace();
            } else if self.in_string {
                self.in_string = byte != b'"' || self.is_escaped;
                self.is_escaped = byte == b'\\' && !self.is_escaped;
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        self.is_complete = self.depth == 0;
                    }
                    _ => {}
                }
            }
        }
    }

    /// The object ended.
    pub(super) const fn is_complete(self) -> bool {
        self.is_complete
    }

    /// There is something behind its end.
    pub(super) const fn is_trailed(self) -> bool {
        self.is_trailed
    }
}

#[cfg(test)]
mod tests {
    use super::JsonProgress;

    #[test]
    fn an_object_is_complete_at_its_last_brace() {
        let text = r#" {"a": "}\"\\", "b": [{"c": 1}]} "#;
        let end = text.trim_end().len();
        let mut progress = JsonProgress::default();
        for (at, letter) in text.char_indices() {
            progress.follow(&text[at..at + letter.len_utf8()]);
            assert_eq!(progress.is_complete(), at + 1 >= end, "{at}");
        }
        assert!(!progress.is_trailed());
        progress.follow("x");
        assert!(progress.is_trailed());
    }
}
