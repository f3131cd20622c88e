//! The addresses of an endpoint's name: looked up once for all connections, and kept.
//!
//! ```text
//!   looked up  < 10 s ago   used
//!              < 60 s ago   used, and looked up again in the background
//!              earlier      the lookup has 250 ms to answer; after that, or if it fails, they are used
//!              never        waits for the lookup, for as long as connecting may take
//! ```
//!
//! The system's resolver reports no time to live, so the times are fixed: short enough for a
//! Service that changes its address, long enough that a lookup is seldom on a request's path.
//!
//! Invariants:
//! * at most one lookup is open, whatever becomes of the requests that wait for it, and at most one
//!   begins in a second. `getaddrinfo` cannot be interrupted, and holds a thread until it returns:
//!   a lookup has no time limit, since giving it up would only begin another one beside it;
//! * addresses that were known are kept when a lookup fails, and used while it hangs.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use hermes_core::address::DnsName;
use parking_lot::Mutex;
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::race::interleaved;

/// Addresses younger than this are used without a lookup.
const FRESH: Duration = Duration::from_secs(10);

/// Addresses younger than this are used while they are looked up again.
const USABLE: Duration = Duration::from_secs(60);

/// Longest time from the beginning of a lookup until older addresses are used without its answer.
/// In a time limit of less than 2 s it is an eighth of that.
const STALE_WAIT: Duration = Duration::from_millis(250);

/// Shortest time from one lookup to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Most addresses of one name that are kept.
const MAX_ADDRESSES: usize = 16;

/// Finds the addresses of names.
pub(crate) trait NameResolver: Send + Sync {
    /// The addresses of `name`, the best first.
    fn resolve(&self, name: &DnsName, port: u16)
    -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system: `/etc/hosts`, search domains, and everything else that
/// `getaddrinfo` reads.
pub(crate) struct SystemResolver;

/// The addresses of one name. Lookups run in a task that it owns.
pub(crate) struct ResolvedName {
    name: DnsName,
    port: u16,
    resolver: Arc<dyn NameResolver>,
    answer: watch::Sender<NameAnswer>,
    /// The last lookup. Locked while one begins.
    lookup: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What lookups found so far, and whether one is open.
#[derive(Clone, Default)]
struct NameAnswer {
    /// Those of the last lookup that found any, in the order in which they are tried.
    addresses: Arc<[SocketAddr]>,
    /// When it did.
    at: Option<Instant>,
    /// Why the last lookup found none; `None` if it found some.
    failure: Option<Arc<str>>,
    /// When the last lookup began.
    began: Option<Instant>,
    /// It has not answered.
    is_open: bool,
}

/// A lookup that has not answered. Dropped, as when its thread's runtime ends, it answers that it
/// was given up.
struct OpenLookup(Option<watch::Sender<NameAnswer>>);

// === SystemResolver ===

impl NameResolver for SystemResolver {
    fn resolve(
        &self,
        name: &DnsName,
        port: u16,
    ) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let name = name.clone();
        async move { Ok(lookup_host((name.as_str(), port)).await?.collect()) }.boxed()
    }
}

// === ResolvedName ===

impl ResolvedName {
    /// Nothing is looked up yet.
    pub(crate) fn new(name: DnsName, port: u16, resolver: Arc<dyn NameResolver>) -> Self {
        Self {
            name,
            port,
            resolver,
            answer: watch::Sender::default(),
            lookup: Mutex::default(),
        }
    }

    /// The addresses in the order in which they are to be tried, at least one. Known ones come
    /// within 250 ms and an eighth of `limit`; the first ones within `limit`.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn addresses(&self, limit: Duration) -> Result<Arc<[SocketAddr]>, Arc<str>> {
        if !self.answer.borrow().is_younger_than(FRESH) {
            self.look_up();
            let deadline = self.answer.borrow().deadline(limit);
            if let Some(deadline) = deadline {
                let mut answers = self.answer.subscribe();
                // When time is up, what is known counts. The sender is in `self`.
                let _answered =
                    timeout_at(deadline, answers.wait_for(|answer| !answer.is_open)).await;
            }
        }
        let answer = self.answer.borrow();
        if answer.addresses.is_empty() {
            let failure = answer.failure.clone();
            return Err(failure.unwrap_or_else(|| format!("no answer within {limit:?}").into()));
        }
        Ok(Arc::clone(&answer.addresses))
    }

    /// Looks the name up in the background, unless a lookup is open or has just begun.
    pub(crate) fn look_up(&self) {
        let mut lookup = self.lookup.lock();
        let mut begins = false;
        self.answer.send_if_modified(|answer| {
            begins = answer.begin();
            // No one waits for a beginning.
            false
        });
        if !begins {
            return;
        }
        let open = OpenLookup(Some(self.answer.clone()));
        let found = self.resolver.resolve(&self.name, self.port);
        let task = tokio::spawn(async move { open.answer(found.await) });
        *lookup = Some(AbortOnDropHandle::new(task));
    }
}

// === NameAnswer ===

impl NameAnswer {
    fn is_younger_than(&self, age: Duration) -> bool {
        self.at.is_some_and(|at| at.elapsed() < age)
    }

    /// How long a request that has `limit` to connect waits for the open lookup; `None` if it does
    /// not. The time with older addresses counts from the beginning of the lookup, so that one that
    /// hangs delays a few requests and not each of them.
    fn deadline(&self, limit: Duration) -> Option<Instant> {
        let began = self.began.filter(|_| self.is_open)?;
        if self.addresses.is_empty() {
            return Some(Instant::now() + limit);
        }
        // Once a lookup has failed, the next ones are not expected to do better.
        let waits = !self.is_younger_than(USABLE) && self.failure.is_none();
        waits.then(|| began + STALE_WAIT.min(limit / 8))
    }

    /// Marks the beginning of a lookup, if one may begin now.
    fn begin(&mut self) -> bool {
        let is_early = self.began.is_some_and(|began| began.elapsed() < PAUSE);
        if self.is_open || is_early {
            return false;
        }
        self.began = Some(Instant::now());
        self.is_open = true;
        true
    }
}

// === OpenLookup ===

impl OpenLookup {
    fn answer(mut self, found: io::Result<Vec<SocketAddr>>) {
        let found = match found {
            Ok(addresses) if addresses.is_empty() => Err("the name has no address".into()),
            Ok(addresses) => {
                // In turn before they are cut off, so that neither family is cut off whole.
                let mut addresses = interleaved(&addresses);
                addresses.truncate(MAX_ADDRESSES);
                Ok(addresses.into())
            }
            Err(error) => Err(error.to_string().into()),
        };
        self.close(found);
    }

    fn close(&mut self, found: Result<Arc<[SocketAddr]>, Arc<str>>) {
        let Some(answer) = self.0.take() else {
            return;
        };
        answer.send_modify(|answer| {
            answer.is_open = false;
            match found {
                Ok(addresses) => {
                    answer.addresses = addresses;
                    answer.at = Some(Instant::now());
                    answer.failure = None;
                }
                Err(failure) => answer.failure = Some(failure),
            }
        });
    }
}

impl Drop for OpenLookup {
    fn drop(&mut self) {
        self.close(Err("the lookup was given up".into()));
    }
}

#[cfg(test)]
mod tests;
