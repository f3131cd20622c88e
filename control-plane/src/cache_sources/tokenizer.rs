//! Prompts to the token ids that the engine will make of them: what an exact index of caches, and a
//! KV manager that matches on tokens, go by.
//!
//! ```text
//!   PromptText ─▶ known? ─▶ under way? ─▶ wanted ─┬─ files:  template ─▶ text ─▶ tokenizer   (a few threads of their own)
//!                  (memo)    (flights)            └─ engine: POST /tokenize                  (any endpoint of the pool)
//! ```
//!
//! Invariants:
//! * ids are exact or there are none: what cannot be made as the engine makes it is left alone, and
//!   counted by why;
//! * no request waits longer than the pool's time limit, or than its own deadline;
//! * identical prompts are made into tokens once, at the same time or one after the other; old
//!   turns of a conversation are made once too ([`pieces`]);
//! * memory is bounded in bytes, work in threads, and what waits for them in number;
//! * prompts reach no log, no error and no metric.
//!
//! What ids are good for is decided elsewhere.

mod chat;
mod content;
mod conversation;
mod encoder;
mod engine;
mod failure;
mod files;
#[cfg(test)]
mod fixture;
mod follow;
mod key;
mod memo;
mod metrics;
mod pieces;
mod python;
mod quirks;
mod responses;
mod template;
mod wanted;
mod workshop;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use hermes_core::snapshot::Pool;
use hermes_proto::v1::PromptText;
use tokio::time::{Instant, timeout};

pub use self::{
    content::ContentFormat,
    failure::Failure,
    files::{TokenizerFiles, Unusable, describe},
    metrics::{TokenizeOutcome, TokenizerMetrics},
    workshop::MAX_WAITING,
};
use self::{
    encoder::{EncodedPrompt, Encoder},
    engine::EngineTokenizer,
    follow::FollowedFiles,
    memo::{TokenCache, TokenKey},
    wanted::TokenizeInput,
    workshop::TokenizerWorkers,
};
use crate::{
    cache_sources::{lookup_client::LookupLimits, single_flight::SingleFlight},
    engines::EngineKey,
};

/// Longest list of ids that is read from an engine, in bytes of JSON.
const MAX_ANSWER: usize = 16 << 20;

/// How many times the limit work goes on that was begun.
const PERSISTENCE: u32 = 25;

/// How prompts of a pool become token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerSettings {
    /// Who makes them.
    pub way: Way,
    /// Bytes that remembered ids may take.
    pub cache: usize,
    /// How long a request may wait for them.
    pub timeout: Duration,
    /// Longer lookups, in bytes of JSON, are not made.
    pub longest: usize,
    /// The file with the key that engines want, if they make the ids.
    pub key_file: Option<Arc<Path>>,
}

/// Who makes token ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// This process, from the model's files.
    Files(TokenizerFiles),
    /// The engines, at `/tokenize`.
    Engine,
}

/// Token ids for the prompts of one pool. Dropping it ends what it does in the background.
#[derive(Debug)]
pub struct PoolTokenizer {
    shared: Arc<TokenizerState>,
}

#[derive(Debug)]
struct TokenizerState {
    settings: TokenizerSettings,
    maker: TokenizerBackend,
    workshop: TokenizerWorkers,
    memo: TokenCache,
    flights: SingleFlight<TokenKey, Result<Arc<[u32]>, Failure>>,
    metrics: TokenizerMetrics,
}

#[derive(Debug)]
enum TokenizerBackend {
    Files(FollowedFiles),
    /// With a seed for the keys of what is remembered.
    Engine(EngineTokenizer, u64),
}

/// A maker as it is at one moment.
enum ReadyBackend {
    Files(Arc<Encoder>),
    Engine(u64),
}

// === PoolTokenizer ===

impl PoolTokenizer {
    /// Begins to read the files, if there are any. `pool` is for the log.
    ///
    /// # Errors
    /// When the process has no usable TLS configuration.
    pub fn new(
        pool: &str,
        settings: TokenizerSettings,
        metrics: TokenizerMetrics,
    ) -> Result<Self, reqwest::Error> {
        let seed = RandomState::new().build_hasher().finish();
        let maker = match &settings.way {
            Way::Files(files) => {
                TokenizerBackend::Files(FollowedFiles::begin(pool, files.clone(), seed))
            }
            Way::Engine => {
                let key = settings.key_file.clone().map(EngineKey::new);
                let engines = EngineTokenizer::new(limits(settings.timeout), key)?;
                TokenizerBackend::Engine(engines, seed)
            }
        };
        let (memo, flights) = (TokenCache::new(settings.cache), SingleFlight::default());
        let shared = TokenizerState {
            settings,
            maker,
            workshop: TokenizerWorkers::new(),
            memo,
            flights,
            metrics,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The endpoints of `pool` may be asked from now on.
    pub fn follow(&self, pool: &Pool) {
        if let TokenizerBackend::Engine(engine, _) = &self.shared.maker {
            engine.follow(
                pool.endpoints.iter().map(|endpoint| &endpoint.address),
                &pool.spec.policy.trust,
            );
        }
    }

    /// Waits until the files were read once, whether they are usable or not. Engines need no
    /// waiting.
    pub async fn settled(&self) {
        if let TokenizerBackend::Files(followed) = &self.shared.maker {
            followed.settled().await;
        }
    }

    /// The ids that the engine will make of `text`, if they can be known, and in time.
    pub async fn ids(&self, text: &PromptText, model: Option<&str>) -> Option<Arc<[u32]>> {
        let started = Instant::now();
        let (outcome, ids) = match self.find(text, model).await {
            Ok((outcome, ids)) => (outcome, Some(ids)),
            Err(failure) => (TokenizeOutcome::Failed(failure), None),
        };
        self.shared.metrics.observe(outcome, started.elapsed());
        ids
    }

    async fn find(
        &self,
        text: &PromptText,
        model: Option<&str>,
    ) -> Result<(TokenizeOutcome, Arc<[u32]>), Failure> {
        let shared = &self.shared;
        if key::length(text) > shared.settings.longest {
            return Err(Failure::TooLong);
        }
        let ready = shared.maker.ready().ok_or(Failure::Absent)?;
        let key = key::key(text, model, ready.seed());
        if let Some(ids) = shared.memo.get(key) {
            shared.metrics.observe_tokens(ids.len(), ids.len());
            return Ok((TokenizeOutcome::Cached, ids));
        }
        let work = || Arc::clone(shared).work(ready, key, text.clone(), model.map(Arc::from));
        let (flight, joined) = shared.flights.join(key, work);
        let made = timeout(shared.settings.timeout, flight)
            .await
            .unwrap_or(Err(Failure::Late));
        Ok((
            if joined {
                TokenizeOutcome::Shared
            } else {
                TokenizeOutcome::Tokenized
            },
            made?,
        ))
    }
}

// === TokenizerState ===

impl TokenizerState {
    /// Makes the ids of `text` and remembers them.
    fn work(
        self: Arc<Self>,
        ready: ReadyBackend,
        key: TokenKey,
        text: PromptText,
        model: Option<Arc<str>>,
    ) -> BoxFuture<'static, Result<Arc<[u32]>, Failure>> {
        async move {
            match ready {
                ReadyBackend::Files(encoder) => Arc::clone(&self).encode(encoder, key, text).await,
                ReadyBackend::Engine(_) => self.ask(key, &text, model.as_deref()).await,
            }
        }
        .boxed()
    }

    async fn encode(
        self: Arc<Self>,
        encoder: Arc<Encoder>,
        key: TokenKey,
        text: PromptText,
    ) -> Result<Arc<[u32]>, Failure> {
        let shared = Arc::clone(&self);
        let work = move || {
            // No request waits that long, but the same prompt and its earlier turns come again, and
            // are cached then.
            let deadline = Instant::now() + shared.settings.timeout * PERSISTENCE;
            let made = encoder.ids(&TokenizeInput::read(&text)?, &shared.memo, || {
                Instant::now() < deadline
            })?;
            Ok(shared.keep(key, made, !encoder.reads_clock()))
        };
        self.workshop.run(work).await?
    }

    async fn ask(
        &self,
        key: TokenKey,
        text: &PromptText,
        model: Option<&str>,
    ) -> Result<Arc<[u32]>, Failure> {
        let TokenizerBackend::Engine(engine, _) = &self.maker else {
            return Err(Failure::Absent);
        };
        let ids = engine.ids(&TokenizeInput::read(text)?, model).await?;
        Ok(self.keep(key, EncodedPrompt { ids, remembered: 0 }, true))
    }

    /// Counts what was made, and remembers it as a whole unless it will be other ids tomorrow.
    fn keep(
        &self,
        key: TokenKey,
        EncodedPrompt { ids, remembered }: EncodedPrompt,
        keeps: bool,
    ) -> Arc<[u32]> {
        self.metrics.observe_tokens(ids.len(), remembered);
        let ids = ids.into();
        if keeps {
            self.memo.put(key, &ids);
        }
        ids
    }
}

// === TokenizerBackend ===

impl TokenizerBackend {
    /// What it is now; `None` while it can make nothing.
    fn ready(&self) -> Option<ReadyBackend> {
        match self {
            Self::Files(followed) => followed.encoder().map(ReadyBackend::Files),
            Self::Engine(_, seed) => Some(ReadyBackend::Engine(*seed)),
        }
    }
}

impl ReadyBackend {
    /// Keeps what is made of one version of the files apart from what is made of the next.
    fn seed(&self) -> u64 {
        match self {
            Self::Files(encoder) => encoder.seed(),
            Self::Engine(seed) => *seed,
        }
    }
}

fn limits(budget: Duration) -> LookupLimits {
    LookupLimits {
        in_flight: MAX_WAITING,
        budget,
        connect: budget,
        answer: MAX_ANSWER,
    }
}

#[cfg(test)]
mod tests;
