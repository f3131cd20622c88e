//! The addresses of an endpoint's name: looked up once for all connections, and kept.
//!
//! ```text
//!   looked up  < 10 s ago   used
//!              < 60 s ago   used, and looked up again in the background
//!              earlier      waits for a lookup; if that fails, the old addresses are used
//! ```
//!
//! The system's resolver reports no time to live, so the times are fixed: short enough for a
//! Service that changes its address, long enough that a lookup is seldom on a request's path.
//!
//! Invariants:
//! * at most one lookup is open, whatever becomes of the requests that wait for it, and at most one
//!   begins in a second;
//! * addresses that were known are kept when a lookup fails.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use hermes_core::address::DnsName;
use parking_lot::Mutex;
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Addresses younger than this are used without a lookup.
const FRESH: Duration = Duration::from_secs(10);

/// Addresses younger than this are used while they are looked up again.
const USABLE: Duration = Duration::from_secs(60);

/// Shortest time from one lookup to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest time that a lookup may take.
const LIMIT: Duration = Duration::from_secs(10);

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

/// The addresses of one name. Lookups run in tasks that it owns.
pub(crate) struct ResolvedName {
    name: DnsName,
    port: u16,
    resolver: Arc<dyn NameResolver>,
    answer: watch::Sender<NameAnswer>,
    lookup: Mutex<Option<RunningLookup>>,
}

/// What lookups found so far.
#[derive(Clone, Default)]
struct NameAnswer {
    /// Those of the last lookup that found any.
    addresses: Arc<[SocketAddr]>,
    /// When it did.
    at: Option<Instant>,
    /// Why the last lookup found none; `None` if it found some.
    failure: Option<Arc<str>>,
}

struct RunningLookup {
    began: Instant,
    task: AbortOnDropHandle<()>,
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

    /// The addresses, the best first, at least one. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn addresses(&self) -> Result<Arc<[SocketAddr]>, Arc<str>> {
        let mut answers = self.answer.subscribe();
        let known = answers.borrow_and_update().clone();
        let age = known.at.map(|at| at.elapsed());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(known.addresses);
        }
        let is_open = self.look_up();
        if age.is_some_and(|age| age < USABLE) {
            return Ok(known.addresses);
        }
        if is_open {
            // The sender is in `self`.
            let _changed = answers.changed().await;
        }
        // A lookup may have ended since the answer was read.
        let answer = answers.borrow().clone();
        answer.into_result()
    }

    /// Looks the name up again in the background: none of its addresses could be connected to.
    pub(crate) fn look_up_again(&self) {
        self.look_up();
    }

    /// Begins a lookup, unless one is open or has just begun; returns whether one is open.
    fn look_up(&self) -> bool {
        let mut lookup = self.lookup.lock();
        if let Some(last) = &*lookup {
            if !last.task.is_finished() {
                return true;
            }
            if last.began.elapsed() < PAUSE {
                return false;
            }
        }
        let found = self.resolver.resolve(&self.name, self.port);
        let open = OpenLookup(Some(self.answer.clone()));
        let task = tokio::spawn(async move {
            let found = timeout(LIMIT, found).await;
            open.answer(found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
        });
        *lookup = Some(RunningLookup {
            began: Instant::now(),
            task: AbortOnDropHandle::new(task),
        });
        true
    }
}

// === NameAnswer ===

impl NameAnswer {
    fn into_result(self) -> Result<Arc<[SocketAddr]>, Arc<str>> {
        if self.addresses.is_empty() {
            Err(self.failure.unwrap_or_else(|| "not looked up yet".into()))
        } else {
            Ok(self.addresses)
        }
    }
}

// === OpenLookup ===

impl OpenLookup {
    fn answer(mut self, found: io::Result<Vec<SocketAddr>>) {
        let failure: Arc<str> = match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(MAX_ADDRESSES);
                if let Some(answer) = self.0.take() {
                    answer.send_replace(NameAnswer {
                        addresses: addresses.into(),
                        at: Some(Instant::now()),
                        failure: None,
                    });
                }
                return;
            }
            Ok(_) => "the name has no address".into(),
            Err(error) => error.to_string().into(),
        };
        self.fail(failure);
    }

    fn fail(&mut self, failure: Arc<str>) {
        if let Some(answer) = self.0.take() {
            answer.send_modify(|answer| answer.failure = Some(failure));
        }
    }
}

impl Drop for OpenLookup {
    fn drop(&mut self) {
        self.fail("the lookup was given up".into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{sync::Semaphore, time::advance};

    use super::*;

    /// Answers with the port as the number of the lookup, when it is allowed to.
    struct Numbered {
        begun: AtomicUsize,
        allowed: Arc<Semaphore>,
    }

    impl NameResolver for Numbered {
        fn resolve(&self, _: &DnsName, _: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
            let allowed = Arc::clone(&self.allowed);
            async move {
                match allowed.acquire().await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return Err(io::Error::other("no such name")),
                }
                Ok(vec![([127, 0, 0, 1], number as u16).into()])
            }
            .boxed()
        }
    }

    fn name(allowed: usize) -> (Arc<ResolvedName>, Arc<Numbered>) {
        let resolver = Arc::new(Numbered {
            begun: AtomicUsize::new(0),
            allowed: Arc::new(Semaphore::new(allowed)),
        });
        let shared: Arc<dyn NameResolver> = Arc::clone(&resolver) as _;
        let name = "engine".parse().expect("a name");
        (Arc::new(ResolvedName::new(name, 80, shared)), resolver)
    }

    async fn port(name: &ResolvedName) -> Result<u16, Arc<str>> {
        Ok(name.addresses().await?[0].port())
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_addresses_are_used_and_older_ones_while_they_are_looked_up_again() {
        let (name, resolver) = name(2);
        assert_eq!(port(&name).await, Ok(1));
        advance(FRESH - PAUSE).await;
        assert_eq!(port(&name).await, Ok(1));
        assert_eq!(resolver.begun.load(Ordering::Relaxed), 1);
        advance(PAUSE).await;
        assert_eq!(port(&name).await, Ok(1), "no request waits for the lookup");
        tokio::task::yield_now().await;
        assert_eq!(port(&name).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_share_one_lookup_that_outlives_them() {
        let (name, resolver) = name(0);
        let ask = || timeout(PAUSE * 2, port(&name));
        let (first, second) = tokio::join!(ask(), ask());
        assert!(first.is_err() && second.is_err(), "both gave up");
        assert_eq!(resolver.begun.load(Ordering::Relaxed), 1);
        resolver.allowed.add_permits(1);
        assert_eq!(port(&name).await, Ok(1), "the answer of the first lookup");
    }

    #[tokio::test(start_paused = true)]
    async fn known_addresses_survive_a_failing_resolver_that_is_asked_once_a_second() {
        let (name, resolver) = name(1);
        assert_eq!(port(&name).await, Ok(1));
        resolver.allowed.close();
        advance(USABLE).await;
        assert_eq!(port(&name).await, Ok(1), "the old address");
        assert_eq!(port(&name).await, Ok(1));
        assert_eq!(resolver.begun.load(Ordering::Relaxed), 2);
        advance(PAUSE).await;
        assert_eq!(port(&name).await, Ok(1));
        assert_eq!(resolver.begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_addresses_is_an_error_with_its_reason() {
        let (name, resolver) = name(0);
        resolver.allowed.close();
        for _ in 0..2 {
            assert_eq!(port(&name).await, Err("no such name".into()));
        }
        assert_eq!(resolver.begun.load(Ordering::Relaxed), 1);
    }
}
