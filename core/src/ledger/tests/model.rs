//! A ledger that is slow and obvious: a map of entries, each with its own deadline.

use std::collections::BTreeMap;

use super::*;

/// What happens, after which pause in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) pause: u64,
    pub(super) act: Act,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Book(RequestKey, EndpointId, u32),
    Started(RequestKey, EndpointId, u32),
    FirstByte(RequestKey),
    Finish(RequestKey),
    Cancel(RequestKey),
    Forget(ProxyId),
    Replace(ProxyId, Vec<(RequestId, EndpointId, u32, RequestPhase)>),
    Retain(EndpointId),
    Expire,
}

/// What an act returned, in one shape.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Counted(bool),
    Found(Option<(EndpointId, u32, RequestPhase)>),
    Many(usize),
    Nothing,
}

pub(super) struct Model {
    bounds: LedgerLimits,
    entries: BTreeMap<RequestKey, (LedgerEntry, Duration)>,
    /// The last deadline of a confirmed request: deadlines are queued, so no later one is earlier.
    latest: Duration,
}

// === Act ===

impl Act {
    pub(super) fn on(&self, ledger: &mut Ledger, now: Duration) -> Outcome {
        let found = |open: Option<LedgerEntry>| {
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
            Self::Finish(key) => found(ledger.finish(*key)),
            Self::Cancel(key) => found(ledger.cancel(*key)),
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

    pub(super) fn keys(&self) -> Vec<RequestKey> {
        self.entries.keys().copied().collect()
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
                + if open.phase == RequestPhase::Answering {
                    0
                } else {
                    u64::from(open.tokens)
                },
            unanswered: sum.unanswered + u32::from(open.phase != RequestPhase::Answering),
        })
    }

    pub(super) fn act(&mut self, act: &Act, now: Duration) -> Outcome {
        let found = |open: Option<LedgerEntry>| {
            Outcome::Found(open.map(|open| (open.endpoint, open.tokens, open.phase)))
        };
        match act {
            Act::Book(key, endpoint, tokens) => {
                let open = LedgerEntry {
                    endpoint: *endpoint,
                    tokens: *tokens,
                    phase: RequestPhase::Booked,
                    since: now,
                };
                Outcome::Counted(self.put(*key, open, now))
            }
            Act::Started(key, endpoint, tokens) => {
                let answers = |open: LedgerEntry| {
                    open.phase == RequestPhase::Answering && open.endpoint == *endpoint
                };
                let open = LedgerEntry {
                    endpoint: *endpoint,
                    tokens: *tokens,
                    phase: RequestPhase::Sent,
                    since: now,
                };
                Outcome::Counted(self.get(*key).is_some_and(answers) || self.put(*key, open, now))
            }
            Act::FirstByte(key) => found(self.first_byte(*key)),
            Act::Finish(key) => found(self.entries.remove(key).map(|(open, _)| open)),
            Act::Cancel(key) => match self.get(*key) {
                Some(open) if open.phase == RequestPhase::Booked => {
                    found(self.entries.remove(key).map(|(open, _)| open))
                }
                _ => Outcome::Found(None),
            },
            Act::Forget(proxy) => self.drop_if(|key, _, _| key.proxy == *proxy),
            Act::Replace(proxy, open) => self.replace(*proxy, open, now),
            Act::Retain(gone) => {
                self.drop_if(|_, open, _| open.endpoint == *gone);
                Outcome::Nothing
            }
            Act::Expire => self.drop_if(|_, _, deadline| deadline <= now),
        }
    }

    fn get(&self, key: RequestKey) -> Option<LedgerEntry> {
        self.entries.get(&key).map(|(open, _)| *open)
    }

    fn put(&mut self, key: RequestKey, open: LedgerEntry, now: Duration) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.bounds.max_entries {
            return false;
        }
        let booked = open.phase == RequestPhase::Booked;
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

    fn first_byte(&mut self, key: RequestKey) -> Option<LedgerEntry> {
        let (open, deadline) = self.entries.get_mut(&key)?;
        let before = *open;
        open.phase = RequestPhase::Answering;
        if before.phase == RequestPhase::Booked {
            *deadline = self.latest.max(before.since + self.bounds.request_ttl);
            self.latest = *deadline;
        }
        (before.phase != RequestPhase::Answering).then_some(before)
    }

    fn replace(
        &mut self,
        proxy: ProxyId,
        truth: &[(RequestId, EndpointId, u32, RequestPhase)],
        now: Duration,
    ) -> Outcome {
        let before = self.entries.clone();
        self.drop_if(|key, open, _| key.proxy == proxy && open.phase != RequestPhase::Booked);
        for &(request, endpoint, tokens, phase) in truth {
            let key = RequestKey { proxy, request };
            let since = before.get(&key).map_or(now, |(open, _)| open.since);
            self.put(
                key,
                LedgerEntry {
                    endpoint,
                    tokens,
                    phase,
                    since,
                },
                now,
            );
        }
        Outcome::Nothing
    }

    fn drop_if(&mut self, gone: impl Fn(RequestKey, LedgerEntry, Duration) -> bool) -> Outcome {
        let before = self.len();
        self.entries
            .retain(|key, (open, deadline)| !gone(*key, *open, *deadline));
        Outcome::Many(before - self.len())
    }
}

/// Any step over few proxies, requests and endpoints, so that they meet often.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let key = || (0..3u64, 0..6u64).prop_map(|(proxy, request)| super::key(proxy, request));
    let endpoint = || (0..4u64).prop_map(EndpointId);
    let phase = prop_oneof![
        Just(RequestPhase::Booked),
        Just(RequestPhase::Sent),
        Just(RequestPhase::Answering)
    ];
    let open =
        (0..6u64, endpoint(), 0..100u32, phase).prop_map(|(request, endpoint, tokens, phase)| {
            (RequestId(request), endpoint, tokens, phase)
        });
    let act = prop_oneof![
        6 => (key(), endpoint(), 0..100u32).prop_map(|(key, endpoint, tokens)| Act::Book(key, endpoint, tokens)),
        6 => (key(), endpoint(), 0..100u32).prop_map(|(key, endpoint, tokens)| Act::Started(key, endpoint, tokens)),
        4 => key().prop_map(Act::FirstByte),
        4 => key().prop_map(Act::Finish),
        2 => key().prop_map(Act::Cancel),
        1 => (0..3u64).prop_map(|proxy| Act::Forget(ProxyId(proxy))),
        1 => (0..3u64, proptest::collection::vec(open, 0..5)).prop_map(|(proxy, open)| Act::Replace(ProxyId(proxy), open)),
        1 => endpoint().prop_map(Act::Retain),
        3 => Just(Act::Expire),
    ];
    (0..4_000u64, act).prop_map(|(pause, act)| Step { pause, act })
}
