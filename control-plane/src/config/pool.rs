//! One pool: what it is configured to be, checked.
//!
//! ```text
//!   a source of configuration ──▶ PoolParts ──check──▶ PoolConfig, PoolIssues ──▶ PoolFragment, with its origin
//! ```
//!
//! The YAML reader is one such source. A [`PoolParts`] has parts that are right by themselves;
//! [`PoolParts::check`] decides what they mean together, and needs no file for it.

pub(super) mod section;

use std::sync::Arc;

use hermes_core::{
    inference_pool::{AskedPicker, ModelPriority, Objective, PickerReference},
    policy::{KvAware, PoolPolicy, QueueLimits, Strategy},
    rewrites::{self, ModelRewrite},
};

use super::{
    collector::CollectorConfig, endpoint_tls::EndpointTlsConfig, engine::EngineKind,
    origin::ConfigOrigin, source::EndpointSource, tokenizer,
};
use crate::cache_sources::{
    kv_events::KvEventsSettings,
    kv_manager::KvManagerSettings,
    tokenizer::{TokenizerSettings, Way},
};

/// Everything that is configured for a pool, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// 1 to 63 characters of a-z, 0-9 and `-`, or `namespace/name` of an object; unique.
    pub name: Arc<str>,
    /// Sorted, each once; empty if the engines report them.
    pub models: Vec<Arc<str>>,
    /// The engine behind the endpoints.
    pub engine: EngineKind,
    /// Prompts that one endpoint computes at once, 1..=64; `None` if the engines report it.
    pub lanes: Option<u32>,
    /// Where the endpoints come from; at least one.
    pub sources: Vec<EndpointSource>,
    /// How requests are handled; sent to the proxies.
    pub policy: PoolPolicy,
    /// How certificates of endpoints are verified.
    pub tls: EndpointTlsConfig,
    /// How metrics are collected.
    pub collector: CollectorConfig,
    /// Asked about caches; present only if the strategy reads them.
    pub kv_manager: Option<KvManagerSettings>,
    /// The engines' KV events; present only if the strategy reads caches.
    pub kv_events: Option<KvEventsSettings>,
    /// How prompts become token ids; present only if something needs them.
    pub tokenizer: Option<TokenizerSettings>,
    /// By which Services gateways reach the picker for this pool; sorted, each once.
    pub pickers: Arc<[PickerReference]>,
    /// In order of precedence, at most one for each model.
    pub rewrites: Arc<[ModelRewrite]>,
    /// Sorted by model, each once.
    pub priorities: Arc<[ModelPriority]>,
    /// Sorted by name, each once.
    pub objectives: Arc<[Objective]>,
    /// The picker that chooses the endpoints, if that is not this router.
    pub asked_picker: Option<AskedPicker>,
    /// Endpoints at `http` addresses are spoken to over HTTP/2.
    pub http2: bool,
}

/// The parts of a pool as a source of configuration states them.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolParts {
    /// As in [`PoolConfig`].
    pub name: Arc<str>,
    /// As in [`PoolConfig`].
    pub models: Vec<Arc<str>>,
    /// As in [`PoolConfig`].
    pub engine: EngineKind,
    /// As in [`PoolConfig`].
    pub lanes: Option<u32>,
    /// As in [`PoolConfig`].
    pub sources: Vec<EndpointSource>,
    /// Its `score_deadline` is that of the choice alone; `lookup_text` and `trust` are ignored.
    pub policy: PoolPolicy,
    /// How certificates of endpoints are verified, whether or not there are any.
    pub tls: Option<EndpointTlsConfig>,
    /// Bounds of the queue, which only `kv-aware` has.
    pub queue: Option<QueueLimits>,
    /// As in [`PoolConfig`].
    pub collector: CollectorConfig,
    /// A KV manager, whatever the strategy.
    pub kv_manager: Option<KvManagerSettings>,
    /// KV events, whatever the strategy.
    pub kv_events: Option<KvEventsSettings>,
    /// A tokenizer, whether or not something needs it.
    pub tokenizer: Option<TokenizerSettings>,
    /// In any order.
    pub pickers: Vec<PickerReference>,
    /// Of several for one model the first counts.
    pub rewrites: Vec<ModelRewrite>,
    /// In any order; of several for one model the first counts.
    pub priorities: Vec<ModelPriority>,
    /// In any order; of several with one name the first counts.
    pub objectives: Vec<Objective>,
    /// As in [`PoolConfig`].
    pub asked_picker: Option<AskedPicker>,
    /// As in [`PoolConfig`].
    pub http2: bool,
}

/// What is wrong, or probably not intended, with the parts of a pool together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolIssue {
    /// The part, by its key in a pool.
    pub key: &'static str,
    /// What is the matter.
    pub found: String,
    /// What to do about an error; absent for a warning.
    pub fix: Option<&'static str>,
}

/// One pool with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolFragment {
    /// Where the pool is configured.
    pub origin: ConfigOrigin,
    /// The pool, checked by itself.
    pub pool: PoolConfig,
}

// === PoolParts ===

impl PoolParts {
    /// A pool with every default, and no endpoints yet.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            models: Vec::new(),
            engine: EngineKind::default(),
            lanes: None,
            sources: Vec::new(),
            policy: PoolPolicy::default(),
            tls: None,
            queue: None,
            collector: CollectorConfig::default(),
            kv_manager: None,
            kv_events: None,
            tokenizer: None,
            pickers: Vec::new(),
            rewrites: Vec::new(),
            priorities: Vec::new(),
            objectives: Vec::new(),
            asked_picker: None,
            http2: false,
        }
    }

    /// The pool that the parts make together, without those that nothing needs, and what is the
    /// matter with them.
    #[must_use]
    pub fn check(mut self) -> (PoolConfig, Vec<PoolIssue>) {
        let mut issues = Vec::new();
        self.bound_queue(&mut issues);
        self.drop_unread_lanes(&mut issues);
        self.drop_unread_caches(&mut issues);
        self.settle_tokenizer(&mut issues);
        self.share_key();
        let tls = self.settle_tls(&mut issues);
        let rewrites = self.order_rewrites(&mut issues);
        self.sort_objects(&mut issues);
        let lookups = [
            self.kv_manager.as_ref().map(|manager| manager.budget),
            self.tokenizer.as_ref().map(|tokenizer| tokenizer.timeout),
        ];
        let policy = PoolPolicy {
            score_deadline: lookups
                .into_iter()
                .flatten()
                .fold(self.policy.score_deadline, |a, b| a + b),
            lookup_text: lookups.iter().any(Option::is_some),
            trust: tls.trust(),
            ..self.policy
        };
        let pool = PoolConfig {
            name: self.name,
            models: self.models,
            engine: self.engine,
            lanes: self.lanes,
            sources: self.sources,
            policy,
            tls,
            collector: self.collector,
            kv_manager: self.kv_manager,
            kv_events: self.kv_events,
            tokenizer: self.tokenizer,
            pickers: self.pickers.into(),
            rewrites,
            priorities: self.priorities.into(),
            objectives: self.objectives.into(),
            asked_picker: self.asked_picker,
            http2: self.http2,
        };
        (pool, issues)
    }

    /// Requests are queued by `kv-aware` only.
    fn bound_queue(&mut self, issues: &mut Vec<PoolIssue>) {
        let Some(queue) = self.queue else { return };
        match &mut self.policy.strategy {
            Strategy::KvAware(rules) => *rules = KvAware { queue, ..*rules },
            other => {
                let found = format!(
                    "has no effect: the strategy {} queues nothing",
                    other.name()
                );
                issues.push(PoolIssue::warning("queue", found));
            }
        }
    }

    /// Only `kv-aware` computes with lanes.
    fn drop_unread_lanes(&mut self, issues: &mut Vec<PoolIssue>) {
        let strategy = &self.policy.strategy;
        if self.lanes.is_some() && !matches!(strategy, Strategy::KvAware(_)) {
            let name = strategy.name();
            let found = format!("has no effect: the strategy {name} does not count lanes");
            issues.push(PoolIssue::warning("lanes", found));
            self.lanes = None;
        }
    }

    /// A strategy that reads no caches needs no source for them; one that does needs their ports.
    fn drop_unread_caches(&mut self, issues: &mut Vec<PoolIssue>) {
        let strategy = &self.policy.strategy;
        if !strategy.needs_prefix() {
            let found = format!("not used: the strategy {} reads no caches", strategy.name());
            if self.kv_manager.take().is_some() {
                issues.push(PoolIssue::warning("kvManager", found.clone()));
            }
            if self.kv_events.take().is_some() {
                issues.push(PoolIssue::warning("kvEvents", found));
            }
        }
        let Some(events) = &self.kv_events else {
            return;
        };
        if !self.engine.publishes_kv_events() {
            let engine = self.engine.name();
            let found = format!("the engine {engine} is not known to publish KV events");
            issues.push(PoolIssue::warning("kvEvents", found));
        }
        for source in &mut self.sources {
            source.discover_event_ports(&events.names);
        }
    }

    /// A conductor and KV events need token ids. Engines that publish KV events serve `/tokenize`
    /// too, so that their pool needs no tokenizer of its own.
    fn settle_tokenizer(&mut self, issues: &mut Vec<PoolIssue>) {
        let manager = self.kv_manager.as_ref();
        let needs_ids = manager.is_some_and(|manager| manager.dialect.needs_tokens());
        let is_given = self.tokenizer.is_some();
        if needs_ids && !is_given {
            issues.push(PoolIssue {
                key: "tokenizer",
                found: "missing".to_owned(),
                fix: Some("a conductor needs token ids: set the model's `path`, or `engine: true`"),
            });
        }
        if self.kv_events.is_some() {
            self.tokenizer
                .get_or_insert_with(|| tokenizer::defaults(Way::Engine));
        } else if is_given && self.kv_manager.is_none() {
            self.tokenizer = None;
            let found = "not used: nothing needs token ids".to_owned();
            issues.push(PoolIssue::warning("tokenizer", found));
        }
    }

    /// Whatever asks the engines has their key.
    fn share_key(&mut self) {
        let key_file = &self.collector.key_file;
        if let Some(events) = &mut self.kv_events {
            events.key_file.clone_from(key_file);
        }
        if let Some(tokenizer) = &mut self.tokenizer
            && tokenizer.way == Way::Engine
        {
            tokenizer.key_file.clone_from(key_file);
        }
    }

    /// Only the first rewrite of a model ever applies.
    fn order_rewrites(&mut self, issues: &mut Vec<PoolIssue>) -> Arc<[ModelRewrite]> {
        let (ordered, shadowed) = rewrites::ordered(std::mem::take(&mut self.rewrites));
        for rewrite in shadowed {
            let model = match &rewrite.model {
                Some(model) => format!("the model {model}"),
                None => "any model".to_owned(),
            };
            let found = format!("the second one for {model} has no effect");
            issues.push(PoolIssue::warning("rewrites", found));
        }
        ordered
    }

    /// Priorities, objectives and pickers are looked up.
    fn sort_objects(&mut self, issues: &mut Vec<PoolIssue>) {
        let mut warn = |key, found| issues.push(PoolIssue::warning(key, found));
        keep_first_of_each(
            &mut self.objectives,
            |objective| &objective.name,
            |name| {
                let found = format!("the second one with the name {name} has no effect");
                warn("objectives", found);
            },
        );
        keep_first_of_each(
            &mut self.priorities,
            |priority| &priority.model,
            |model| {
                let found = format!("the second one of the model {model} has no effect");
                warn("modelPriorities", found);
            },
        );
        self.pickers.sort();
        self.pickers.dedup();
    }

    /// Settings of TLS are for endpoints at `https` addresses.
    fn settle_tls(&mut self, issues: &mut Vec<PoolIssue>) -> EndpointTlsConfig {
        let Some(tls) = self.tls.take() else {
            return EndpointTlsConfig::default();
        };
        if !self.sources.iter().any(EndpointSource::may_be_secured) {
            let found = "has no effect: no endpoint is at an https address".to_owned();
            issues.push(PoolIssue::warning("tls", found));
        }
        tls
    }
}

// === PoolIssue ===

impl PoolIssue {
    fn warning(key: &'static str, found: String) -> Self {
        Self {
            key,
            found,
            fix: None,
        }
    }
}

/// Sorts by name; of several with one name the first stays, and `left_out` gets that of each
/// other.
fn keep_first_of_each<T>(
    list: &mut Vec<T>,
    name: impl Fn(&T) -> &str,
    mut left_out: impl FnMut(&str),
) {
    list.sort_by(|one, other| name(one).cmp(name(other)));
    list.dedup_by(|later, first| {
        let is_same = name(later) == name(first);
        if is_same {
            left_out(name(later));
        }
        is_same
    });
}

#[cfg(test)]
mod tests;
