//! For any sequence of events: bookings are neither lost nor doubled, queues stay bounded, no
//! request starves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{
    Just, Strategy as Generator, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Arrive {
        name: u64,
        tokens: u32,
        priority: i32,
        tenant: u64,
        adapter: bool,
    },
    FirstByte,
    Finish {
        cached: Option<u32>,
    },
    Cancel {
        nth: usize,
    },
    ProxyGone {
        proxy: u64,
    },
    Restart {
        position: usize,
    },
    Pool {
        endpoints: u64,
    },
    Sample {
        position: usize,
        usage: Option<f32>,
    },
    Lanes {
        position: usize,
        lanes: u32,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Generator<Value = Event> {
    let schedule = (0u64..6, 1u32..20_000, -2i32..3, 0u64..3, any::<bool>());
    prop_oneof![
        6 => schedule.prop_map(|(name, tokens, priority, tenant, adapter)| Event::Arrive { name, tokens, priority, tenant, adapter }),
        4 => Just(Event::FirstByte),
        4 => proptest::option::of(0u32..20_000).prop_map(|cached| Event::Finish { cached }),
        1 => (0usize..8).prop_map(|nth| Event::Cancel { nth }),
        1 => (0u64..3).prop_map(|proxy| Event::ProxyGone { proxy }),
        1 => (0usize..3).prop_map(|position| Event::Restart { position }),
        1 => (1u64..4).prop_map(|endpoints| Event::Pool { endpoints }),
        1 => (0usize..3, proptest::option::of(0.0f32..1.0))
            .prop_map(|(position, usage)| Event::Sample { position, usage }),
        1 => (0usize..3, 0u32..5).prop_map(|(position, lanes)| Event::Lanes { position, lanes }),
        4 => (1u64..3_000).prop_map(|ms| Event::Wait { ms }),
    ]
}

/// What requests are where, by what the scheduler returned.
#[derive(Default)]
struct World {
    waiting: BTreeSet<RequestKey>,
    /// Bound, and whether the first byte came.
    open: BTreeMap<RequestKey, (EndpointId, bool)>,
    next: u64,
    now: Duration,
}

const QUEUE: usize = 5;

fn rules() -> KvAware {
    let queue = crate::policy::QueueLimits {
        max_requests: QUEUE as u32,
        max_wait: ms(20_000),
        max_priority: 8,
        ..crate::policy::QueueLimits::default()
    };
    KvAware {
        queue,
        ..KvAware::default()
    }
}

/// The first endpoint holds the adapter; with one endpoint both models have the same set.
fn pool_of_two_sets(endpoints: u64) -> Arc<Pool> {
    with_adapter(&pool(rules(), endpoints), &[0])
}

impl World {
    /// The proxy sends a bound request and says so, or its booking would expire.
    fn send(&mut self, key: RequestKey, binding: &Assignment, scheduler: &mut Scheduler) {
        assert!(!self.open.contains_key(&key), "bound twice");
        let endpoint = binding.choice.ranked[0].endpoint;
        scheduler.started(key, endpoint, 1, false, self.now);
        self.open.insert(key, (endpoint, false));
    }

    fn release(&mut self, scheduler: &mut Scheduler) {
        let mut dequeued = Vec::new();
        scheduler.dequeue(self.now, &mut dequeued);
        for Dequeued { key, exit: end } in dequeued {
            assert!(self.waiting.remove(&key), "dequeued without having waited");
            if let QueueExit::Bound(binding) = &end {
                self.send(key, binding, scheduler);
            }
        }
    }

    fn schedule(&mut self, model: &str, query: &Query, scheduler: &mut Scheduler) {
        self.next += 1;
        match schedule_model(scheduler, self.next, Some(model), query, self.now) {
            ScheduleOutcome::Bound(binding) => self.send(key(self.next), &binding, scheduler),
            ScheduleOutcome::Queued { evicted, .. } => {
                if let Some(EvictedRequest { key, .. }) = evicted {
                    assert_eq!(
                        self.waiting.len(),
                        QUEUE,
                        "no_endpoint is evicted while there is room"
                    );
                    assert!(self.waiting.remove(&key), "evicted without having waited");
                }
                self.waiting.insert(key(self.next));
            }
            ScheduleOutcome::QueueFull { retry_after } => {
                assert_eq!(self.waiting.len(), QUEUE, "full only when it is");
                assert!(retry_after >= ms(1_000));
            }
            ScheduleOutcome::NoEndpoint(no_endpoint) => panic!("{no_endpoint}"),
            ScheduleOutcome::AlreadySent => panic!("each request is new"),
        }
    }

    fn happen(&mut self, event: &Event, scheduler: &mut Scheduler) {
        let endpoints = scheduler.pool().endpoints.len();
        match *event {
            Event::Arrive {
                name,
                tokens,
                priority,
                tenant,
                adapter,
            } => {
                let query = Query {
                    priority,
                    tenant: Some(tenant),
                    ..prompt(name, tokens)
                };
                self.schedule(if adapter { "adapter" } else { "base" }, &query, scheduler);
            }
            Event::FirstByte => {
                if let Some((&key, (_, answered))) =
                    self.open.iter_mut().find(|(_, (_, answered))| !answered)
                {
                    *answered = true;
                    assert!(scheduler.first_byte(key, Some(ms(200)), self.now).is_some());
                    assert!(
                        scheduler.first_byte(key, Some(ms(200)), self.now).is_none(),
                        "the first time only"
                    );
                }
            }
            Event::Finish { cached } => {
                if let Some((key, _)) = self.open.pop_first() {
                    let ended = EngineUsage {
                        cached_tokens: cached,
                        prompt_tokens: Some(4_000),
                        ..EngineUsage::default()
                    };
                    assert!(
                        scheduler.finished(key, ended, self.now).0.is_some(),
                        "a booking is dequeued"
                    );
                    assert!(scheduler.finished(key, ended, self.now).0.is_none(), "once");
                }
            }
            Event::Cancel { nth } => {
                if let Some(&key) = self.waiting.iter().nth(nth) {
                    self.waiting.remove(&key);
                    assert_eq!(scheduler.cancel(key, self.now), (None, true));
                }
            }
            Event::ProxyGone { proxy } => {
                scheduler.forget_proxy(ProxyId(proxy), self.now);
                self.open.retain(|key, _| key.proxy != ProxyId(proxy));
                self.waiting.retain(|key| key.proxy != ProxyId(proxy));
            }
            Event::Restart { position } if position < endpoints => scheduler.restarted(position),
            Event::Pool { endpoints } => {
                scheduler.apply(&pool_of_two_sets(endpoints), self.now);
                self.open.retain(|_, (endpoint, _)| endpoint.0 < endpoints);
            }
            Event::Sample { position, usage } if position < endpoints => {
                let sample = usage.map(|usage| EngineSample {
                    kv_usage: Some(usage),
                    ..EngineSample::default()
                });
                scheduler.set_capacity(position, Some(50_000));
                scheduler.set_sample(position, sample);
            }
            Event::Lanes { position, lanes } if position < endpoints => {
                scheduler.set_lanes(position, lanes, self.now);
            }
            Event::Wait { ms } => {
                self.now += Duration::from_millis(ms);
                scheduler.tick(self.now);
            }
            Event::Restart { .. } | Event::Sample { .. } | Event::Lanes { .. } => {}
        }
        self.release(scheduler);
    }
}

proptest! {
    #[test]
    fn no_booking_is_lost_or_doubled_and_the_queue_is_bounded(events in proptest::collection::vec(event(), 1..120)) {
        let mut scheduler = Scheduler::new(&pool_of_two_sets(2), SeededRng::new(7));
        let mut world = World::default();
        for event in events {
            world.happen(&event, &mut scheduler);
            prop_assert_eq!(scheduler.queued_requests(), world.waiting.len());
            prop_assert!(scheduler.queued_requests() <= QUEUE);
            prop_assert_eq!(scheduler.endpoints.ledger().len(), world.open.len());
            for (position, endpoint) in scheduler.pool().endpoints.iter().enumerate() {
                let there = world.open.values().filter(|(at, _)| *at == endpoint.id);
                let unanswered = there.clone().filter(|(_, answered)| !answered).count();
                prop_assert!(scheduler.endpoints.has_current_terms(position));
                let flight = scheduler.endpoints.flight(position);
                prop_assert_eq!((flight.requests as usize, flight.unanswered as usize), (there.count(), unanswered));
            }
            prop_assert!(scheduler.requests.metadata_len() <= 2 * world.open.len() + 2_048);
        }
    }

    /// One endpoint, and nearly as much work as it can do: the longest wait stays within what the
    /// backlog explains.
    #[test]
    fn no_request_starves(seed in any::<u64>()) {
        let queue = crate::policy::QueueLimits { max_requests: 100_000, max_wait: ms(3_600_000), ..crate::policy::QueueLimits::default() };
        let mut scheduler = Scheduler::new(&pool(KvAware { queue, ..KvAware::default() }, 1), SeededRng::new(1));
        let mut rng = SeededRng::new(seed);
        // Prompts are a second of work, or a twentieth of one; the second in every ten is long.
        let length = |request: u64| if request % 10 == 1 { 8_000 } else { 400 };
        let (mut now, mut serving) = (ms(0), None::<(u64, Duration)>);
        let (mut arrived, mut longest) = (BTreeMap::new(), Duration::ZERO);
        for request in 0..300 {
            now += ms(rng.below(320) as u64);
            while let Some((done, since)) = serving.filter(|(done, since)| *since + ms(u64::from(length(*done)) / 8) <= now) {
                let end = since + ms(u64::from(length(done)) / 8);
                answer(&mut scheduler, done, end - since, end);
                scheduler.finished(key(done), EngineUsage::default(), end);
                serving = dequeued(&mut scheduler, end).first().map(|&(next, _)| (next, end));
                if let Some((next, _)) = serving {
                    longest = longest.max(end - arrived[&next]);
                }
            }
            arrived.insert(request, now);
            if let ScheduleOutcome::Bound(_) = schedule(&mut scheduler, request, &prompt(request + 10, length(request)), now) {
                serving = Some((request, now));
            }
        }
        prop_assert!(longest < ms(30_000), "{:?}", longest);
    }
}
