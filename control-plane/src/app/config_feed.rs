//! The configuration as a source of updates.

use std::sync::Arc;

use hermes_runtime::readiness::Note;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::ConfigSource;
use crate::{
    cluster::Update,
    config::{
        Config,
        watch::{ConfigFile, ConfigStatus, LoadError},
    },
    metrics::ControlPlaneMetrics,
    objects::MergedConfig,
};

/// A configuration that was loaded, and is watched for changes.
pub(super) struct ConfigFeed {
    config: watch::Receiver<Arc<Config>>,
    /// Of a file; a value has none, and never changes.
    file: Option<(watch::Receiver<ConfigStatus>, AbortOnDropHandle<()>)>,
    /// Keeps the value's channel open.
    _value: Option<watch::Sender<Arc<Config>>>,
}

// === ConfigFeed ===

impl ConfigFeed {
    /// Loads the initial configuration.
    pub(super) async fn open(source: ConfigSource) -> Result<Self, LoadError> {
        match source {
            ConfigSource::Value(config) => {
                let (sender, config) = watch::channel(Arc::new(config));
                Ok(Self {
                    config,
                    file: None,
                    _value: Some(sender),
                })
            }
            ConfigSource::File(path) => {
                let file = ConfigFile::open(path).await?;
                let (config, status) = (file.config(), file.status());
                let follow = AbortOnDropHandle::new(tokio::spawn(file.watch()));
                Ok(Self {
                    config,
                    file: Some((status, follow)),
                    _value: None,
                })
            }
        }
    }

    /// The status of the configuration file; a value has none.
    pub(super) fn status(&self) -> Option<watch::Receiver<ConfigStatus>> {
        self.file.as_ref().map(|(status, _)| status.clone())
    }

    /// The configuration without its objects.
    pub(super) fn file(&self) -> watch::Receiver<Arc<Config>> {
        self.config.clone()
    }

    /// Sends every configuration, `merged` with its objects, until the pipeline ends. `note` shows
    /// why the file's newest version is not in force.
    pub(super) async fn run(
        self,
        mut merged: watch::Receiver<MergedConfig>,
        updates: mpsc::Sender<Update>,
        metrics: ControlPlaneMetrics,
        note: Note,
    ) {
        let Self {
            config: _config,
            file,
            _value,
        } = self;
        merged.mark_changed();
        let (mut status, _follow) = file.unzip();
        metrics.config.last_reload_successful.set(1);
        metrics.config.revision.set(1);
        loop {
            tokio::select! {
                changed = merged.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = merged.borrow_and_update().clone();
                    let Some(newest) = newest else { continue };
                    if updates.send(Update::Config(newest)).await.is_err() {
                        return;
                    }
                }
                Some(()) = news(status.as_mut()) => {
                    let Some(status) = &status else { continue };
                    let status = status.borrow();
                    metrics.config.last_reload_successful.set(i64::from(status.last_error.is_none()));
                    metrics.config.revision.set(i64::try_from(status.revision).unwrap_or(i64::MAX));
                    match &status.last_error {
                        Some(error) => note.say(format!("refused, the last good one stays: {error}")),
                        None => note.clear(),
                    }
                }
            }
        }
    }
}

/// Resolves when there is a new status; for a value there never is.
async fn news(status: Option<&mut watch::Receiver<ConfigStatus>>) -> Option<()> {
    match status {
        Some(status) => status.changed().await.ok(),
        None => std::future::pending().await,
    }
}
