//! The open legs by proxy, request and leg. Finds and keeps them; what follows is the ledger's.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{
    entry::OpenLeg,
    keys::{LegId, LegKey, ProxyId, RequestId, RequestKey},
};
use crate::hash::MixBuildHasher;

/// See the module. Never holds an empty map or list inside.
#[derive(Debug, Default)]
pub(super) struct LegTable {
    proxies: HashMap<ProxyId, ProxyRequests, MixBuildHasher>,
    len: usize,
}

pub(super) type ProxyRequests = HashMap<RequestId, RequestLegs, MixBuildHasher>;

/// The legs of one request, each once. Most requests have one.
pub(super) type RequestLegs = SmallVec<[StoredLeg; 1]>;

/// A leg as it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredLeg {
    pub(super) leg: LegId,
    pub(super) open: OpenLeg,
    /// Distinguishes its deadline from older ones of the same leg.
    pub(super) generation: u64,
}

impl LegTable {
    /// How many legs there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.proxies.is_empty()
    }

    pub(super) fn request(&self, key: RequestKey) -> &[StoredLeg] {
        let requests = self.proxies.get(&key.proxy);
        requests
            .and_then(|requests| requests.get(&key.request))
            .map_or(&[], SmallVec::as_slice)
    }

    pub(super) fn get(&self, key: LegKey) -> Option<&StoredLeg> {
        let mut legs = self.request(key.request).iter();
        legs.find(|stored| stored.leg == key.leg)
    }

    pub(super) fn get_mut(&mut self, key: LegKey) -> Option<&mut StoredLeg> {
        let requests = self.proxies.get_mut(&key.request.proxy)?;
        let legs = requests.get_mut(&key.request.request)?;
        legs.iter_mut().find(|stored| stored.leg == key.leg)
    }

    /// Keeps a leg, and returns what was there of it.
    pub(super) fn insert(&mut self, request: RequestKey, stored: StoredLeg) -> Option<OpenLeg> {
        let requests = self.proxies.entry(request.proxy).or_default();
        let legs = requests.entry(request.request).or_default();
        match legs.iter_mut().find(|known| known.leg == stored.leg) {
            Some(known) => Some(std::mem::replace(known, stored).open),
            None => {
                legs.push(stored);
                self.len += 1;
                None
            }
        }
    }

    /// Takes one leg out.
    pub(super) fn remove(&mut self, key: LegKey) -> Option<OpenLeg> {
        let taken = self.take_if(key.request, |stored| stored.leg == key.leg);
        taken.first().map(|stored| stored.open)
    }

    /// Takes the legs of a request out that `is_taken` selects.
    pub(super) fn take_if(
        &mut self,
        key: RequestKey,
        is_taken: impl Fn(&StoredLeg) -> bool,
    ) -> RequestLegs {
        let Some(requests) = self.proxies.get_mut(&key.proxy) else {
            return RequestLegs::new();
        };
        let Some(legs) = requests.get_mut(&key.request) else {
            return RequestLegs::new();
        };
        let mut taken = RequestLegs::new();
        legs.retain(|stored| {
            let stays = !is_taken(stored);
            if !stays {
                taken.push(*stored);
            }
            stays
        });
        self.len -= taken.len();
        if legs.is_empty() {
            requests.remove(&key.request);
        }
        if requests.is_empty() {
            self.proxies.remove(&key.proxy);
        }
        taken
    }

    /// The requests of one proxy.
    pub(super) fn of_proxy(&self, proxy: ProxyId) -> Option<&ProxyRequests> {
        self.proxies.get(&proxy)
    }

    /// Takes every leg out, of any request, that `is_taken` selects.
    pub(super) fn take_all_if(&mut self, is_taken: impl Fn(&OpenLeg) -> bool) -> Vec<OpenLeg> {
        let mut taken = Vec::new();
        for requests in self.proxies.values_mut() {
            for legs in requests.values_mut() {
                legs.retain(|stored| {
                    let stays = !is_taken(&stored.open);
                    if !stays {
                        taken.push(stored.open);
                    }
                    stays
                });
            }
            requests.retain(|_, legs| !legs.is_empty());
        }
        self.proxies.retain(|_, requests| !requests.is_empty());
        self.len -= taken.len();
        taken
    }

    /// Takes all of a proxy out.
    pub(super) fn take_proxy(&mut self, proxy: ProxyId) -> Vec<OpenLeg> {
        let requests = self.proxies.remove(&proxy).unwrap_or_default();
        let legs = requests.into_values().flatten();
        let taken: Vec<OpenLeg> = legs.map(|stored| stored.open).collect();
        self.len -= taken.len();
        taken
    }
}
