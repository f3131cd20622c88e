//! The Score stream of one worker of a proxy: many requests, answered as they become ready.
//!
//! ```text
//!   batch ─▶ read ─┬─ no cache to ask ─────────▶ choose ─┬─ bound ──────────────────▶ one batch of answers
//!                  └─ lookup, at most so long ─▶   ▲     └─ waits: queued, later bound ─▲ (whatever is ready)
//!   cancel ─▶ ends the lookup, gives up the place in the queue, or takes the booking back
//! ```
//!
//! The stream is pulled by its connection: there is no task and no queue of its own, so a proxy
//! that does not read its answers stops being read. Nothing that a request says can break the
//! stream: one that cannot be read is refused. A stream that ends leaves no request in the queue.

mod answer;
mod lookup;

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{AbortHandle, Abortable},
    stream::{self, FuturesUnordered},
};
use hermes_core::{
    ledger::{ProxyId, RequestId, RequestKey},
    query::CacheHit,
    scheduler::{Assignment, ScheduleRequest},
};
use hermes_proto::{
    convert::Ask,
    v1::{ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses, rejected::Reason},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Span;

pub(super) use self::lookup::find as find_hits;
use super::{GrpcState, trace};
use crate::{
    metrics::{ControlPlaneMetrics, ScoreOutcome},
    pools::{PoolDirectory, PoolHandle, PoolScheduler, ScoreDecision, ScoreRejection},
};

/// Requests of one stream that may be in a lookup; a proxy has a stream for each of its workers.
/// Beyond it a request is answered without a lookup. Queued requests do not count: lookups matter
/// most under load.
const MAX_LOOKUPS: usize = 4_096;

/// The stream of one worker of a proxy.
pub(super) struct ScoreCalls {
    inbound: Streaming<ScoreRequests>,
    /// The proxy has said all that it will.
    ended: bool,
    /// The proxy, once it has named itself: cancels do not.
    proxy: Option<ProxyId>,
    pools: Arc<PoolDirectory>,
    metrics: ControlPlaneMetrics,
    closing: CancellationToken,
    /// Lookups, at most [`MAX_LOOKUPS`], and waits, bounded by the queues of the pools.
    steps: FuturesUnordered<Abortable<Step>>,
    /// The handles of `steps`, by request.
    waiting: HashMap<RequestKey, PendingStep>,
    /// Those of `waiting` that are lookups.
    lookups: usize,
    _open: StreamGuard,
}

/// A request on its way to an answer.
pub(super) struct PendingCall {
    key: RequestKey,
    ask: Ask,
    pool_handle: PoolHandle,
    span: Span,
    since: Instant,
}

/// What a request waits for.
type Step = Pin<Box<dyn Future<Output = (PendingCall, CallEnd)> + Send>>;

/// The handle of a step.
struct PendingStep {
    handle: AbortHandle,
    /// Whose choice it is.
    scheduler: Arc<PoolScheduler>,
    is_lookup: bool,
}

/// What came of it.
#[expect(
    clippy::large_enum_variant,
    reason = "most are the large one, and a box would cost an allocation for each"
)]
enum CallEnd {
    /// The lookup is over, and this was found.
    Found(Vec<CacheHit>),
    /// It was bound, or gave up; nothing when its pool is gone.
    Settled(Option<Result<Assignment, ScoreRejection>>),
}

/// Counts a stream while it is open.
struct StreamGuard(ControlPlaneMetrics);

// === ScoreCalls ===

impl ScoreCalls {
    /// The answers to `inbound`.
    pub(super) fn open(
        state: &GrpcState,
        inbound: Streaming<ScoreRequests>,
    ) -> impl Stream<Item = Result<ScoreResponses, Status>> + Send + 'static {
        state.metrics.streams.score_streams.inc();
        let scoring = Self {
            inbound,
            ended: false,
            proxy: None,
            pools: Arc::clone(&state.pools),
            metrics: state.metrics.clone(),
            closing: state.closing.clone(),
            steps: FuturesUnordered::new(),
            waiting: HashMap::new(),
            lookups: 0,
            _open: StreamGuard(state.metrics.clone()),
        };
        stream::unfold(scoring, |mut scoring| async move {
            let responses = scoring.next().await?;
            Some((Ok(ScoreResponses { responses }), scoring))
        })
    }

    /// The next batch of answers, not empty; nothing when the stream is over.
    async fn next(&mut self) -> Option<Vec<ScoreResponse>> {
        loop {
            if self.ended && self.steps.is_empty() {
                return None;
            }
            let answers = tokio::select! {
                () = self.closing.cancelled() => return None,
                message = self.inbound.message(), if !self.ended => match message {
                    Ok(Some(batch)) => self.take(batch),
                    Ok(None) => {
                        self.ended = true;
                        continue;
                    }
                    // The proxy is gone.
                    Err(_broken) => return None,
                },
                Some(done) = self.steps.next(), if !self.steps.is_empty() => self.gather(done),
            };
            if !answers.is_empty() {
                return Some(answers);
            }
        }
    }

    /// Answers what can be answered at once, begins the lookups of the rest, and takes back what is
    /// cancelled.
    fn take(&mut self, batch: ScoreRequests) -> Vec<ScoreResponse> {
        let ScoreRequests { requests, cancels } = batch;
        let since = Instant::now();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.extend(self.request(request, since));
        }
        if let Some(proxy) = self.proxy {
            cancels.into_iter().for_each(|request| {
                self.cancel(RequestKey {
                    proxy,
                    request: RequestId(request),
                });
            });
        }
        answers
    }

    /// The answer to a request, unless a lookup has to come first.
    fn request(&mut self, request: ScoreRequest, since: Instant) -> Option<ScoreResponse> {
        let id = request.id;
        let ask = match Ask::try_from(request) {
            Ok(ask) => ask,
            Err(invalid) => {
                tracing::debug!(request = id, %invalid, "score request refused");
                self.metrics.invalid_request();
                return Some(answer::refused(id, Reason::Invalid));
            }
        };
        let key = RequestKey {
            proxy: ProxyId(ask.proxy),
            request: RequestId(id),
        };
        self.proxy = Some(key.proxy);
        let Some(pool_handle) = self.pools.pool(&ask.pool) else {
            self.metrics.unknown_pool();
            return Some(answer::refused(id, Reason::UnknownPool));
        };
        if let Some(answer) = self.stored(&ask, key, &pool_handle) {
            return Some(answer);
        }
        let pending = PendingCall {
            key,
            span: trace::span(&ask),
            ask,
            pool_handle,
            since,
        };
        if self.lookups >= MAX_LOOKUPS || !lookup::is_worthwhile(&pending) {
            return Some(self.choose(pending, &[]));
        }
        self.step(
            key,
            Arc::clone(&pending.pool_handle.scheduler),
            true,
            lookup::begin(pending),
        );
        None
    }

    /// Chooses for a request. One that waits is answered twice: that it does, and how it ended.
    fn choose(&mut self, pending: PendingCall, hits: &[CacheHit]) -> ScoreResponse {
        let (now, id) = (self.pools.now(), pending.ask.id);
        let scheduler = &pending.pool_handle.scheduler;
        let decision = scheduler.choose(pending.arrival(hits), now);
        // The first answer: what a request waits in the queue has a metric of its own.
        let took = pending.since.elapsed();
        scheduler.metrics().score.observe(took.as_secs_f64());
        match decision {
            ScoreDecision::Bound(binding) => pending.answer(Some(Ok(binding))),
            ScoreDecision::Refused(refusal) => pending.answer(Some(Err(refusal))),
            ScoreDecision::Waits(wait) => {
                let queued = answer::queued(id, &wait);
                let (key, scheduler) = (pending.key, Arc::clone(&pending.pool_handle.scheduler));
                self.step(
                    key,
                    scheduler,
                    false,
                    Box::pin(async move { (pending, CallEnd::Settled(wait.end.await.ok())) }),
                );
                queued
            }
        }
    }

    fn step(
        &mut self,
        key: RequestKey,
        scheduler: Arc<PoolScheduler>,
        is_lookup: bool,
        step: Step,
    ) {
        let (handle, registration) = AbortHandle::new_pair();
        let pending = PendingStep {
            handle,
            scheduler,
            is_lookup,
        };
        self.lookups += usize::from(is_lookup);
        if let Some(replaced) = self.waiting.insert(key, pending) {
            self.lookups -= usize::from(replaced.is_lookup);
        }
        self.steps.push(Abortable::new(step, registration));
    }

    fn end_step(&mut self, key: RequestKey) -> Option<PendingStep> {
        let ended = self.waiting.remove(&key)?;
        self.lookups -= usize::from(ended.is_lookup);
        Some(ended)
    }

    /// The answer to a request that refers to a stored response, if that settles it.
    fn stored(
        &self,
        ask: &Ask,
        key: RequestKey,
        pool_handle: &PoolHandle,
    ) -> Option<ScoreResponse> {
        let (response, only) = ask.response?;
        let endpoint = self.pools.response(response);
        let binding = endpoint.and_then(|endpoint| {
            pool_handle
                .scheduler
                .choose_only(key, endpoint, &ask.query, self.pools.now())
        });
        match binding {
            Some(binding) => Some(answer::chosen(ask.id, &binding)),
            None => only.then(|| answer::refused(ask.id, Reason::UnknownResponse)),
        }
    }

    /// The answers that follow from the step that is done, and from the others that are done by
    /// now.
    fn gather(
        &mut self,
        first: Result<(PendingCall, CallEnd), stream::Aborted>,
    ) -> Vec<ScoreResponse> {
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Ok((pending, CallEnd::Found(hits))) => {
                    self.end_step(pending.key);
                    answers.push(self.choose(pending, &hits));
                }
                Ok((pending, CallEnd::Settled(end))) => {
                    self.end_step(pending.key);
                    answers.push(pending.answer(end));
                }
                // It was cancelled, and is owed no answer.
                Err(stream::Aborted) => {}
            }
            next = self.steps.next().now_or_never().flatten();
        }
        answers
    }

    fn cancel(&mut self, key: RequestKey) {
        match self.end_step(key) {
            Some(PendingStep {
                handle, scheduler, ..
            }) => {
                handle.abort();
                if !scheduler.cancel(key, self.pools.now()) {
                    // It had not got further than its lookup.
                    scheduler.metrics().scores[ScoreOutcome::Cancelled].inc();
                }
            }
            None => self.pools.cancel(key),
        }
    }
}

impl Drop for ScoreCalls {
    /// The proxy sends the requests that are still queued to another replica.
    fn drop(&mut self) {
        let now = self.pools.now();
        self.waiting
            .drain()
            .for_each(|(key, step)| _ = step.scheduler.cancel(key, now));
    }
}

// === PendingCall ===

impl PendingCall {
    fn arrival<'a>(&'a self, hits: &'a [CacheHit]) -> ScheduleRequest<'a> {
        let Ask {
            query,
            model,
            waited,
            may_wait,
            ..
        } = &self.ask;
        ScheduleRequest {
            key: self.key,
            query,
            model: model.as_deref(),
            hits,
            waited: *waited,
            may_wait: *may_wait,
        }
    }

    /// The final answer.
    fn answer(self, end: Option<Result<Assignment, ScoreRejection>>) -> ScoreResponse {
        let Self {
            key,
            pool_handle,
            span,
            ..
        } = self;
        let id = key.request.0;
        if !span.is_disabled() {
            trace::record(&span, &pool_handle.scheduler.pool(), end.as_ref());
        }
        match end {
            Some(Ok(binding)) => answer::chosen(id, &binding),
            Some(Err(refusal)) => answer::refusal(id, refusal),
            None => answer::refused(id, Reason::UnknownPool),
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.score_streams.dec();
    }
}
