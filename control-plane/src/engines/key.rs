//! The API key of a pool's engines, from a file: some engines want one for everything below `/v1`.
//!
//! Invariant: the key reaches no log, error, metric or debug format; it is sent to the engines of
//! its pool only.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use tokio::{
    fs::File,
    io::AsyncReadExt,
    time::{Instant, timeout},
};

/// How long a key is used before its file is read again: Secrets are rotated.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// How long reading it may take.
const READ: Duration = Duration::from_secs(1);

/// Longest file, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// A key in a file. Clones share what was read; two are equal if they name the same file.
#[derive(Clone)]
pub struct EngineKey {
    path: Arc<Path>,
    read: Arc<Mutex<KeyRead>>,
}

#[derive(Default)]
struct KeyRead {
    /// The newest that could be read.
    header: Option<HeaderValue>,
    /// When it was tried last.
    tried: Option<Instant>,
    /// The last try failed, which is logged.
    has_failed: bool,
}

impl EngineKey {
    /// The key in this file, which is read when it is needed.
    #[must_use]
    pub fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            read: Arc::default(),
        }
    }

    /// The value of `Authorization`. While the file cannot be read, the last one that could.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        {
            let mut read = self.read.lock();
            let is_fresh = |tried: Instant| tried.elapsed() < READ_AGAIN;
            if read.tried.is_some_and(is_fresh) {
                return read.header.clone();
            }
            read.tried = Some(Instant::now());
        }
        let content = timeout(READ, bearer(&self.path)).await;
        let content = content.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let mut read = self.read.lock();
        match content {
            Ok(header) => {
                read.header = Some(header);
                read.has_failed = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut read.has_failed, true) {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "the engines' key cannot be read");
                }
            }
        }
        read.header.clone()
    }
}

/// Reads a file that contains a key, perhaps with white space around it.
async fn bearer(path: &Path) -> io::Result<HeaderValue> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    let mut text = String::new();
    // A pipe would wait for a writer.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(invalid("not a file"));
    }
    let file = File::open(path).await?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).await?;
    if text.len() as u64 > MAX_BYTES {
        return Err(invalid("larger than 16 KiB"));
    }
    let key = text.trim();
    if key.is_empty() {
        return Err(invalid("empty"));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| invalid("not one line of characters that a header may have"))?;
    header.set_sensitive(true);
    Ok(header)
}

impl PartialEq for EngineKey {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for EngineKey {}

/// The path only.
impl fmt::Debug for EngineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineKey({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_read_again_and_the_last_good_one_stays() {
        let folder = TempDir::new().expect("a folder");
        let path: Arc<Path> = folder.path().join("key").into();
        let key = EngineKey::new(Arc::clone(&path));
        let header = async || {
            tokio::time::advance(READ_AGAIN).await;
            let header = key.header().await?;
            assert!(header.is_sensitive());
            header.to_str().ok().map(str::to_owned)
        };
        assert_eq!(header().await, None, "there is no file yet");
        fs::write(&path, "sk-one\n").expect("written");
        assert_eq!(header().await.as_deref(), Some("Bearer sk-one"));
        fs::write(&path, "sk-two").expect("written");
        assert_eq!(header().await.as_deref(), Some("Bearer sk-two"));
        for broken in ["", "two\nlines", &"x".repeat(20_000)] {
            fs::write(&path, broken).expect("written");
            assert_eq!(header().await.as_deref(), Some("Bearer sk-two"));
        }
        assert!(!format!("{key:?}").contains("sk-"));
    }
}
