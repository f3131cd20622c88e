//! Hot reload: watches the content of the configuration file, and of the files of CA certificates
//! that it names, and publishes every valid version of it.
//!
//! ```text
//!   file ──every 500 ms──▶ same content? ──no──▶ parse ──good──▶ watch<Arc<Config>>
//!                                                  └──invalid──▶ log, ConfigStatus; the last valid one stays
//! ```
//!
//! Invariants:
//! * there is always a valid configuration: an invalid or absent file is an error at the start, a
//!   warning later;
//! * changes are detected by content, not by modification time: a ConfigMap is swapped by a
//!   symlink;
//! * one content is parsed and logged once, however long it stays.
//!
//! It owns no task: [`ConfigFile::watch`] is a future that its owner runs and drops.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hermes_runtime::regular_file;
use tokio::{
    sync::watch,
    task,
    time::{self, MissedTickBehavior},
};

use super::{AuthorityFiles, Config, ConfigErrors, MAX_BYTES};

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long the first reading may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A configuration file and its content when it was last read.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// The content when it was last read; `None` while it cannot be read.
    seen: Option<ConfigContent>,
    config: watch::Sender<Arc<Config>>,
    status: watch::Sender<ConfigStatus>,
}

/// What a configuration is made of, byte by byte.
#[derive(Clone, PartialEq, Eq)]
struct ConfigContent {
    text: Vec<u8>,
    authorities: AuthorityFiles,
}

/// The state of the configuration in effect, for metrics and for `/readyz`.
#[derive(Clone, Debug)]
pub struct ConfigStatus {
    /// Number of the configuration in effect; the first is 1.
    pub revision: u64,
    /// When it took effect.
    pub loaded_at: SystemTime,
    /// Why the file, as it is now, is not in effect; `None` if it is.
    pub last_error: Option<Arc<LoadError>>,
}

/// Why a file does not take effect.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is absent, unreadable, or not a file.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It is invalid.
    #[error("the configuration {} has {} error(s):\n{errors}", path.display(), errors.len())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// Every error in it.
        errors: ConfigErrors,
    },
}

// === ConfigFile ===

impl ConfigFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read within ten seconds, or it is invalid; the message names it and lists
    /// every error.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let path = path.into();
        let read = time::timeout(OPEN_TIMEOUT, read(path.clone(), None));
        let content = read
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let content = content.map_err(|source| LoadError::Read {
            path: path.clone(),
            source,
        })?;
        let config = parse(&path, &content)?;
        log_warnings(&path, &config);
        let status = ConfigStatus {
            revision: 1,
            loaded_at: SystemTime::now(),
            last_error: None,
        };
        let (config, status) = (
            watch::Sender::new(Arc::new(config)),
            watch::Sender::new(status),
        );
        Ok(Self {
            path,
            seen: Some(content),
            config,
            status,
        })
    }

    /// The configuration in effect.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// The state of the configuration in effect.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConfigStatus> {
        self.status.subscribe()
    }

    /// Follows the file until every receiver of the configuration is dropped.
    ///
    /// A file system that hangs blocks one thread and this future, never more: a read begins after
    /// the last has ended.
    pub async fn watch(mut self) {
        let mut ticks = time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let config = self.config.clone();
        loop {
            tokio::select! {
                biased;
                () = config.closed() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                biased;
                () = config.closed() => return,
                content = read(self.path.clone(), self.seen.clone()) => self.notice(content),
            }
        }
    }

    /// Applies or rejects what was read if it differs from the last read.
    fn notice(&mut self, content: io::Result<ConfigContent>) {
        let unreadable_before = self.seen.is_none();
        let loaded = match content {
            Ok(content) if self.seen.as_ref() == Some(&content) => return,
            Err(_) if unreadable_before => return,
            Ok(content) => {
                let parsed = parse(&self.path, &content);
                self.seen = Some(content);
                parsed
            }
            Err(source) => {
                self.seen = None;
                Err(LoadError::Read {
                    path: self.path.clone(),
                    source,
                })
            }
        };
        match loaded {
            Ok(config) => self.apply(config),
            Err(error) => self.reject(error),
        }
    }

    fn apply(&self, config: Config) {
        let path = self.path.display();
        log_warnings(&self.path, &config);
        let changed = self.config.send_if_modified(|current| {
            let differs = **current != config;
            if differs {
                *current = Arc::new(config);
            }
            differs
        });
        self.status.send_modify(|status| {
            status.last_error = None;
            if changed {
                status.revision += 1;
                status.loaded_at = SystemTime::now();
            }
        });
        let revision = self.status.borrow().revision;
        tracing::info!(%path, revision, changed, "configuration loaded");
    }

    fn reject(&self, error: LoadError) {
        match &error {
            LoadError::Read { path, source } => {
                tracing::warn!(path = %path.display(), error = %source, "configuration unreadable; the last valid one stays in effect");
            }
            LoadError::Invalid { path, errors } => {
                for invalid in errors {
                    tracing::warn!(path = %path.display(), error = %invalid, "invalid configuration; the last valid one stays in effect");
                }
            }
        }
        self.status
            .send_modify(|status| status.last_error = Some(Arc::new(error)));
    }
}

/// The size of the text: it may hold credentials.
impl fmt::Debug for ConfigContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigContent")
            .field("text_bytes", &self.text.len())
            .field("authorities", &self.authorities)
            .finish()
    }
}

fn log_warnings(path: &Path, config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(path = %path.display(), %warning, "configuration accepted with a warning");
    }
}

fn parse(path: &Path, content: &ConfigContent) -> Result<Config, LoadError> {
    let parsed = Config::parse_bytes(&content.text);
    let complete = parsed.and_then(|config| content.authorities.complete(config));
    complete.map_err(|errors| LoadError::Invalid {
        path: path.to_owned(),
        errors,
    })
}

/// The file's content, and that of the files that it names. `seen` is what was read before: an
/// equal text is not parsed again.
async fn read(path: PathBuf, seen: Option<ConfigContent>) -> io::Result<ConfigContent> {
    let read = move || {
        let text = regular_file::read(&path, MAX_BYTES)?;
        let authorities = match seen.filter(|seen| seen.text == text) {
            Some(seen) => seen.authorities.again(),
            None => Config::parse_bytes(&text)
                .map(|config| AuthorityFiles::of(&config))
                .unwrap_or_default(),
        };
        Ok(ConfigContent { text, authorities })
    };
    task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use hermes_core::policy::EndpointTrust;
    use tempfile::TempDir;
    use tokio::task::JoinSet;

    use super::*;

    fn text(pool: &str) -> String {
        format!("pools: [{{name: {pool}, endpoints: ['http://10.0.0.7:8000']}}]")
    }

    /// A watched file with the pool `a`, and the owner of the watching task.
    async fn watched(
        path: &Path,
    ) -> (
        watch::Receiver<Arc<Config>>,
        watch::Receiver<ConfigStatus>,
        JoinSet<()>,
    ) {
        let file = ConfigFile::open(path).await.expect("a good file");
        let (config, status, mut tasks) = (file.config(), file.status(), JoinSet::new());
        tasks.spawn(file.watch());
        (config, status, tasks)
    }

    fn pool_name(config: &mut watch::Receiver<Arc<Config>>) -> Arc<str> {
        Arc::clone(&config.borrow_and_update().pools[0].name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_swapped_config_map_takes_effect() {
        let dir = TempDir::new().expect("a directory");
        for pool in ["a", "b"] {
            fs::create_dir(dir.path().join(pool)).expect("a directory");
            fs::write(dir.path().join(pool).join("config.yaml"), text(pool)).expect("a file");
        }
        let data = dir.path().join("..data");
        symlink("a", &data).expect("a link");
        let (mut config, status, _tasks) = watched(&data.join("config.yaml")).await;
        assert_eq!(&*pool_name(&mut config), "a");

        symlink("b", dir.path().join("..new")).expect("a link");
        fs::rename(dir.path().join("..new"), &data).expect("swapped");

        config.changed().await.expect("watched");
        assert_eq!(&*pool_name(&mut config), "b");
        assert_eq!(status.borrow().revision, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_version_leaves_the_last_valid_one_in_effect_until_it_is_corrected() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, text("a")).expect("written");
        let (mut config, mut status, _tasks) = watched(&path).await;

        fs::write(&path, "pools: [{name: B}]\nlimit: {}").expect("written");
        status.changed().await.expect("watched");
        let error = status
            .borrow_and_update()
            .last_error
            .clone()
            .expect("three errors");
        let LoadError::Invalid { errors, .. } = &*error else {
            panic!("{error}")
        };
        assert_eq!(errors.len(), 3, "{errors}");
        assert_eq!(&*pool_name(&mut config), "a");

        time::sleep(INTERVAL * 20).await;
        assert!(
            !status.has_changed().expect("watched"),
            "one content is reported once"
        );

        fs::write(&path, text("b")).expect("written");
        config.changed().await.expect("watched");
        status.changed().await.expect("watched");
        assert_eq!(&*pool_name(&mut config), "b");
        assert!(status.borrow().last_error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_removed_and_restored_changes_only_the_status() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, text("a")).expect("written");
        let (config, mut status, _tasks) = watched(&path).await;

        fs::remove_file(&path).expect("removed");
        status.changed().await.expect("watched");
        assert!(matches!(
            status.borrow_and_update().last_error.as_deref(),
            Some(LoadError::Read { .. })
        ));

        fs::write(&path, text("a")).expect("written");
        status.changed().await.expect("watched");
        assert!(status.borrow().last_error.is_none());
        assert_eq!(status.borrow().revision, 1);
        assert!(!config.has_changed().expect("watched"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_of_authorities_is_followed_with_the_configuration() {
        let dir = TempDir::new().expect("a directory");
        let (path, ca) = (dir.path().join("config.yaml"), dir.path().join("ca.crt"));
        let text = format!(
            "pools: [{{name: a, endpoints: ['https://10.0.0.7'], tls: {{caFile: {}}}}}]",
            ca.display()
        );
        fs::write(&path, text).expect("written");
        let error = ConfigFile::open(&path).await.expect_err("no authorities");
        assert!(error.to_string().contains("pool a: tls.caFile"), "{error}");

        let authorities = [authority(), authority()];
        fs::write(&ca, &authorities[0]).expect("written");
        let (mut config, mut status, _tasks) = watched(&path).await;
        let trust = |config: &mut watch::Receiver<Arc<Config>>| {
            config.borrow_and_update().pools[0].policy.trust.clone()
        };
        let of = |pem: &String| EndpointTrust::Authorities(pem.as_str().into());
        assert_eq!(trust(&mut config), of(&authorities[0]));

        fs::write(&ca, "no certificate").expect("written");
        status.changed().await.expect("watched");
        assert!(status.borrow_and_update().last_error.is_some());
        assert_eq!(trust(&mut config), of(&authorities[0]), "the last good one");

        fs::write(&ca, &authorities[1]).expect("written");
        config.changed().await.expect("watched");
        assert_eq!(trust(&mut config), of(&authorities[1]));
    }

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.self_signed(&key).expect("signed").pem()
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_file_at_the_start_is_an_error_that_names_it() {
        let error = ConfigFile::open("/nowhere/config.yaml")
            .await
            .expect_err("absent")
            .to_string();
        assert!(error.contains("/nowhere/config.yaml"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn directories_large_files_and_binary_files_are_rejected() {
        let dir = TempDir::new().expect("a directory");
        assert!(matches!(
            ConfigFile::open(dir.path()).await,
            Err(LoadError::Read { .. })
        ));
        for content in [vec![b'#'; 3 * MAX_BYTES], vec![0xff, 0xfe, 0xfd]] {
            let path = dir.path().join("config.yaml");
            fs::write(&path, content).expect("written");
            assert!(matches!(
                ConfigFile::open(path).await,
                Err(LoadError::Invalid { .. })
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn watching_ends_when_every_receiver_is_dropped() {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, text("a")).expect("written");
        let (config, _status, mut tasks) = watched(&path).await;
        drop(config);
        tasks
            .join_next()
            .await
            .expect("one task")
            .expect("it ended by itself");
    }
}
