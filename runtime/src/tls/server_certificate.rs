//! The certificate of a server whose clients show none: a folder with `tls.crt` and `tls.key`,
//! followed as it changes.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{
    task,
    time::{self, MissedTickBehavior},
};

use super::{
    CERTIFICATE, KEY, TlsError,
    folder::{INTERVAL, OPEN_TIMEOUT, read_file},
    identity::own_certificate,
    parties::{PROTOCOL, provider, shown},
};
use crate::tasks::Tasks;

/// How a server accepts. Clones share what is newest; load it once for each connection.
#[derive(Clone)]
pub struct ServerCertificate {
    newest: Arc<ArcSwap<ServerConfig>>,
}

/// What the folder holds, byte by byte. Has no `Debug`: one of them is a key.
#[derive(PartialEq, Eq)]
struct CertificateFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl ServerCertificate {
    /// The certificate in `folder`, now and after every rotation: the task `name` of `tasks` follows
    /// it from now on. One that cannot be read later is logged, and the last good one stays.
    ///
    /// # Errors
    /// As it is read for the first time: a file cannot be read within ten seconds, or does not hold
    /// what it should.
    pub async fn follow(
        folder: PathBuf,
        name: &'static str,
        tasks: &Tasks,
    ) -> Result<Self, TlsError> {
        let late = |_| {
            Err(TlsError::Read {
                path: folder.clone(),
                source: std::io::ErrorKind::TimedOut.into(),
            })
        };
        let files = time::timeout(OPEN_TIMEOUT, read(folder.clone())).await;
        let files = files.unwrap_or_else(late)?;
        let newest = Arc::new(ArcSwap::from_pointee(files.accepting(&folder)?));
        let watched = watch(folder, files, Arc::clone(&newest));
        tasks.spawn(name, watched);
        Ok(Self { newest })
    }

    /// How the next connection is accepted.
    #[must_use]
    pub fn newest(&self) -> Arc<ServerConfig> {
        self.newest.load_full()
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

impl CertificateFiles {
    /// Accepts any client of TLS 1.2 or 1.3, which Envoy's clients end at unless they are
    /// configured otherwise.
    fn accepting(&self, folder: &Path) -> Result<ServerConfig, TlsError> {
        let named = |(file, problem)| TlsError::Content {
            folder: folder.to_owned(),
            file,
            problem,
        };
        let provider = provider();
        let (own, _) = own_certificate(&self.certificate, &self.key, &provider).map_err(named)?;
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("ring has cipher suites of both versions");
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(shown(&own));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }
}

/// Follows the folder for ever.
async fn watch(folder: PathBuf, mut seen: CertificateFiles, newest: Arc<ArcSwap<ServerConfig>>) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        ticks.tick().await;
        let accepting = match read(folder.clone()).await {
            Ok(files) if files == seen => continue,
            Ok(files) => {
                seen = files;
                is_failing = false;
                seen.accepting(&folder)
            }
            Err(_) if is_failing => continue,
            Err(error) => {
                is_failing = true;
                Err(error)
            }
        };
        match accepting {
            Ok(accepting) => {
                newest.store(Arc::new(accepting));
                tracing::info!(folder = %folder.display(), "a new certificate is in use");
            }
            Err(error) => {
                tracing::warn!(%error, "certificate refused, the last good one stays");
            }
        }
    }
}

async fn read(folder: PathBuf) -> Result<CertificateFiles, TlsError> {
    let path = folder.clone();
    let read = task::spawn_blocking(move || {
        Ok(CertificateFiles {
            certificate: read_file(folder.join(CERTIFICATE))?,
            key: read_file(folder.join(KEY))?,
        })
    });
    read.await.unwrap_or_else(|error| {
        Err(TlsError::Read {
            path,
            source: std::io::Error::other(error),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::{readiness::Liveness, shutdown::Drain};

    /// Writes a certificate that signed itself, and its key.
    fn renew(folder: &Path) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["picker".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed").pem();
        fs::write(folder.join(CERTIFICATE), certificate).expect("written");
        fs::write(folder.join(KEY), key.serialize_pem()).expect("written");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_is_used_and_a_broken_one_is_not() {
        let folder = TempDir::new().expect("a folder");
        renew(folder.path());
        let tasks = Tasks::new(Liveness::default(), Drain::default());
        let path = folder.path().to_owned();
        let certificate = ServerCertificate::follow(path, "tls", &tasks)
            .await
            .expect("good");
        let first = certificate.newest();
        fs::write(folder.path().join(KEY), "no key").expect("written");
        time::sleep(INTERVAL * 5).await;
        assert!(Arc::ptr_eq(&certificate.newest(), &first));
        renew(folder.path());
        let renewed = async {
            while Arc::ptr_eq(&certificate.newest(), &first) {
                time::sleep(INTERVAL).await;
            }
        };
        time::timeout(INTERVAL * 1_000, renewed)
            .await
            .expect("noticed");
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let folder = TempDir::new().expect("a folder");
        let tasks = Tasks::new(Liveness::default(), Drain::default());
        let path = folder.path().to_owned();
        let error = ServerCertificate::follow(path, "tls", &tasks).await;
        let error = error.expect_err("an empty folder").to_string();
        assert!(error.contains("tls.crt"), "{error}");
    }
}
