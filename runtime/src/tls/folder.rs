//! The folder, read again and again.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::registry::Registry;
use tokio::{
    task,
    time::{self, MissedTickBehavior},
};

use crate::tasks::Tasks;

use super::{
    AUTHORITY, CERTIFICATE, KEY, Tls, TlsError,
    identity::{Content, Identity},
    metrics::TlsMetrics,
    parties::provider,
};

/// How often the folder is read.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// How long the first reading may take.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest file, in bytes: a Secret holds 1 MiB.
const LARGEST: u64 = 1 << 20;

/// A folder of certificates, and what was last read from it.
pub struct TlsFolder {
    path: PathBuf,
    /// What was last read; nothing while the folder cannot be read.
    seen: Option<Content>,
    tls: Tls,
    metrics: TlsMetrics,
}

// === TlsFolder ===

impl TlsFolder {
    /// How to accept and to dial by the certificates in `folder`, if there is one, now and after
    /// every rotation: a task of `tasks` follows it from now on. Its metrics are declared in
    /// `registry`, which must have no prefix.
    ///
    /// # Errors
    /// As it is read for the first time: a file cannot be read within ten seconds, or does not hold
    /// what it should.
    pub async fn follow(
        folder: Option<PathBuf>,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> Result<Option<Tls>, TlsError> {
        let Some(folder) = folder else {
            return Ok(None);
        };
        let folder = Self::open(folder, registry).await?;
        let tls = folder.tls.clone();
        tasks.spawn("tls", folder.watch());
        Ok(Some(tls))
    }

    /// Reads the folder for the first time, and declares its metrics in `registry`, which must have
    /// no prefix.
    ///
    /// # Errors
    /// A file cannot be read within ten seconds, or does not hold what it should.
    async fn open(path: impl Into<PathBuf>, registry: &mut Registry) -> Result<Self, TlsError> {
        let path = path.into();
        let late = |_| {
            Err(TlsError::Read {
                path: path.clone(),
                source: io::ErrorKind::TimedOut.into(),
            })
        };
        let content = time::timeout(OPEN_TIMEOUT, read(path.clone()))
            .await
            .unwrap_or_else(late)?;
        let identity = identify(&path, &content)?;
        let metrics = TlsMetrics::register(registry);
        metrics.accepted(&identity);
        log_accepted(&path, &identity);
        Ok(Self {
            tls: Tls::new(&identity),
            path,
            seen: Some(content),
            metrics,
        })
    }

    /// Follows the folder for ever.
    ///
    /// A file system that hangs holds one blocking thread and this future, never more: the next
    /// reading begins after the last has ended.
    async fn watch(mut self) {
        let mut ticks = time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let content = read(self.path.clone()).await;
            self.notice(content);
        }
    }

    /// Acts on what was read if it differs from what was read before.
    fn notice(&mut self, content: Result<Content, TlsError>) {
        let read = match content {
            Ok(content) if self.seen.as_ref() == Some(&content) => return,
            Err(_) if self.seen.is_none() => return,
            Ok(content) => {
                let identity = identify(&self.path, &content);
                self.seen = Some(content);
                identity
            }
            Err(error) => {
                self.seen = None;
                Err(error)
            }
        };
        match read {
            Ok(identity) => {
                self.tls.replace(&identity);
                self.metrics.accepted(&identity);
                log_accepted(&self.path, &identity);
            }
            Err(error) => {
                self.metrics.rejected();
                tracing::warn!(%error, "certificates refused, the last good ones stay");
            }
        }
    }
}

fn identify(folder: &Path, content: &Content) -> Result<Identity, TlsError> {
    let named = |(file, problem)| TlsError::Content {
        folder: folder.to_owned(),
        file,
        problem,
    };
    Identity::read(content, &provider()).map_err(named)
}

fn log_accepted(folder: &Path, identity: &Identity) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    let days_left = (identity.expires - i64::try_from(now).unwrap_or(i64::MAX)) / (24 * 60 * 60);
    let folder = folder.display();
    if identity.expires <= i64::try_from(now).unwrap_or(i64::MAX) {
        tracing::warn!(%folder, "certificates read, and this process's own has expired: peers will refuse it");
    } else {
        tracing::info!(%folder, days_left, authorities = identity.authority.len(), "certificates read");
    }
}

async fn read(folder: PathBuf) -> Result<Content, TlsError> {
    let path = folder.clone();
    let read = task::spawn_blocking(move || {
        let [authority, certificate, key] =
            [AUTHORITY, CERTIFICATE, KEY].map(|name| read_file(folder.join(name)));
        Ok(Content {
            authority: authority?,
            certificate: certificate?,
            key: key?,
        })
    });
    read.await.unwrap_or_else(|error| {
        Err(TlsError::Read {
            path,
            source: io::Error::other(error),
        })
    })
}

pub(super) fn read_file(path: PathBuf) -> Result<Vec<u8>, TlsError> {
    read_bounded(&path).map_err(|source| TlsError::Read { path, source })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    let metadata = path.metadata()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a file of at most 1 MiB",
        ));
    }
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use tempfile::TempDir;
    use tokio::task::JoinSet;

    use super::*;

    /// Writes a certificate that signed itself, and its key.
    fn renew(folder: &Path) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["hermes".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed").pem();
        for (file, text) in [
            (AUTHORITY, &certificate),
            (CERTIFICATE, &certificate),
            (KEY, &key.serialize_pem()),
        ] {
            fs::write(folder.join(file), text).expect("written");
        }
    }

    /// Waits until connections would go by another configuration than `before`.
    async fn replaced(tls: &Tls, before: &Arc<ServerConfig>) {
        while Arc::ptr_eq(&tls.server(), before) {
            time::sleep(INTERVAL).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_files_are_used_and_equal_ones_are_not_read_again() {
        let folder = TempDir::new().expect("a folder");
        renew(folder.path());
        let mut registry = Registry::default();
        let watched = TlsFolder::open(folder.path(), &mut registry)
            .await
            .expect("good");
        let (tls, mut tasks) = (watched.tls.clone(), JoinSet::new());
        tasks.spawn(watched.watch());
        let first = tls.server();
        time::sleep(INTERVAL * 5).await;
        assert!(Arc::ptr_eq(&tls.server(), &first), "nothing changed");

        fs::remove_file(folder.path().join(KEY)).expect("removed");
        time::sleep(INTERVAL * 5).await;
        assert!(
            Arc::ptr_eq(&tls.server(), &first),
            "the last good ones stay"
        );

        renew(folder.path());
        time::timeout(INTERVAL * 1_000, replaced(&tls, &first))
            .await
            .expect("noticed");
    }

    #[tokio::test]
    async fn what_is_no_file_of_sane_size_is_refused_by_name() {
        let folder = TempDir::new().expect("a folder");
        renew(folder.path());
        fs::write(folder.path().join(KEY), vec![b'#'; 2 << 20]).expect("written");
        let error = TlsFolder::open(folder.path(), &mut Registry::default())
            .await
            .err()
            .expect("too large");
        assert!(error.to_string().contains("tls.key"), "{error}");
        fs::remove_file(folder.path().join(AUTHORITY)).expect("removed");
        fs::create_dir(folder.path().join(AUTHORITY)).expect("a folder");
        let error = TlsFolder::open(folder.path(), &mut Registry::default())
            .await
            .err()
            .expect("a folder");
        assert!(error.to_string().contains("ca.crt"), "{error}");
    }
}
