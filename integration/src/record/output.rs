//! Where a recording goes: a pipe as it comes, or a file that is a trace in order of arrival.
//!
//! Requests are told when they finish. A file is therefore sorted at the end, by an index of 24 bytes a line that is
//! kept meanwhile; until then it holds what a crash would leave of a recording.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// See the module.
pub(super) enum Output<'a> {
    /// As lines come.
    Pipe(&'a mut dyn Write),
    File(Sorted),
}

/// A file that is written to.
pub(super) struct Sorted {
    path: PathBuf,
    file: BufWriter<File>,
    lines: Vec<Written>,
    length: u64,
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
        Ok(Self::File(Sorted { path: path.to_owned(), file, lines: Vec::new(), length: 0 }))
    }

    /// Writes a line, with its end.
    pub(super) fn write(&mut self, timestamp: u64, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(line),
            Self::File(sorted) => sorted.write(timestamp, line),
        }
    }

    /// Lets readers see what was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.flush(),
            Self::File(sorted) => sorted.file.flush(),
        }
    }

    /// Ends the recording; a file is sorted by arrival.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match self {
            Self::Pipe(_) => Ok(()),
            Self::File(sorted) => sorted.sort(),
        }
    }
}

// === Sorted ===

impl Sorted {
    fn write(&mut self, timestamp: u64, line: &[u8]) -> io::Result<()> {
        self.file.write_all(line)?;
        self.lines.push(Written { timestamp, offset: self.length });
        self.length += line.len() as u64;
        Ok(())
    }

    fn sort(mut self) -> io::Result<()> {
        if self.lines.is_sorted() {
            return Ok(());
        }
        self.lines.sort_unstable();
        let mut name = self.path.clone().into_os_string();
        name.push(".sorting");
        let (mut from, mut to) = (BufReader::new(File::open(&self.path)?), BufWriter::new(File::create(&name)?));
        let mut line = Vec::new();
        for Written { offset, .. } in &self.lines {
            line.clear();
            from.seek(SeekFrom::Start(*offset))?;
            from.read_until(b'\n', &mut line)?;
            to.write_all(&line)?;
        }
        to.flush()?;
        std::fs::rename(&name, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_order_of_arrival_and_equal_times_stay_as_they_came() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("trace.jsonl");
        let mut output = Output::file(&path).expect("a file");
        for (timestamp, line) in [(5, "five\n"), (2, "two\n"), (9, "nine\n"), (2, "two again\n")] {
            output.write(timestamp, line.as_bytes()).expect("written");
        }
        output.finish().expect("sorted");
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(text, "two\ntwo again\nfive\nnine\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_pipe_gets_lines_as_they_come() {
        let mut pipe = Vec::new();
        let mut output = Output::Pipe(&mut pipe);
        output.write(5, b"five\n").expect("written");
        output.write(2, b"two\n").expect("written");
        output.finish().expect("flushed");
        assert_eq!(pipe, b"five\ntwo\n");
    }
}
