//! Images, audio and files inside a prompt: base64 text that engines do not read as text.
//!
//! ```text
//!   {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0…"}}
//!   {"type":"input_audio","input_audio":{"format":"wav","data":"UklGRi…"}}
//!                                                               └─ span: the whole string
//! ```
//!
//! A picture of 1 MB is some thousand tokens to a model, and 262,000 to an estimate that counts
//! bytes. So the canonical form of a prompt contains a filler of fixed length in place of such a
//! string, made of its hash: prompts with different pictures differ, and each counts as a fixed
//! number of tokens.

use std::{iter, ops::Range};

use memchr::{memchr2, memmem};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a filler: as long as the text of 1,024 tokens. Vision models make 256 to some thousand
/// tokens of a picture, by its size in pixels, which base64 does not show.
pub(super) const FILLER_BYTES: u64 = 4 << 10;

/// Shorter strings count as text: an icon of this size is no more tokens than its text.
pub(super) const SHORTEST: usize = FILLER_BYTES as usize;

/// Bytes of a string's beginning that are kept to recognize it.
const HEAD: usize = 128;

/// Without one of these, JSON text has no media.
const SIGNS: [&[u8]; 2] = [b";base64,", b"\"data\""];

/// The longest of [`SIGNS`], less one: what may be cut off at the end of a piece.
const BORDER: usize = 7;

/// Strings of encoded media in JSON text that comes in pieces: the positions of their contents,
/// ascending. Text without any costs a search for [`SIGNS`].
pub(super) fn spans<'a>(pieces: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<Range<usize>> {
    if !has_sign(pieces.clone()) {
        return Vec::new();
    }
    let mut scan = MediaScan::default();
    pieces.for_each(|piece| scan.read(piece));
    scan.spans
}

/// The filler in place of a string with these contents.
pub(super) fn filler<'a>(contents: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hash = Xxh3::new();
    contents.for_each(|piece| hash.update(piece));
    let hash = hash.digest().to_le_bytes();
    iter::repeat_n(hash, SHORTEST / hash.len())
        .flatten()
        .collect()
}

fn has_sign<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> bool {
    let has = |text: &[u8]| SIGNS.iter().any(|sign| memmem::find(text, sign).is_some());
    let mut border: Vec<u8> = Vec::new();
    for piece in pieces {
        let (begin, end) = (piece.len().min(BORDER), piece.len().saturating_sub(BORDER));
        border.extend_from_slice(&piece[..begin]);
        if has(piece) || has(&border) {
            return true;
        }
        if piece.len() >= BORDER {
            border.clear();
            border.extend_from_slice(&piece[end..]);
        } else {
            let excess = border.len().saturating_sub(BORDER);
            border.drain(..excess);
        }
    }
    false
}

/// Follows the strings of valid JSON text.
#[derive(Default)]
struct MediaScan {
    /// Of the next byte.
    at: usize,
    /// Where the contents of the present string begin.
    string: Option<usize>,
    /// Of the present or the last string.
    head: Vec<u8>,
    is_escaped: bool,
    /// The last string was `data`.
    follows_data: bool,
    /// It is a key, and the present string its value.
    is_value_of_data: bool,
    spans: Vec<Range<usize>>,
}

impl MediaScan {
    fn read(&mut self, mut piece: &[u8]) {
        while let Some(&first) = piece.first() {
            let step = match self.string {
                _ if self.is_escaped => {
                    self.is_escaped = false;
                    self.keep(&[first]);
                    1
                }
                Some(start) => self.inside(start, piece),
                None => self.outside(piece),
            };
            self.at += step;
            piece = &piece[step..];
        }
    }

    /// Returns how many bytes were read.
    fn outside(&mut self, piece: &[u8]) -> usize {
        let Some(found) = memchr2(b'"', b':', piece) else {
            return piece.len();
        };
        if piece[found] == b':' {
            self.is_value_of_data = std::mem::take(&mut self.follows_data);
        } else {
            self.string = Some(self.at + found + 1);
            self.head.clear();
        }
        found + 1
    }

    /// Returns how many bytes were read.
    fn inside(&mut self, start: usize, piece: &[u8]) -> usize {
        let found = memchr2(b'"', b'\\', piece);
        self.keep(&piece[..found.unwrap_or(piece.len())]);
        let Some(found) = found else {
            return piece.len();
        };
        if piece[found] == b'\\' {
            self.is_escaped = true;
        } else {
            self.end(start..self.at + found);
        }
        found + 1
    }

    fn end(&mut self, contents: Range<usize>) {
        let is_value_of_data = std::mem::take(&mut self.is_value_of_data);
        if contents.len() >= SHORTEST && self.is_media(is_value_of_data) {
            self.spans.push(contents);
        }
        self.string = None;
        self.follows_data = self.head == b"data";
    }

    fn is_media(&self, is_value_of_data: bool) -> bool {
        let is_url =
            self.head.starts_with(b"data:") && memmem::find(&self.head, b";base64,").is_some();
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
        is_url || is_value_of_data && self.head.iter().all(is_base64)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base64(length: usize) -> String {
        "iVBORw0KGgo+/A9z".chars().cycle().take(length).collect()
    }

    fn found(json: &str) -> Vec<&str> {
        let spans = spans(iter::once(json.as_bytes()));
        spans.into_iter().map(|span| &json[span]).collect()
    }

    fn image(length: usize) -> String {
        format!("data:image/png;base64,{}", base64(length))
    }

    #[test]
    fn pictures_audio_and_files_of_all_apis_are_found() {
        let (image, audio) = (image(10_000), base64(20_000));
        let chat = format!(
            r#"[{{"role":"user","content":[{{"type":"text","text":"what \"data\": is this?"}},
            {{"type":"image_url","image_url":{{"url":"{image}"}}}},
            {{"type":"input_audio","input_audio":{{"format":"wav","data" : "{audio}"}}}}]}}]"#
        );
        assert_eq!(found(&chat), [&*image, &*audio]);
        let anthropic = format!(
            r#"[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{audio}"}}}}]"#
        );
        assert_eq!(found(&anthropic), [&*audio]);
        let responses = format!(r#"[{{"type":"input_image","image_url":"{image}"}}]"#);
        assert_eq!(found(&responses), [&*image]);
    }

    #[test]
    fn text_is_no_media() {
        let text = "data: these are the figures, as text; base64, they are not. ".repeat(200);
        let quoted = image(10_000);
        for json in [
            format!(r#"[{{"content":"{text}"}}]"#),
            format!(r#"[{{"data":"{text}"}}]"#),
            format!(r#"[{{"content":"look: {quoted}"}}]"#),
            format!(r#"[{{"content":"\"data\":\"{quoted}"}}]"#),
            format!(r#"[{{"type":"data","content":"{}"}}]"#, base64(10_000)),
            format!(r#"[{{"url":"{}"}}]"#, image(100)),
        ] {
            assert_eq!(found(&json), Vec::<&str>::new(), "{}", &json[..40]);
        }
    }

    #[test]
    fn a_filler_has_the_hash_of_all_its_contents_and_a_fixed_length() {
        let (one, other) = (base64(9_000), base64(9_001));
        let fill = |text: &str| filler(iter::once(text.as_bytes()));
        assert_eq!(fill(&one).len() as u64, FILLER_BYTES);
        assert_ne!(fill(&one), fill(&other));
        let halves = [&one.as_bytes()[..100], &one.as_bytes()[100..]];
        assert_eq!(filler(halves.into_iter()), fill(&one));
    }

    proptest! {
        #[test]
        fn pieces_cut_anywhere_have_the_media_of_the_whole(cuts in proptest::collection::vec(0..1_000usize, 0..6)) {
            let json = format!(
                r#"[{{"text":"a\\\"b"}},{{"data":"{}","url":"{}"}}]"#,
                base64(SHORTEST), image(SHORTEST),
            );
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut * json.len() / 1_000).collect();
            cuts.extend([0, 17, 18, 19, 20, json.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &json.as_bytes()[pair[0]..pair[1]]);
            let whole = spans(iter::once(json.as_bytes()));
            prop_assert_eq!(whole.len(), 2);
            prop_assert_eq!(spans(pieces), whole);
        }

        #[test]
        fn any_bytes_are_scanned(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let sign = b"\"data\":\"".as_slice();
            let pieces: Vec<&[u8]> = iter::once(sign).chain(pieces.iter().map(Vec::as_slice)).collect();
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            let spans = spans(pieces.into_iter());
            prop_assert!(spans.iter().all(|span| span.end <= length));
        }
    }
}
