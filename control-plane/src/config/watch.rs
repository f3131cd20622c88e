//! Hot reload: watches the content of the configuration file and publishes every good version of it.
//!
//! ```text
//!   file ──every 500 ms──▶ same content? ──no──▶ parse ──good──▶ watch<Arc<Config>>
//!                                                  └────bad────▶ log, ConfigStatus; the last good stays
//! ```
//!
//! Invariants:
//! * there is always a good configuration: a file that is bad or absent is an error at the start, a warning later;
//! * the content decides, not the time of change: a ConfigMap is swapped by a symlink and may carry any time;
//! * one content is parsed and logged once, however long it stays.
//!
//! It owns no task: [`ConfigFile::watch`] is a future that its owner runs and drops.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task,
    time::{self, MissedTickBehavior},
};

use super::{Config, MAX_BYTES, Mistakes};

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long the first reading may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A configuration file and what was last read from it.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What the file held when it was last read; nothing while it cannot be read.
    seen: Option<Vec<u8>>,
    config: watch::Sender<Arc<Config>>,
    status: watch::Sender<ConfigStatus>,
}

/// How the configuration in force came to be, for metrics and for `/readyz`.
#[derive(Clone, Debug)]
pub struct ConfigStatus {
    /// Counts the configurations that were put in force; the first is 1.
    pub revision: u64,
    /// When the one in force was put in force.
    pub loaded_at: SystemTime,
    /// Why the file, as it is now, is not in force; nothing when it is.
    pub last_error: Option<Arc<LoadError>>,
}

/// Why a file is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is absent, unreadable, or not a file.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was read, and it is wrong.
    #[error("the configuration {} has {} mistakes:\n{mistakes}", path.display(), mistakes.len())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        mistakes: Mistakes,
    },
}

// === ConfigFile ===

impl ConfigFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read within ten seconds, or it is wrong; the message names it and lists every mistake.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let path = path.into();
        let read = time::timeout(OPEN_TIMEOUT, read(path.clone()));
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

    /// The configuration in force; the newest wins.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// How it came to be in force.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConfigStatus> {
        self.status.subscribe()
    }

    /// Follows the file until nobody reads the configuration any more.
    ///
    /// A file system that hangs holds one blocking thread and this future, never more: the next reading begins after
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
                content = read(self.path.clone()) => self.notice(content),
            }
        }
    }

    /// Acts on what was read if it differs from what was read before.
    fn notice(&mut self, content: io::Result<Vec<u8>>) {
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
            Ok(config) => self.put_in_force(config),
            Err(error) => self.keep_the_last(error),
        }
    }

    fn put_in_force(&self, config: Config) {
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
        tracing::info!(%path, revision, changed, "configuration read");
    }

    fn keep_the_last(&self, error: LoadError) {
        match &error {
            LoadError::Read { path, source } => {
                tracing::warn!(path = %path.display(), error = %source, "configuration unreadable, the last good one stays");
            }
            LoadError::Invalid { path, mistakes } => {
                for mistake in mistakes {
                    tracing::warn!(path = %path.display(), %mistake, "mistake in the configuration, the last good one stays");
                }
            }
        }
        self.status
            .send_modify(|status| status.last_error = Some(Arc::new(error)));
    }
}

fn log_warnings(path: &Path, config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(path = %path.display(), %warning, "configuration accepted, with a doubt");
    }
}

fn parse(path: &Path, content: &[u8]) -> Result<Config, LoadError> {
    Config::parse_bytes(content).map_err(|mistakes| LoadError::Invalid {
        path: path.to_owned(),
        mistakes,
    })
}

/// The file's content, cut after one byte more than is allowed, so that parsing refuses it without reading all of it.
async fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    task::spawn_blocking(move || read_blocking(&path))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn read_blocking(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut content = Vec::new();
    File::open(path)?
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;
    use tokio::task::JoinSet;

    use super::*;

    fn text(pool: &str) -> String {
        format!("pools: [{{name: {pool}, endpoints: ['http://10.0.0.7:8000']}}]")
    }

    /// A watched file that holds the pool `a`, and the owner of the watching task.
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
    async fn a_swapped_config_map_is_put_in_force() {
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
    async fn a_bad_version_leaves_the_last_good_one_in_force_until_it_is_corrected() {
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
            .expect("three mistakes");
        let LoadError::Invalid { mistakes, .. } = &*error else {
            panic!("{error}")
        };
        assert_eq!(mistakes.len(), 3, "{mistakes}");
        assert_eq!(&*pool_name(&mut config), "a");

        time::sleep(INTERVAL * 20).await;
        assert!(
            !status.has_changed().expect("watched"),
            "one content is noticed once"
        );

        fs::write(&path, text("b")).expect("written");
        config.changed().await.expect("watched");
        status.changed().await.expect("watched");
        assert_eq!(&*pool_name(&mut config), "b");
        assert!(status.borrow().last_error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_vanishes_and_comes_back_changes_nothing_but_the_status() {
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
    async fn a_missing_file_at_the_start_is_an_error_that_names_it() {
        let error = ConfigFile::open("/nowhere/config.yaml")
            .await
            .expect_err("absent")
            .to_string();
        assert!(error.contains("/nowhere/config.yaml"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_a_file_of_sane_size_with_text_is_refused() {
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
    async fn watching_ends_when_nobody_reads_the_configuration() {
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
