//! One request from its route to its answer.
//!
//! ```text
//! record ─▶ route ─▶ key ─▶ fault? ─▶ parse and check ─▶ run ─▶ whole answer or stream
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Response, StatusCode};

use super::chain::Chain;
use super::chat::{self, ChatEvents};
use super::completions::{self, CompletionEvents};
use super::config::EngineConfig;
use super::engine_core::EngineCore;
use super::faults::{Fault, Faults};
use super::fields::{Fields, wrong_content_type};
use super::generation::{Generation, Params};
use super::info;
use super::journal::{Journal, RecordedRequest};
use super::kv_events::Doors;
use super::messages::{self, MessageEvents};
use super::pooling::Pooling;
use super::prompt;
use super::reply::{
    ApiError, Body, Broken, detail, events, injected, method_not_allowed, raw_json,
};
use super::responses::{self, ResponseEvents};
use super::route::{Route, Task};
use super::socket::Fuse;
use super::stream::frames;
use super::trace;

/// The version that the engine claims, in the form of vLLM's system fingerprint.
pub(crate) const FINGERPRINT: &str = "vllm-0.32.0-5133a7ed";

/// Everything that answering a request needs.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) core: Arc<EngineCore>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) journal: Arc<Journal>,
    /// Where KV events are published, if they are.
    pub(crate) events: Option<Doors>,
    /// Seconds since the Unix epoch at which this incarnation started.
    pub(crate) started: f64,
    base: Arc<str>,
    adapters: Vec<Arc<str>>,
    requests: AtomicU64,
}

impl Service {
    pub(crate) fn new(
        config: Arc<EngineConfig>,
        core: Arc<EngineCore>,
        faults: Arc<Faults>,
        journal: Arc<Journal>,
        events: Option<Doors>,
    ) -> Self {
        let base = Arc::from(config.model.as_str());
        let adapters = config
            .loras
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect();
        let started = since_epoch().as_secs_f64();
        Self {
            config,
            core,
            faults,
            journal,
            events,
            started,
            base,
            adapters,
            requests: AtomicU64::new(0),
        }
    }

    /// How many leading tokens of this prompt are in the cache now. Changes nothing.
    pub(crate) fn held_prefix_tokens(&self, model: &str, prompt: prompt::Prompt<'_>) -> usize {
        let Some(tokens) = prompt.tokens() else {
            return 0;
        };
        let chain = Chain::new(model, None, self.config.block_size, &tokens);
        self.core
            .read(|scheduler| scheduler.cache().prefix_len(chain.hashes()))
            * self.config.block_size
    }

    /// Inference requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Answers one request. `fuse` belongs to its connection.
    ///
    /// # Errors
    /// `Broken` when the connection has to end without an answer.
    pub(crate) async fn answer(
        &self,
        request: RecordedRequest,
        fuse: &Arc<Fuse>,
    ) -> Result<Response<Body>, Broken> {
        let request = Arc::new(request);
        self.journal.record(&request);
        let Some(route) = Route::find(request.uri.path()) else {
            return Ok(detail(StatusCode::NOT_FOUND, "Not Found"));
        };
        if !route.allows(&request.method) {
            return Ok(method_not_allowed(route.methods()));
        }
        if !self.is_authorized(&request) {
            return Ok(raw_json(
                StatusCode::UNAUTHORIZED,
                r#"{"error":"Unauthorized"}"#,
            ));
        }
        match route {
            Route::Run(task) => self.infer(task, &request, fuse).await,
            Route::Metrics => info::metrics(self).await,
            other => Ok(info::answer(self, other, &request)),
        }
    }

    /// The model of this name, and whether it is an adapter; the base model when no name is given.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<(Arc<str>, bool), ApiError> {
        let Some(name) = name.filter(|name| **name != *self.base) else {
            return Ok((Arc::clone(&self.base), false));
        };
        if let Some(adapter) = self.adapters.iter().find(|adapter| ***adapter == *name) {
            return Ok((Arc::clone(adapter), true));
        }
        let mut aliases = self.config.model.clone();
        for adapter in &self.adapters {
            aliases = aliases + ", " + adapter;
        }
        Err(ApiError::unknown_model(name, &aliases))
    }

    fn is_authorized(&self, request: &RecordedRequest) -> bool {
        let Some(key) = &self.config.api_key else {
            return true;
        };
        let given = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        !request.uri.path().starts_with("/v1") || given == Some(key)
    }

    async fn infer(
        &self,
        task: Task,
        request: &RecordedRequest,
        fuse: &Arc<Fuse>,
    ) -> Result<Response<Body>, Broken> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        match self.faults.for_request() {
            Some(Fault::Status { code, retry_after }) => return Ok(injected(code, retry_after)),
            Some(Fault::StallBeforeHeaders) => std::future::pending().await,
            Some(Fault::CloseBeforeHeaders) => return Err(Broken),
            Some(Fault::ResetBeforeHeaders) => {
                fuse.burn();
                return Err(Broken);
            }
            _ => {}
        }
        let id = match request.header("x-request-id") {
            Some(id) => id.to_owned(),
            None => format!("{:016x}", fresh_id(self.started, number)),
        };
        match self.start(task, request, id) {
            Ok(Running::Generation(mut generation)) => {
                generation.span = trace::begin(request, &generation);
                self.deliver(task, generation, fuse).await
            }
            Ok(Running::Pooling(pooling, generation)) => {
                pooling.answer(generation).await.map_err(|_| Broken)
            }
            Err(error) if task == Task::Messages => Ok(error.into_anthropic()),
            Err(error) => Ok(error.into_response()),
        }
    }

    /// Parses and checks a request, and starts its sequences.
    fn start(
        &self,
        task: Task,
        request: &RecordedRequest,
        id: String,
    ) -> Result<Running, ApiError> {
        require_json(request)?;
        let fields = Fields::parse(&request.body)?;
        if task.is_pooling() {
            let mut params = Params::read(self, &fields, &[])?;
            params.max_tokens = Some(("max_tokens", 1));
            let pooling = match task {
                Task::Embeddings => Pooling::embeddings(&fields)?,
                Task::Rerank => Pooling::rerank(&fields)?,
                _ => Pooling::score(&fields)?,
            };
            let generation = Generation::start(self, params, id, pooling.prompts())?;
            return Ok(Running::Pooling(pooling, generation));
        }
        let (prompts, limits): (_, &[_]) = match task {
            Task::Completions => (prompt::completion(&fields)?, &["max_tokens"]),
            Task::Responses => (
                vec![prompt::response_input(&fields)?],
                &["max_output_tokens"],
            ),
            Task::Messages => (vec![prompt::chat(&fields, "messages")?], &["max_tokens"]),
            _ => (
                vec![prompt::chat(&fields, "messages")?],
                &["max_completion_tokens", "max_tokens"],
            ),
        };
        let params = Params::read(self, &fields, limits)?;
        Generation::start(self, params, id, prompts).map(Running::Generation)
    }

    async fn deliver(
        &self,
        task: Task,
        generation: Generation,
        fuse: &Arc<Fuse>,
    ) -> Result<Response<Body>, Broken> {
        if !generation.params.stream {
            let whole = match task {
                Task::Completions => completions::whole(generation).await,
                Task::Responses => responses::whole(generation).await,
                Task::Messages => messages::whole(generation).await,
                _ => chat::whole(generation).await,
            };
            return whole.map_err(|_| Broken);
        }
        let (fault, fuse) = (self.faults.for_stream(), Arc::clone(fuse));
        Ok(events(match task {
            Task::Completions => {
                let events = CompletionEvents::new(&generation);
                frames(generation, events, fault, fuse)
            }
            Task::Responses => {
                let events = ResponseEvents::new(&generation);
                frames(generation, events, fault, fuse)
            }
            Task::Messages => {
                let events = MessageEvents::new(&generation);
                frames(generation, events, fault, fuse)
            }
            _ => {
                let events = ChatEvents::new(&generation);
                frames(generation, events, fault, fuse)
            }
        }))
    }
}

enum Running {
    Generation(Generation),
    Pooling(Pooling, Generation),
}

/// vLLM reads bodies only when they are declared to be JSON.
pub(crate) fn require_json(request: &RecordedRequest) -> Result<(), ApiError> {
    let media = request
        .header("content-type")
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
        Ok(())
    } else {
        Err(wrong_content_type())
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}

/// Time since the Unix epoch; zero for a clock that is set before it.
pub(crate) fn since_epoch() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// An id that no other request of this engine has, and most likely none of another engine.
fn fresh_id(started: f64, number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), started.to_bits())
}
