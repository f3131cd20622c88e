//! One request from its route to its answer.
//!
//! ```text
//! record ─▶ route ─▶ key ─▶ fault? ─▶ parse and check ─▶ run ─▶ whole answer or stream
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Response, StatusCode};
use serde_json::value::RawValue;

use crate::api::EngineContext;
use crate::api::chat::{self, ChatEvents};
use crate::api::completions::{self, CompletionEvents};
use crate::api::context_answer;
use crate::api::fields::{Fields, require_json};
use crate::api::generation::{Generation, Params};
use crate::api::info;
use crate::api::messages::{self, MessageEvents};
use crate::api::pooling::Pooling;
use crate::api::prompt;
use crate::api::reply::{
    ApiError, Body, Broken, detail, events, injected, method_not_allowed, raw_json,
};
use crate::api::responses::{self, ResponseEvents};
use crate::api::route::{Route, Task};
use crate::api::stream::frames;
use crate::faults::Fault;
use crate::journal::RecordedRequest;
use crate::pair::{ComputedPrompt, HeldMemory, PairLeg, RefusedLeg};
use crate::serve::trace;
use crate::transport::socket::Fuse;

/// Answers the requests of one incarnation.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) context: EngineContext,
    requests: AtomicU64,
}

impl Service {
    pub(crate) fn new(context: EngineContext) -> Self {
        Self {
            context,
            requests: AtomicU64::new(0),
        }
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
        self.context.journal.record(&request);
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
            Route::Metrics => info::metrics(&self.context).await,
            other => Ok(info::answer(&self.context, other, &request)),
        }
    }

    fn is_authorized(&self, request: &RecordedRequest) -> bool {
        let Some(key) = &self.context.config.api_key else {
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
        match self.context.faults.for_request() {
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
            None => format!("{:016x}", fresh_id(self.context.started, number)),
        };
        let mut leg = match self.begin_leg(request).await {
            Ok(leg) => leg,
            Err(status) => return Ok(injected(status, None)),
        };
        match self.start(task, request, id, &leg) {
            Ok(Running::Generation(mut generation)) => {
                generation.span = trace::begin(request, &generation);
                if let Err(status) = self.hand_over(&mut generation, &mut leg).await? {
                    return Ok(injected(status, None));
                }
                let answer = self.deliver(task, generation, fuse).await?;
                let pair = self.context.pair.as_ref();
                Ok(match pair.and_then(|pair| pair.ends_context(&leg)) {
                    Some(reason) => context_answer::of(answer, reason).await,
                    None => answer,
                })
            }
            Ok(Running::Pooling(pooling, generation)) => {
                pooling.answer(generation).await.map_err(|_| Broken)
            }
            Err(error) if task == Task::Messages => Ok(error.into_anthropic()),
            Err(error) => Ok(error.into_response()),
        }
    }

    /// What a request is to the engine's pairs, if it has a part in any.
    async fn begin_leg(&self, request: &RecordedRequest) -> Result<PairLeg, RefusedLeg> {
        match &self.context.pair {
            Some(pair) => pair.begin(request).await,
            None => Ok(PairLeg::default()),
        }
    }

    /// Checks what came from another engine, and hands over what another engine waits for, when it
    /// is computed.
    async fn hand_over(
        &self,
        generation: &mut Generation,
        leg: &mut PairLeg,
    ) -> Result<Result<(), RefusedLeg>, Broken> {
        let Some(pair) = &self.context.pair else {
            return Ok(Ok(()));
        };
        let tokens = generation.usage().prompt_tokens;
        if let Err(status) = pair.check_length(leg, tokens) {
            return Ok(Err(status));
        }
        if !leg.is_prefill {
            return Ok(Ok(()));
        }
        generation.complete().await.map_err(|_| Broken)?;
        if pair.stops(leg) {
            generation.finish_reason = "stop";
        }
        let memory = generation
            .hold()
            .map(|blocks| Box::new(blocks) as HeldMemory);
        let prompt = ComputedPrompt {
            tokens,
            memory: memory.collect(),
        };
        Ok(match pair.hand_over(leg, prompt, &generation.id).await {
            Ok(handoff) => {
                generation.handoff = handoff.and_then(|json| RawValue::from_string(json).ok());
                Ok(())
            }
            Err(status) => Err(status),
        })
    }

    /// Parses and checks a request, and starts its sequences.
    fn start(
        &self,
        task: Task,
        request: &RecordedRequest,
        id: String,
        leg: &PairLeg,
    ) -> Result<Running, ApiError> {
        require_json(request)?;
        let fields = Fields::parse(&request.body)?;
        if task.is_pooling() {
            let mut params = Params::read(&self.context, &fields, &[])?;
            params.max_tokens = Some(("max_tokens", 1));
            let pooling = match task {
                Task::Embeddings => Pooling::embeddings(&fields)?,
                Task::Rerank => Pooling::rerank(&fields)?,
                _ => Pooling::score(&fields)?,
            };
            let generation = Generation::start(&self.context, params, id, pooling.prompts())?;
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
        let mut params = Params::read(&self.context, &fields, limits)?;
        let pair = self.context.pair.as_ref();
        params.received = leg.received;
        params.counts_received = pair.is_some_and(|pair| pair.counts_received());
        params.holds = leg.is_prefill;
        if leg.is_prefill {
            params.max_tokens = Some(("max_tokens", 1));
            params.return_token_ids |= pair.is_some_and(|pair| pair.returns_tokens());
        }
        Generation::start(&self.context, params, id, prompts).map(Running::Generation)
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
        let (fault, fuse) = (self.context.faults.for_stream(), Arc::clone(fuse));
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

/// An id that no other request of this engine has, and most likely none of another engine.
fn fresh_id(started: f64, number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), started.to_bits())
}
