//! A ledger that is slow and obvious: a map of legs, each with its own deadline.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What happens, after which pause in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) pause: u64,
    pub(super) act: Act,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Book(LegKey, EndpointId, u32),
    Started(LegKey, EndpointId, u32),
    FirstByte(LegKey),
    FinishLeg(LegKey),
    Finish(RequestKey),
    Cancel(RequestKey),
    Forget(ProxyId),
    Replace(ProxyId, Vec<ListedLeg>),
    Retain(EndpointId),
    Expire,
}

/// What an act returned, in one shape.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Counted(bool),
    Found(Option<(EndpointId, u32, LegPhase)>),
    Released(Vec<(LegId, EndpointId, u32, LegPhase)>),
    Many(usize),
    Nothing,
}

pub(super) struct Model {
    bounds: LedgerLimits,
    entries: BTreeMap<LegKey, (OpenLeg, Duration)>,
    /// The last deadline of a confirmed request: deadlines are queued, so no later one is earlier.
    latest: Duration,
}

// === Act ===

impl Act {
    pub(super) fn on(&self, ledger: &mut Ledger, now: Duration) -> Outcome {
        let found = |open: Option<OpenLeg>| {
            Outcome::Found(open.map(|open| (open.endpoint, open.tokens, open.phase)))
        };
        match self {
            Self::Book(key, endpoint, tokens) => {
                Outcome::Counted(ledger.book(*key, *endpoint, *tokens, now))
            }
            Self::Started(key, endpoint, tokens) => {
                Outcome::Counted(ledger.started(*key, *endpoint, *tokens, now))
            }
            Self::FirstByte(key) => found(ledger.first_byte(*key)),
            Self::FinishLeg(key) => found(ledger.finish_leg(*key)),
            Self::Finish(key) => released(ledger.finish(*key).as_ref()),
            Self::Cancel(key) => released(ledger.cancel(*key).as_ref()),
            Self::Forget(proxy) => Outcome::Many(ledger.forget_proxy(*proxy)),
            Self::Replace(proxy, open) => {
                ledger.replace_proxy(*proxy, open.iter().copied(), now);
                Outcome::Nothing
            }
            Self::Retain(gone) => {
                ledger.retain_endpoints(|endpoint| endpoint != *gone);
                Outcome::Nothing
            }
            Self::Expire => Outcome::Many(ledger.expire(now)),
        }
    }
}

// === Model ===

impl Model {
    pub(super) fn new(bounds: LedgerLimits) -> Self {
        Self {
            bounds,
            entries: BTreeMap::new(),
            latest: Duration::ZERO,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The requests that have open legs.
    pub(super) fn requests(&self) -> BTreeSet<RequestKey> {
        self.entries.keys().map(|leg| leg.request).collect()
    }

    pub(super) fn in_flight(&self, endpoint: EndpointId) -> InFlightTotals {
        let there = self
            .entries
            .values()
            .map(|(open, _)| open)
            .filter(|open| open.endpoint == endpoint);
        there.fold(InFlightTotals::default(), |sum, open| InFlightTotals {
            requests: sum.requests + 1,
            tokens: sum.tokens
                + if open.phase == LegPhase::Answering {
                    0
                } else {
                    u64::from(open.tokens)
                },
            unanswered: sum.unanswered + u32::from(open.phase != LegPhase::Answering),
            prompts: sum.prompts + u32::from(open.phase != LegPhase::Answering && open.tokens > 0),
        })
    }

    pub(super) fn act(&mut self, act: &Act, now: Duration) -> Outcome {
        let found = |open: Option<OpenLeg>| {
            Outcome::Found(open.map(|open| (open.endpoint, open.tokens, open.phase)))
        };
        match act {
            Act::Book(key, endpoint, tokens) => {
                let open = OpenLeg {
                    endpoint: *endpoint,
                    tokens: *tokens,
                    phase: LegPhase::Booked,
                    since: now,
                };
                let sent = self.get(*key).map(|open| open.phase);
                let sent = sent.is_some_and(|phase| phase != LegPhase::Booked);
                Outcome::Counted(!sent && self.put(*key, open, now))
            }
            Act::Started(key, endpoint, tokens) => {
                let answers =
                    |open: OpenLeg| open.phase == LegPhase::Answering && open.endpoint == *endpoint;
                let open = OpenLeg {
                    endpoint: *endpoint,
                    tokens: *tokens,
                    phase: LegPhase::Sent,
                    since: now,
                };
                Outcome::Counted(self.get(*key).is_some_and(answers) || self.put(*key, open, now))
            }
            Act::FirstByte(key) => found(self.first_byte(*key)),
            Act::FinishLeg(key) => found(self.entries.remove(key).map(|(open, _)| open)),
            Act::Finish(key) => self.release(*key, |_| true),
            Act::Cancel(key) => self.release(*key, |open| open.phase == LegPhase::Booked),
            Act::Forget(proxy) => self.drop_if(|key, _, _| key.request.proxy == *proxy),
            Act::Replace(proxy, open) => self.replace(*proxy, open, now),
            Act::Retain(gone) => {
                self.drop_if(|_, open, _| open.endpoint == *gone);
                Outcome::Nothing
            }
            Act::Expire => self.drop_if(|_, _, deadline| deadline <= now),
        }
    }

    fn get(&self, key: LegKey) -> Option<OpenLeg> {
        self.entries.get(&key).map(|(open, _)| *open)
    }

    fn put(&mut self, key: LegKey, open: OpenLeg, now: Duration) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.bounds.max_entries {
            return false;
        }
        let booked = open.phase == LegPhase::Booked;
        let ttl = if booked {
            self.bounds.booking_ttl
        } else {
            self.bounds.request_ttl
        };
        self.entries.insert(key, (open, now + ttl));
        if !booked {
            self.latest = now + ttl;
        }
        true
    }

    fn first_byte(&mut self, key: LegKey) -> Option<OpenLeg> {
        let (open, deadline) = self.entries.get_mut(&key)?;
        let before = *open;
        open.phase = LegPhase::Answering;
        if before.phase == LegPhase::Booked {
            *deadline = self.latest.max(before.since + self.bounds.request_ttl);
            self.latest = *deadline;
        }
        (before.phase != LegPhase::Answering).then_some(before)
    }

    fn replace(&mut self, proxy: ProxyId, truth: &[ListedLeg], now: Duration) -> Outcome {
        let before = self.entries.clone();
        self.drop_if(|key, open, _| key.request.proxy == proxy && open.phase != LegPhase::Booked);
        for &ListedLeg {
            request,
            leg,
            endpoint,
            tokens,
            phase,
        } in truth
        {
            let key = RequestKey { proxy, request }.leg(leg);
            let open = OpenLeg {
                endpoint,
                tokens,
                phase,
                since: before.get(&key).map_or(now, |(open, _)| open.since),
            };
            self.put(key, open, now);
        }
        Outcome::Nothing
    }

    /// Drops the legs of a request that `taken` selects.
    fn release(&mut self, request: RequestKey, taken: impl Fn(OpenLeg) -> bool) -> Outcome {
        let mut released = Vec::new();
        self.entries.retain(|key, (open, _)| {
            let stays = key.request != request || !taken(*open);
            if !stays {
                released.push((key.leg, open.endpoint, open.tokens, open.phase));
            }
            stays
        });
        Outcome::Released(released)
    }

    fn drop_if(&mut self, gone: impl Fn(LegKey, OpenLeg, Duration) -> bool) -> Outcome {
        let before = self.len();
        self.entries
            .retain(|key, (open, deadline)| !gone(*key, *open, *deadline));
        Outcome::Many(before - self.len())
    }
}

/// What a real ledger released, in the order of legs.
fn released(entry: Option<&LedgerEntry>) -> Outcome {
    let legs = entry.into_iter().flat_map(LedgerEntry::legs);
    let mut released: Vec<_> = legs
        .map(|(leg, open)| (leg, open.endpoint, open.tokens, open.phase))
        .collect();
    released.sort_by_key(|(leg, ..)| *leg);
    Outcome::Released(released)
}

/// Any step over few proxies, requests, legs and endpoints, so that they meet often.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let key = || (0..3u64, 0..4u64).prop_map(|(proxy, request)| super::key(proxy, request));
    let number = || 0..3u32;
    let leg = || {
        (0..3u64, 0..4u64, number())
            .prop_map(|(proxy, request, number)| super::leg(proxy, request, number))
    };
    let endpoint = || (0..4u64).prop_map(EndpointId);
    let phase = prop_oneof![
        Just(LegPhase::Booked),
        Just(LegPhase::Sent),
        Just(LegPhase::Answering)
    ];
    let open = (0..4u64, number(), endpoint(), 0..100u32, phase).prop_map(
        |(request, number, endpoint, tokens, phase)| {
            let leg = LegId::new(number).expect("a leg of a request");
            super::listed(request, leg, endpoint, tokens, phase)
        },
    );
    let act = prop_oneof![
        6 => (leg(), endpoint(), 0..100u32).prop_map(|(leg, endpoint, tokens)| Act::Book(leg, endpoint, tokens)),
        6 => (leg(), endpoint(), 0..100u32).prop_map(|(leg, endpoint, tokens)| Act::Started(leg, endpoint, tokens)),
        4 => leg().prop_map(Act::FirstByte),
        2 => leg().prop_map(Act::FinishLeg),
        4 => key().prop_map(Act::Finish),
        2 => key().prop_map(Act::Cancel),
        1 => (0..3u64).prop_map(|proxy| Act::Forget(ProxyId(proxy))),
        1 => (0..3u64, proptest::collection::vec(open, 0..5)).prop_map(|(proxy, open)| Act::Replace(ProxyId(proxy), open)),
        1 => endpoint().prop_map(Act::Retain),
        3 => Just(Act::Expire),
    ];
    (0..4_000u64, act).prop_map(|(pause, act)| Step { pause, act })
}
