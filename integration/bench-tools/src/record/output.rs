//! Where a recording goes: a pipe as it comes, or a file that is a trace in order of arrival.
//!
//! Records arrive when requests finish, and proxies take one block for as many tokens as text has
//! on average. A file is therefore rewritten at the end: sorted, by an index of 16 bytes a line
//! that is kept meanwhile, and with blocks as long as the engines' own counts of tokens say. Until
//! then it holds what a crash would leave of a recording.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::listener::Facts;

/// The key of a block's length; inside a string its quotes would be escaped.
const BLOCK_TOKENS: &[u8] = b"\"block_tokens\":";

/// Bytes that proxies take for a token.
const BYTES_PER_TOKEN: f64 = 4.0;

/// See the module.
pub(super) enum Output<'a> {
    /// As lines come.
    Pipe(&'a mut dyn Write),
    File(Trace),
}

/// A file that is written to.
pub(super) struct Trace {
    path: PathBuf,
    file: BufWriter<File>,
    lines: Vec<Written>,
    length: u64,
    /// Of all prompts.
    tokens: u64,
    bytes: u64,
}

/// One line of the file. In the order of the fields.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    timestamp: u64,
    offset: u64,
}

// === Output ===

impl Output<'_> {
    /// A recording in a new file; one that is there is replaced.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self::File(Trace {
            path: path.to_owned(),
            file,
            lines: Vec::new(),
            length: 0,
            tokens: 0,
            bytes: 0,
        }))
    }

    /// Writes a line, with its end.
    pub(super) fn write(&mut self, facts: Facts, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(line),
            Self::File(trace) => trace.write(facts, line),
        }
    }

    /// Lets readers see what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.flush(),
            Self::File(trace) => trace.file.flush(),
        }
    }

    /// Ends the recording.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match self {
            Self::Pipe(_) => Ok(()),
            Self::File(trace) => trace.finish(),
        }
    }
}

// === Trace ===

impl Trace {
    fn write(&mut self, facts: Facts, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.lines.push(Written {
            timestamp: facts.timestamp,
            offset: self.length,
        });
        self.length += line.len() as u64;
        self.tokens = self.tokens.saturating_add(facts.input_length);
        self.bytes = self.bytes.saturating_add(facts.prompt_bytes);
        Ok(())
    }

    /// Rewrites the file, and replaces the existing one once it is complete.
    fn finish(mut self) -> io::Result<()> {
        self.lines.sort_unstable();
        // How many times the tokens that proxies assume a prompt really has.
        let factor = if self.bytes == 0 {
            1.0
        } else {
            self.tokens as f64 * BYTES_PER_TOKEN / self.bytes as f64
        };
        let mut name = self.path.clone().into_os_string();
        name.push(".sorting");
        let (mut from, mut to) = (
            BufReader::new(File::open(&self.path)?),
            BufWriter::new(File::create(&name)?),
        );
        let mut line = Vec::new();
        for Written { offset, .. } in &self.lines {
            line.clear();
            from.seek(SeekFrom::Start(*offset))?;
            from.read_until(b'\n', &mut line)?;
            write_with_blocks(&mut to, &line, factor)?;
        }
        to.flush()?;
        std::fs::rename(&name, &self.path)
    }
}

/// Writes a line with its blocks `factor` times as long; every other byte stays.
fn write_with_blocks(to: &mut impl Write, line: &[u8], factor: f64) -> io::Result<()> {
    let Some(key) = memchr::memmem::find(line, BLOCK_TOKENS) else {
        return to.write_all(line);
    };
    let (before, number) = line.split_at(key + BLOCK_TOKENS.len());
    let digits = number
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let assumed = str::from_utf8(&number[..digits])
        .ok()
        .and_then(|digits| digits.parse::<u32>().ok());
    let Some(assumed) = assumed else {
        return to.write_all(line);
    };
    let tokens = (f64::from(assumed) * factor).round().max(1.0) as u64;
    to.write_all(before)?;
    write!(to, "{tokens}")?;
    to.write_all(&number[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(timestamp: u64) -> Facts {
        Facts {
            timestamp,
            ..Facts::default()
        }
    }

    /// What a file holds in the end.
    fn recorded(lines: &[(Facts, &str)]) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("trace.jsonl");
        let mut output = Output::file(&path).expect("a file");
        for (facts, line) in lines {
            output.write(*facts, line.as_bytes()).expect("written");
        }
        output.finish().expect("finished");
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("a folder").count(),
            1,
            "nothing else is left"
        );
        std::fs::read_to_string(&path).expect("a file")
    }

    #[test]
    fn a_file_is_in_order_of_arrival_and_equal_times_stay_as_they_came() {
        let lines = [
            (5, "five\n"),
            (2, "two\n"),
            (9, "nine\n"),
            (2, "two again\n"),
        ];
        assert_eq!(
            recorded(&lines.map(|(at, line)| (facts(at), line))),
            "two\ntwo again\nfive\nnine\n"
        );
    }

    #[test]
    fn blocks_are_as_long_as_the_engines_tokens_say_and_equally_long() {
        let of = |input_length, prompt_bytes| Facts {
            timestamp: 1,
            input_length,
            prompt_bytes,
        };
        let text = recorded(&[
            (
                of(300, 1_000),
                "{\"block_tokens\":64,\"model\":\"\\\"block_tokens\\\":1\"}\n",
            ),
            (
                of(200, 1_000),
                "{\"model\":\"\\\"block_tokens\\\":1\",\"block_tokens\":64}\n",
            ),
        ]);
        assert_eq!(
            text.matches("\"block_tokens\":64").count(),
            2,
            "four bytes a token on average: {text}"
        );
        let text = recorded(&[
            (of(500, 1_000), "{\"block_tokens\":64,\"x\":1}\n"),
            (of(0, 0), "{}\n"),
        ]);
        assert_eq!(text, "{\"block_tokens\":128,\"x\":1}\n{}\n");
    }

    #[test]
    fn a_pipe_gets_lines_as_they_come() {
        let mut pipe = Vec::new();
        let mut output = Output::Pipe(&mut pipe);
        output.write(facts(5), b"five\n").expect("written");
        output.write(facts(2), b"two\n").expect("written");
        output.finish().expect("flushed");
        assert_eq!(pipe, b"five\ntwo\n");
    }
}
