//! The Score stream of one proxy: many requests, answered as they become ready.
//!
//! ```text
//!   batch ─▶ read ─┬─ no cache to ask ─────────▶ choose ─┬─ bound ──────────────────▶ one batch of answers
//!                  └─ lookup, at most so long ─▶   ▲     └─ waits: queued, later bound ─▲ (whatever is ready)
//!   cancel ─▶ ends the lookup, gives up the place in the queue, or takes the booking back
//! ```
//!
//! The stream is pulled by its connection: there is no task and no queue of its own, so a proxy that does not read its
//! answers stops being read. Nothing that a request says can break the stream: one that cannot be read is refused. A
//! stream that ends leaves nobody behind in the queue.

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
    v1::{ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses, refused::Reason},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Span;

pub(super) use self::lookup::find as find_hits;
use super::{Desk, trace};
use crate::{
    metrics::{Metrics, Outcome},
    pools::{Brain, Brains, Home, Refusal, Verdict},
};

/// Lookups of one stream that may be open. Beyond it a request is answered without one.
const MAX_LOOKUPS: usize = 4_096;

/// One proxy's stream.
pub(super) struct Scoring {
    inbound: Streaming<ScoreRequests>,
    /// The proxy has said all that it will.
    ended: bool,
    /// The proxy, once it has named itself: cancels do not.
    proxy: Option<ProxyId>,
    brains: Arc<Brains>,
    metrics: Metrics,
    closing: CancellationToken,
    /// Lookups, at most [`MAX_LOOKUPS`], and waits, bounded by the queues of the pools.
    steps: FuturesUnordered<Abortable<Step>>,
    /// The handles of `steps`, by request, and whose choice each of them is.
    waiting: HashMap<RequestKey, (AbortHandle, Arc<Brain>)>,
    _open: Open,
}

/// A request on its way to an answer.
pub(super) struct Pending {
    key: RequestKey,
    ask: Ask,
    home: Home,
    span: Span,
    since: Instant,
}

/// What a request waits for.
type Step = Pin<Box<dyn Future<Output = (Pending, Done)> + Send>>;

/// What came of it.
enum Done {
    /// The lookup is over, and this was found.
    Found(Vec<CacheHit>),
    /// It was bound, or gave up; nothing when its pool is gone.
    Settled(Option<Result<Assignment, Refusal>>),
}

/// Counts a stream while it is open.
struct Open(Metrics);

// === Scoring ===

impl Scoring {
    /// The answers to `inbound`.
    pub(super) fn open(
        desk: &Desk,
        inbound: Streaming<ScoreRequests>,
    ) -> impl Stream<Item = Result<ScoreResponses, Status>> + Send + 'static {
        desk.metrics.score_streams.inc();
        let scoring = Self {
            inbound,
            ended: false,
            proxy: None,
            brains: Arc::clone(&desk.brains),
            metrics: desk.metrics.clone(),
            closing: desk.closing.clone(),
            steps: FuturesUnordered::new(),
            waiting: HashMap::new(),
            _open: Open(desk.metrics.clone()),
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
                    // Nobody is left to answer.
                    Err(_broken) => return None,
                },
                Some(done) = self.steps.next(), if !self.steps.is_empty() => self.gather(done),
            };
            if !answers.is_empty() {
                return Some(answers);
            }
        }
    }

    /// Answers what can be answered at once, begins the lookups of the rest, and takes back what is cancelled.
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
                })
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
                self.metrics.invalid();
                return Some(answer::refused(id, Reason::Invalid));
            }
        };
        let key = RequestKey {
            proxy: ProxyId(ask.proxy),
            request: RequestId(id),
        };
        self.proxy = Some(key.proxy);
        let Some(home) = self.brains.pool(&ask.pool) else {
            self.metrics.unknown_pool();
            return Some(answer::refused(id, Reason::UnknownPool));
        };
        if let Some(answer) = self.stored(&ask, key, &home) {
            return Some(answer);
        }
        let pending = Pending {
            key,
            span: trace::span(&ask),
            ask,
            home,
            since,
        };
        if self.waiting.len() >= MAX_LOOKUPS || !lookup::is_worthwhile(&pending) {
            return Some(self.choose(pending, &[]));
        }
        self.step(key, Arc::clone(&pending.home.brain), lookup::begin(pending));
        None
    }

    /// Chooses for a request. One that waits is answered twice: that it does, and how it ended.
    fn choose(&mut self, pending: Pending, hits: &[CacheHit]) -> ScoreResponse {
        let (now, id) = (self.brains.now(), pending.ask.id);
        match pending.home.brain.choose(pending.arrival(hits), now) {
            Verdict::Bound(binding) => pending.answer(Some(Ok(binding))),
            Verdict::Refused(refusal) => pending.answer(Some(Err(refusal))),
            Verdict::Waits(wait) => {
                let queued = answer::queued(id, &wait);
                self.brains.somebody_waits();
                let (key, brain) = (pending.key, Arc::clone(&pending.home.brain));
                self.step(
                    key,
                    brain,
                    Box::pin(async move { (pending, Done::Settled(wait.end.await.ok())) }),
                );
                queued
            }
        }
    }

    fn step(&mut self, key: RequestKey, brain: Arc<Brain>, step: Step) {
        let (handle, registration) = AbortHandle::new_pair();
        self.waiting.insert(key, (handle, brain));
        self.steps.push(Abortable::new(step, registration));
    }

    /// The answer to a request that refers to a stored response, if that settles it.
    fn stored(&self, ask: &Ask, key: RequestKey, home: &Home) -> Option<ScoreResponse> {
        let (response, only) = ask.response?;
        let endpoint = self.brains.response(response);
        let binding = endpoint.and_then(|endpoint| {
            home.brain
                .choose_only(key, endpoint, &ask.query, self.brains.now())
        });
        match binding {
            Some(binding) => Some(answer::chosen(ask.id, &binding)),
            None => only.then(|| answer::refused(ask.id, Reason::UnknownResponse)),
        }
    }

    /// The answers that follow from the step that is done, and from the others that are done by now.
    fn gather(&mut self, first: Result<(Pending, Done), stream::Aborted>) -> Vec<ScoreResponse> {
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Ok((pending, Done::Found(hits))) => {
                    self.waiting.remove(&pending.key);
                    answers.push(self.choose(pending, &hits));
                }
                Ok((pending, Done::Settled(end))) => {
                    self.waiting.remove(&pending.key);
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
        match self.waiting.remove(&key) {
            Some((step, brain)) => {
                step.abort();
                if !brain.cancel(key, self.brains.now()) {
                    // It had not got further than its lookup.
                    brain.metrics().scored(Outcome::Cancelled);
                }
            }
            None => self.brains.cancel(key),
        }
    }
}

impl Drop for Scoring {
    /// Whoever still waits is asked for elsewhere.
    fn drop(&mut self) {
        let now = self.brains.now();
        self.waiting
            .drain()
            .for_each(|(key, (_, brain))| _ = brain.cancel(key, now));
    }
}

// === Pending ===

impl Pending {
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
    fn answer(self, end: Option<Result<Assignment, Refusal>>) -> ScoreResponse {
        let Self {
            key,
            home,
            span,
            since,
            ..
        } = self;
        let id = key.request.0;
        if !span.is_disabled() {
            trace::record(&span, &home.brain.pool(), end.as_ref());
        }
        home.brain
            .metrics()
            .score_seconds
            .observe(since.elapsed().as_secs_f64());
        match end {
            Some(Ok(binding)) => answer::chosen(id, &binding),
            Some(Err(refusal)) => answer::refusal(id, refusal),
            None => answer::refused(id, Reason::UnknownPool),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.score_streams.dec();
    }
}
