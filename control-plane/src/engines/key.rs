//! The API key of a pool's engines, from a file: some engines want one for everything below `/v1`.
//!
//! Invariant: the key reaches no log, error, metric or debug format; it is sent to the engines of
//! its pool only.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use hermes_runtime::regular_file;
use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use tokio::{
    task,
    time::{Instant, timeout},
};

/// How long a key is used before its file is read again: Secrets are rotated.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// How long reading it may take.
const READ: Duration = Duration::from_secs(1);

/// Longest file, in bytes.
const MAX_BYTES: usize = 16 << 10;

/// A key in a file. Clones share what was read; two are equal if they name the same file.
#[derive(Clone)]
pub struct EngineKey {
    path: Arc<Path>,
    read: Arc<Mutex<KeyRead>>,
    /// Held by the one that reads.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct KeyRead {
    /// The newest that could be read.
    header: Option<HeaderValue>,
    /// When the last try ended.
    tried: Option<Instant>,
    /// The last try failed, which is logged.
    has_failed: bool,
}

/// What is known without reading the file.
struct KnownKey {
    header: Option<HeaderValue>,
    /// The file need not be read now.
    is_fresh: bool,
}

impl EngineKey {
    /// The key in this file, which is read when it is needed.
    #[must_use]
    pub fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            read: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// The value of `Authorization`. While the file cannot be read, the last one that could.
    ///
    /// A probe that asks during the first read waits for it: without the key, the engine refuses.
    pub(crate) async fn header(&self) -> Option<HeaderValue> {
        let known = self.known();
        if known.is_fresh {
            return known.header;
        }
        let turn = Arc::clone(&self.turn);
        let turn = match Arc::clone(&turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) if known.header.is_some() => return known.header,
            Err(_) => turn.lock_owned().await,
        };
        let known = self.known();
        if known.is_fresh {
            return known.header;
        }
        // It goes on, for a second at most, when the probe that asked does not wait any more: else
        // each of them would leave one read behind in a file system that hangs.
        let key = self.clone();
        let reading = tokio::spawn(async move {
            key.read_file().await;
            drop(turn);
        });
        _ = reading.await;
        self.known().header
    }

    fn known(&self) -> KnownKey {
        let read = self.read.lock();
        KnownKey {
            header: read.header.clone(),
            is_fresh: read.tried.is_some_and(|tried| tried.elapsed() < READ_AGAIN),
        }
    }

    async fn read_file(&self) {
        let path = Arc::clone(&self.path);
        let reading = timeout(READ, task::spawn_blocking(move || bearer(&path)));
        let content = match reading.await {
            Ok(read) => read.unwrap_or_else(|error| Err(io::Error::other(error))),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        };
        let mut read = self.read.lock();
        read.tried = Some(Instant::now());
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
    }
}

/// Reads a file that contains a key, perhaps with white space around it. Blocks.
fn bearer(path: &Path) -> io::Result<HeaderValue> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    let text = regular_file::read(path, MAX_BYTES)?;
    if text.len() > MAX_BYTES {
        return Err(invalid("larger than 16 KiB"));
    }
    let text =
        String::from_utf8(text).map_err(|_| invalid("stream did not contain valid UTF-8"))?;
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

    #[tokio::test]
    async fn probes_that_ask_during_the_first_read_get_the_key() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "sk-one").expect("written");
        let key = EngineKey::new(path.into());
        let (one, other) = tokio::join!(key.header(), key.header());
        assert!(one.is_some());
        assert_eq!(one, other);
    }

    #[tokio::test]
    async fn a_read_that_no_probe_waits_for_any_more_leaves_the_key_known() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("key");
        fs::write(&path, "sk-one").expect("written");
        let key = EngineKey::new(path.into());
        tokio::select! {
            biased;
            _ = key.header() => {}
            () = std::future::ready(()) => {}
        }
        assert!(key.header().await.is_some());
    }
}
