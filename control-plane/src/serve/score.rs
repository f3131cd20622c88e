//! The Score stream of one proxy: many requests, answered as they become ready.
//!
//! ```text
//!   batch ─▶ read ─┬─ no cache to ask ─────────▶ choose and book ─┬─▶ one batch of answers
//!                  └─ lookup, at most so long ─▶ choose and book ─┘   (whatever is ready, in any order)
//!   cancel ─▶ ends the lookup, or takes the booking back
//! ```
//!
//! The stream is pulled by its connection: there is no task and no queue of its own, so a proxy that does not read its
//! answers stops being read. Nothing that a request says can break the stream: one that cannot be read is refused.

mod answer;
mod lookup;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{AbortHandle, Abortable},
    stream::{self, FuturesUnordered},
};
use hermes_core::{
    ledger::{Key, ProxyId, RequestId},
    query::Hit,
};
use hermes_proto::{
    convert::Ask,
    v1::{ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses, refused::Reason},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Span;

use self::lookup::Lookup;
pub(super) use self::lookup::find as find_hits;
use super::{Desk, trace};
use crate::{
    brain::{Brain, Brains, Home},
    metrics::{Metrics, Outcome},
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
    lookups: FuturesUnordered<Abortable<Lookup>>,
    /// The handles of `lookups`, by request, and whose choice each of them is.
    waiting: HashMap<Key, (AbortHandle, Arc<Brain>)>,
    _open: Open,
}

/// A request on its way to an answer.
pub(super) struct Pending {
    key: Key,
    ask: Ask,
    home: Home,
    span: Span,
    since: Instant,
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
            lookups: FuturesUnordered::new(),
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
            if self.ended && self.lookups.is_empty() {
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
                Some(done) = self.lookups.next(), if !self.lookups.is_empty() => self.gather(done),
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
            cancels.into_iter().for_each(|request| self.cancel(Key { proxy, request: RequestId(request) }));
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
        let key = Key { proxy: ProxyId(ask.proxy), request: RequestId(id) };
        self.proxy = Some(key.proxy);
        let Some(home) = self.brains.pool(&ask.pool) else {
            self.metrics.unknown_pool();
            return Some(answer::refused(id, Reason::UnknownPool));
        };
        if let Some(answer) = self.stored(&ask, key, &home) {
            return Some(answer);
        }
        let pending = Pending { key, span: trace::span(&ask), ask, home, since };
        if self.waiting.len() >= MAX_LOOKUPS || !lookup::is_worthwhile(&pending) {
            return Some(pending.choose(&[], self.brains.now()));
        }
        let (handle, registration) = AbortHandle::new_pair();
        self.waiting.insert(key, (handle, Arc::clone(&pending.home.brain)));
        self.lookups.push(Abortable::new(lookup::begin(pending), registration));
        None
    }

    /// The answer to a request that refers to a stored response, if that settles it.
    fn stored(&self, ask: &Ask, key: Key, home: &Home) -> Option<ScoreResponse> {
        let (response, only) = ask.response?;
        let endpoint = self.brains.response(response);
        let choice = endpoint.and_then(|endpoint| home.brain.choose_only(key, endpoint, &ask.query, self.brains.now()));
        match choice {
            Some(choice) => Some(answer::answer(ask.id, Ok(choice))),
            None => only.then(|| answer::refused(ask.id, Reason::UnknownResponse)),
        }
    }

    /// The answers of the lookup that is done, and of the others that are done by now.
    fn gather(&mut self, first: Result<(Pending, Vec<Hit>), stream::Aborted>) -> Vec<ScoreResponse> {
        let mut answers = Vec::new();
        let mut next = Some(first);
        while let Some(done) = next {
            // An aborted one was cancelled, and is owed no answer.
            if let Ok((pending, hits)) = done {
                self.waiting.remove(&pending.key);
                answers.push(pending.choose(&hits, self.brains.now()));
            }
            next = self.lookups.next().now_or_never().flatten();
        }
        answers
    }

    fn cancel(&mut self, key: Key) {
        match self.waiting.remove(&key) {
            Some((lookup, brain)) => {
                lookup.abort();
                brain.metrics().scored(Outcome::Cancelled);
            }
            None => self.brains.cancel(key),
        }
    }
}

// === Pending ===

impl Pending {
    /// Chooses, books, and says so.
    fn choose(self, hits: &[Hit], now: Duration) -> ScoreResponse {
        let Self { key, ask, home, span, since } = self;
        let result = home.brain.choose(key, &ask.query, ask.model.as_deref(), hits, now);
        if !span.is_disabled() {
            trace::record(&span, &home.brain.pool(), &result);
        }
        home.brain.metrics().score_seconds.observe(since.elapsed().as_secs_f64());
        answer::answer(key.request.0, result)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.score_streams.dec();
    }
}
