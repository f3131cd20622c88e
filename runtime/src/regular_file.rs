//! Files that an operator names: configuration, certificates, keys.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The content of a regular file, cut after one byte more than `limit`, so that the caller sees
/// that a file is larger without reading all of it. Blocks.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut content = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}
