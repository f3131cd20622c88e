//! Reads the Prometheus text format, and OpenMetrics as far as the two agree.
//!
//! Engines answer with some 600 lines of which a scrape wants about ten, so the reader is lazy: a
//! line whose name is not wanted costs a search for its end and for the end of its name. Nothing is
//! copied but labels with escapes.
//!
//! Invariants:
//! * any bytes may come in: what cannot be read is skipped and counted, never a panic, and time is
//!   linear in the page;
//! * lines and label sets have a bound ([`MAX_LINE`], [`MAX_LABELS`]); the page's own bound is the
//!   fetcher's.
//!
//! Not here: types and help texts (`#` lines are passed over), timestamps, exemplars, and names in
//! quotes (`{"name", …}`), which no engine uses.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

/// Longest line in bytes that is read. The longest of a real page, a cache configuration, has about
/// one thousand.
pub const MAX_LINE: usize = 32 << 10;

/// Most labels of one sample. A cache configuration of vLLM 0.32 has about forty.
pub const MAX_LABELS: usize = 128;

/// The samples of a page whose names are wanted, in the page's order.
#[derive(Debug)]
pub struct ExpositionSamples<'a, W> {
    rest: &'a [u8],
    wanted: W,
    named: u64,
    skipped: u64,
}

/// One line of a page: `name{label="value",…} value`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpositionSample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Its labels.
    pub labels: SampleLabels<'a>,
    /// Its value; may be infinite or not a number.
    pub value: f64,
}

/// The labels of one sample, checked once and read on demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleLabels<'a>(&'a str);

/// Reads `page`, and of it only the lines whose name `wanted` accepts.
pub fn samples<W: Fn(&str) -> bool>(page: &[u8], wanted: W) -> ExpositionSamples<'_, W> {
    ExpositionSamples {
        rest: page,
        wanted,
        named: 0,
        skipped: 0,
    }
}

// === ExpositionSamples ===

impl<W> ExpositionSamples<'_, W> {
    /// Lines so far that begin as a sample does, wanted or not. Zero for a page in another format.
    pub fn named(&self) -> u64 {
        self.named
    }

    /// Lines so far that were neither blank, nor a comment, nor understood.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl<'a, W: Fn(&str) -> bool> Iterator for ExpositionSamples<'a, W> {
    type Item = ExpositionSample<'a>;

    fn next(&mut self) -> Option<ExpositionSample<'a>> {
        while !self.rest.is_empty() {
            let line = take_line(&mut self.rest).trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let Some((name, tail)) = split_name(line) else {
                self.skipped += 1;
                continue;
            };
            self.named += 1;
            if !(self.wanted)(name) {
                continue;
            }
            let read = read_tail(tail).map(|(labels, value)| ExpositionSample {
                name,
                labels,
                value,
            });
            if read.is_some() {
                return read;
            }
            self.skipped += 1;
        }
        None
    }
}

// === SampleLabels ===

impl<'a> SampleLabels<'a> {
    /// The value of the first label of this name.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.iter()
            .find(|(label, _)| *label == name)
            .map(|(_, value)| value)
    }

    /// Names and unescaped values, in the page's order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, raw, after) = split_label(rest)?;
            rest = after;
            Some((name, unescape(raw)))
        })
    }

    /// The labels that `text` begins with, after its opening brace, and what follows the closing
    /// one.
    fn split(text: &'a str) -> Option<(Self, &'a str)> {
        let mut rest = text;
        for _ in 0..=MAX_LABELS {
            if let Some(after) = rest.trim_start().strip_prefix('}') {
                return Some((Self(&text[..text.len() - rest.len()]), after));
            }
            rest = split_label(rest)?.2;
        }
        None
    }
}

// === Steps ===

/// Takes the bytes up to the next line feed off the front of `rest`.
fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some(end) = memchr(b'\n', rest) else {
        return std::mem::take(rest);
    };
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    line
}

/// A metric's name, `[a-zA-Z_:][a-zA-Z0-9_:]*`, and the bytes after it. `None` for lines of another
/// kind or too long.
fn split_name(line: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr3(b'{', b' ', b'\t', line)?;
    let (name, tail) = line.split_at(end);
    if line.len() > MAX_LINE || !is_name(name) {
        return None;
    }
    Some((std::str::from_utf8(name).ok()?, tail))
}

fn is_name(name: &[u8]) -> bool {
    let Some(first) = name.first() else {
        return false;
    };
    !first.is_ascii_digit()
        && name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
}

/// SampleLabels, if any, and the value. What follows the value (a timestamp, an exemplar) is
/// ignored.
fn read_tail(tail: &[u8]) -> Option<(SampleLabels<'_>, f64)> {
    let tail = std::str::from_utf8(tail).ok()?.trim_start();
    let (labels, after) = match tail.strip_prefix('{') {
        Some(inner) => SampleLabels::split(inner)?,
        None => (SampleLabels::default(), tail),
    };
    let value = after.split_ascii_whitespace().next()?;
    // Rust reads `NaN`, `Inf`, `+Inf` and `-Inf` as Prometheus writes them.
    Some((labels, value.parse().ok()?))
}

/// The first `name="value"` of `text`, still escaped, and what follows it and its comma.
fn split_label(text: &str) -> Option<(&str, &str, &str)> {
    let (name, after) = text.split_once('=')?;
    let name = name.trim();
    let inner = after.trim_start().strip_prefix('"')?;
    let end = closing_quote(inner.as_bytes())?;
    let rest = inner[end + 1..].trim_start();
    let rest = match rest.strip_prefix(',') {
        Some(next) => next,
        None if rest.starts_with('}') || rest.is_empty() => rest,
        None => return None,
    };
    is_name(name.as_bytes()).then_some((name, &inner[..end], rest))
}

/// Where the quote is that no backslash escapes.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Resolves `\\`, `\"` and `\n`; any other escape stays as it is.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            text.push(char);
            continue;
        }
        match chars.next() {
            Some('n') => text.push('\n'),
            Some(escaped @ ('\\' | '"')) => text.push(escaped),
            Some(other) => text.extend(['\\', other]),
            None => text.push('\\'),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(page: &str) -> Vec<ExpositionSample<'_>> {
        samples(page.as_bytes(), |_| true).collect()
    }

    #[test]
    fn lines_of_every_legal_form_are_read() {
        let page = "# HELP a Some \"help\".\n# TYPE a gauge\na 1\n\n  b{} 2\nc {x=\"1\" , y = \"2\",} 3e2 1700000000\r\n\
                    d_bucket{le=\"+Inf\"} 4 # {trace_id=\"abc\"} 0.5 1.0\ne\t+Inf\nf -Inf\n# EOF";
        let read = all(page);
        let names: Vec<_> = read
            .iter()
            .map(|sample| (sample.name, sample.value))
            .collect();
        assert_eq!(
            names,
            [
                ("a", 1.0),
                ("b", 2.0),
                ("c", 300.0),
                ("d_bucket", 4.0),
                ("e", f64::INFINITY),
                ("f", f64::NEG_INFINITY)
            ]
        );
        assert_eq!(read[2].labels.get("y").as_deref(), Some("2"));
        assert_eq!(read[3].labels.get("le").as_deref(), Some("+Inf"));
    }

    #[test]
    fn escapes_and_braces_inside_values_are_text() {
        let page = r#"a{path="C:\\dir\n\"x\" \t",set="{1,2}"} 7"#;
        let [sample] = all(page)[..] else {
            panic!("one sample")
        };
        assert_eq!(
            sample.labels.get("path").as_deref(),
            Some("C:\\dir\n\"x\" \\t")
        );
        assert_eq!(sample.labels.get("set").as_deref(), Some("{1,2}"));
        assert_eq!(sample.value, 7.0);
    }

    #[test]
    fn what_is_not_understood_is_counted_and_passed_over() {
        let page = "a{x=\"1} 1\na{x=1} 1\n9a 1\na one\na{x=\"1\"\n{\"quoted.name\",x=\"1\"} 1\n<html>\nb 2";
        let mut lines = samples(page.as_bytes(), |_| true);
        assert_eq!(
            lines.by_ref().map(|sample| sample.name).collect::<Vec<_>>(),
            ["b"]
        );
        assert_eq!(lines.skipped(), 7);
    }

    #[test]
    fn lines_and_label_sets_are_bounded() {
        let long = format!("a{{x=\"{}\"}} 1", "y".repeat(MAX_LINE));
        let wide = |labels: usize| format!("a{{{}}} 1", "x=\"1\",".repeat(labels));
        assert!(all(&long).is_empty());
        assert!(all(&wide(MAX_LABELS + 1)).is_empty());
        assert_eq!(all(&wide(MAX_LABELS)).len(), 1);
    }

    #[test]
    fn lines_that_are_not_wanted_are_named_but_not_parsed() {
        let mut lines = samples(b"a{broken 1\nb 2\n", |name| name == "b");
        assert_eq!(lines.by_ref().count(), 1);
        assert_eq!((lines.named(), lines.skipped()), (2, 0));
    }

    fn escape(value: &str) -> String {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(page in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            for sample in samples(&page, |_| true) {
                prop_assert!(sample.labels.iter().count() <= MAX_LABELS);
            }
        }

        #[test]
        fn bytes_of_the_formats_own_alphabet_are_survived(page in r#"[ab_:{}="\\,# \n\t0-9.eE+n-]{0,400}"#) {
            for sample in samples(page.as_bytes(), |_| true) {
                prop_assert!(sample.labels.iter().count() <= MAX_LABELS);
            }
        }

        #[test]
        fn a_printed_page_reads_back(lines in proptest::collection::vec(
            ("[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
             proptest::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,8}", any::<String>()), 0..5),
             any::<f64>()), 0..10)) {
            let page: String = lines.iter().map(|(name, labels, value)| {
                let labels: Vec<_> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
                format!("{name}{{{}}} {value}\n", labels.join(","))
            }).collect();
            let read = all(&page);
            prop_assert_eq!(read.len(), lines.len());
            for (sample, (name, labels, value)) in read.iter().zip(&lines) {
                prop_assert_eq!(sample.name, name);
                prop_assert!(sample.value == *value || value.is_nan() && sample.value.is_nan());
                let back: Vec<_> = sample.labels.iter().map(|(label, text)| (label.to_owned(), text.into_owned())).collect();
                prop_assert_eq!(&back, labels);
            }
        }
    }
}
