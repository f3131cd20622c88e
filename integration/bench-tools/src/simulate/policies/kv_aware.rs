//! Hermes' own `kv-aware`: the code that the control plane runs, [`hermes_core::scheduler`], behind
//! any number of proxies.

use std::sync::Arc;
use std::time::Duration;

use hermes_core::{
    ledger::{LegId, ProxyId, RequestId, RequestKey},
    load,
    policy::{self, DisaggregationPolicy, PairDialect, Strategy},
    query::Query,
    rng::SeededRng,
    scheduler::{self, Assignment, Dequeued, EngineUsage, QueueExit, ScheduleOutcome},
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec},
};

use super::Setup;
use crate::simulate::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, Prefilled, RequestIndex, Sample,
};

/// See the module.
pub(super) struct KvAware {
    dispatcher: scheduler::Scheduler,
    /// Whether requests may be split.
    splits: bool,
    block_tokens: usize,
    released: Vec<Dequeued>,
    /// By request: cached tokens that the engine reported.
    reported: Vec<u32>,
}

impl KvAware {
    pub(super) fn new(setup: Setup, late: bool) -> Self {
        let strategy = Strategy::KvAware(policy::KvAware {
            late,
            queue: policy::QueueLimits {
                max_requests: u32::MAX,
                max_bytes: u64::MAX,
                max_wait: Duration::from_secs(86_400),
                ..policy::QueueLimits::default()
            },
            ..policy::KvAware::default()
        });
        let (servers, splits) = (setup.roles.servers(), setup.roles.may_split());
        let endpoint = |server: usize| {
            let name: Arc<str> = format!("server-{server}").into();
            let id = EndpointId(server as u64);
            Arc::new(Endpoint {
                id,
                address: format!("http://{name}").parse().expect("a name"),
                name,
                role: setup.roles.role(server),
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
            })
        };
        let policy = policy::PoolPolicy {
            strategy,
            disaggregation: splits.then(|| DisaggregationPolicy::of(PairDialect::VllmNixl)),
            ..policy::PoolPolicy::default()
        };
        let spec = Arc::new(PoolSpec::new("simulated", policy));
        let pool = Arc::new(Pool {
            spec,
            models: hermes_core::collection::Collection::default(),
            endpoints: (0..servers).map(endpoint).collect(),
        });
        let mut dispatcher = scheduler::Scheduler::new(&pool, SeededRng::new(setup.seed));
        for server in 0..servers {
            dispatcher.set_capacity(server, Some((setup.blocks * setup.block_tokens) as u64));
        }
        Self {
            dispatcher,
            splits,
            block_tokens: setup.block_tokens,
            released: Vec::new(),
            reported: Vec::new(),
        }
    }

    /// After an event.
    fn release(&mut self, now: Duration, placements: &mut Vec<Placement>) {
        self.dispatcher.dequeue_after_event(now, &mut self.released);
        self.send_released(now, placements);
    }

    fn send_released(&mut self, now: Duration, placements: &mut Vec<Placement>) {
        for Dequeued { key, exit: end } in std::mem::take(&mut self.released) {
            if let QueueExit::Bound(binding) = end {
                self.send(key.request.0 as usize, &binding, now, placements);
            }
        }
    }

    /// What a proxy does with its answer: sends the request, and says so.
    fn send(
        &mut self,
        request: RequestIndex,
        binding: &Assignment,
        now: Duration,
        placements: &mut Vec<Placement>,
    ) {
        let first = binding.choice.ranked[0];
        let Some(decode) = first.decode else {
            self.dispatcher
                .started(key(request), first.endpoint, 0, false, now);
            placements.push(Placement::whole(request, first.position));
            return;
        };
        // The decode endpoint keeps room while the prompt is computed.
        let uncached = binding.prompt_tokens.saturating_sub(first.cached_tokens);
        let prefill = key(request).leg(LegId::PREFILL);
        let scheduler = &mut self.dispatcher;
        scheduler.started(key(request), decode.endpoint, 0, false, now);
        scheduler.started(prefill, first.endpoint, uncached, false, now);
        placements.push(Placement::pair(request, first.position, decode.position));
    }
}

fn key(request: RequestIndex) -> RequestKey {
    RequestKey {
        proxy: ProxyId(0),
        request: RequestId(request as u64),
    }
}

impl Dispatcher for KvAware {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let tokens = arrival.prompt_tokens as u32;
        let query = Query {
            prompt_bytes: u64::from(tokens),
            prompt_tokens: tokens,
            blocks: arrival.blocks.into(),
            block_bytes: self.block_tokens as u32,
            split: self.splits,
            ..Query::default()
        };
        self.reported.push(0);
        let asked = scheduler::ScheduleRequest {
            key: key(arrival.request),
            query: &query,
            model: None,
            hits: &[],
            waited: Duration::ZERO,
            may_wait: true,
        };
        if let ScheduleOutcome::Bound(binding) = self.dispatcher.schedule(asked, at.now) {
            self.send(arrival.request, &binding, at.now, placements);
        }
    }

    /// A proxy sends the decode leg when the prefill leg is answered, to the endpoint that keeps room.
    fn prefilled(&mut self, at: Moment<'_>, seen: Prefilled, placements: &mut Vec<Placement>) {
        let leg = key(seen.request).leg(LegId::PREFILL);
        self.dispatcher.first_byte(leg, Some(seen.after), at.now);
        self.dispatcher.leg_finished(leg, at.now);
        self.release(at.now, placements);
    }

    fn first_token(&mut self, at: Moment<'_>, seen: FirstToken, placements: &mut Vec<Placement>) {
        self.reported[seen.request] = seen.cached_tokens as u32;
        self.dispatcher
            .first_byte(key(seen.request), Some(seen.after), at.now);
        self.release(at.now, placements);
    }

    fn finished(&mut self, at: Moment<'_>, seen: Finished, placements: &mut Vec<Placement>) {
        let ended = EngineUsage {
            cached_tokens: Some(self.reported[seen.request]),
            completion_tokens: Some(seen.output_tokens),
            decoding: Some(seen.decoding),
            ..EngineUsage::default()
        };
        self.dispatcher.finished(key(seen.request), ended, at.now);
        self.release(at.now, placements);
    }

    fn sample_interval(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn sampled(&mut self, at: Moment<'_>, samples: &[Sample], placements: &mut Vec<Placement>) {
        self.dispatcher.tick(at.now);
        for (server, sample) in samples.iter().enumerate() {
            let sample = load::EngineSample {
                waiting: Some(sample.waiting as u32),
                running: Some(sample.running as u32),
                kv_usage: Some(sample.kv_usage as f32),
            };
            self.dispatcher.set_sample(server, Some(sample));
        }
        self.release(at.now, placements);
    }

    fn wake_at(&self) -> Option<Duration> {
        self.dispatcher.plan_due()
    }

    fn wake(&mut self, at: Moment<'_>, placements: &mut Vec<Placement>) {
        self.dispatcher.dequeue(at.now, &mut self.released);
        self.send_released(at.now, placements);
    }
}
