//! How a pool's engines are scraped for metrics.

use std::{path::Path, sync::Arc, time::Duration};

use hermes_core::address::is_path;

use super::{
    duration::{HOUR, MINUTE, SECOND},
    engine::EngineKind,
    section::Section,
};

/// Time between two scrapes unless something else is configured.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long one scrape may take unless something else is configured.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How a pool's metrics are collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorConfig {
    /// Whether at all.
    pub enabled: bool,
    /// Time between two scrapes of an endpoint.
    pub interval: Duration,
    /// How long one scrape may take.
    pub timeout: Duration,
    /// Where: begins with `/`.
    pub path: Arc<str>,
    /// Samples older than this are not used; longer than `interval`.
    pub stale_after: Duration,
    /// The file with the engines' key, if they want one.
    pub key_file: Option<Arc<Path>>,
}

impl CollectorConfig {
    /// The defaults for an engine that is scraped at this interval.
    pub(super) fn new(engine: EngineKind, interval: Duration, timeout: Duration) -> Self {
        Self {
            enabled: engine.has_metrics(),
            interval,
            timeout,
            path: engine.metrics_path().into(),
            stale_after: (interval * 3).max(SECOND * 5),
            key_file: None,
        }
    }

    /// The same for another engine: what was the default of the one `before` is that of `engine`.
    pub(super) fn of_engine(self, before: EngineKind, engine: EngineKind) -> Self {
        Self {
            enabled: if self.enabled == before.has_metrics() {
                engine.has_metrics()
            } else {
                self.enabled
            },
            path: if *self.path == *before.metrics_path() {
                engine.metrics_path().into()
            } else {
                self.path
            },
            ..self
        }
    }
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self::new(EngineKind::default(), INTERVAL, TIMEOUT)
    }
}

/// The mapping `metrics` of a pool with this engine.
pub(super) fn read(section: &mut Section<'_>, engine: EngineKind) -> CollectorConfig {
    let enabled = section
        .flag("enabled", "Whether the engines are scraped.")
        .or_unset("true; false for the engine `openai`");
    let interval = section
        .duration(
            "interval",
            SECOND / 10..=MINUTE * 10,
            "Time between two scrapes of an endpoint.",
        )
        .or(INTERVAL);
    let timeout = section
        .duration(
            "timeout",
            SECOND / 100..=MINUTE * 5,
            "How long one scrape may take.",
        )
        .or(TIMEOUT);
    let path = section
        .text_where(
            "path",
            "a path such as /metrics",
            is_path,
            "Path at which the engine exposes its metrics.",
        )
        .or_unset("`/metrics`; `/prometheus/metrics` for the engine `trtllm`");
    let stale_after = section
        .duration(
            "staleAfter",
            SECOND / 10..=HOUR,
            "Age from which samples are not used; longer than `interval`.",
        )
        .or_unset("three intervals, at least 5s");
    let key_file = section
        .text(
            "keyFile",
            "a file with the engines' API key",
            "File with the API key that the engines want, sent as a bearer token with scrapes, lists of models, \
             `/tokenize` and `/kv_event_sources`; read again every 10 s. Clients' own keys go to the engines as they are.",
        )
        .or_unset("no key");
    let defaults = CollectorConfig::new(engine, interval, timeout);
    let config = CollectorConfig {
        enabled: enabled.unwrap_or(defaults.enabled),
        path: path.unwrap_or(defaults.path),
        stale_after: stale_after.unwrap_or(defaults.stale_after),
        interval,
        timeout,
        key_file: key_file.map(|path| Arc::from(Path::new(&*path))),
    };
    if config.stale_after <= interval {
        section.error(
            "staleAfter",
            "not longer than `interval`",
            "set it to at least two intervals",
        );
    }
    config
}
