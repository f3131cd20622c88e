//! The addresses of a name, by resolvers that answer, fail and hang.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Wake, Waker},
};

use tokio::{
    sync::Semaphore,
    time::{advance, timeout},
};

use super::*;

/// How long connecting may take.
const LIMIT: Duration = Duration::from_secs(4);

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
    Ok(name.addresses(LIMIT).await?[0].port())
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

#[tokio::test(start_paused = true)]
async fn known_addresses_are_used_while_the_resolver_hangs() {
    let (name, resolver) = name(1);
    assert_eq!(port(&name).await, Ok(1));
    advance(USABLE).await;
    let began = Instant::now();
    assert_eq!(port(&name).await, Ok(1), "the old address");
    assert_eq!(began.elapsed(), STALE_WAIT, "the lookup had its chance");
    advance(USABLE).await;
    let later = Instant::now();
    assert_eq!(port(&name).await, Ok(1));
    assert_eq!(later.elapsed(), Duration::ZERO, "no other request waits");
    assert_eq!(resolver.begun.load(Ordering::Relaxed), 2, "one is open");
    resolver.allowed.add_permits(1);
    tokio::task::yield_now().await;
    assert_eq!(port(&name).await, Ok(2), "it was not given up");
}

#[tokio::test(start_paused = true)]
async fn the_wait_with_old_addresses_is_a_small_part_of_a_short_limit() {
    let (name, _resolver) = name(1);
    assert_eq!(port(&name).await, Ok(1));
    advance(USABLE).await;
    let (began, limit) = (Instant::now(), Duration::from_millis(80));
    let addresses = name.addresses(limit).await.expect("known");
    assert_eq!(addresses[0].port(), 1);
    assert_eq!(began.elapsed(), limit / 8);
}

#[tokio::test(start_paused = true)]
async fn a_name_without_addresses_waits_for_the_limit_of_connecting() {
    let (name, resolver) = name(0);
    let began = Instant::now();
    for waits in 1..3 {
        assert_eq!(port(&name).await, Err("no answer within 4s".into()));
        assert_eq!(began.elapsed(), LIMIT * waits);
    }
    assert_eq!(resolver.begun.load(Ordering::Relaxed), 1);
}

/// Asks for the addresses at the moment at which a lookup answers: its task has not ended.
struct AskWhenAnswered {
    name: Arc<ResolvedName>,
    /// Nothing if the request had to wait.
    answered: Mutex<Option<Result<u16, Arc<str>>>>,
}

impl Wake for AskWhenAnswered {
    fn wake(self: Arc<Self>) {
        *self.answered.lock() = port(&self.name).now_or_never();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_with_the_answer_waits_for_no_other() {
    let (name, resolver) = name(0);
    resolver.allowed.close();
    let asking = Arc::new(AskWhenAnswered {
        name: Arc::clone(&name),
        answered: Mutex::default(),
    });
    let waker = Waker::from(Arc::clone(&asking));
    let mut waiting = std::pin::pin!(name.addresses(LIMIT));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "the lookup has not run");
    tokio::task::yield_now().await;
    let answered = asking.answered.lock().take();
    assert_eq!(answered, Some(Err("no such name".into())));
}

/// Many addresses of one family, and then one of the other.
struct Crowded;

impl NameResolver for Crowded {
    fn resolve(&self, _: &DnsName, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let ours = (0..40).map(move |host| SocketAddr::from(([10, 0, 0, host], port)));
        let other = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        async move { Ok(ours.chain([other]).collect()) }.boxed()
    }
}

#[tokio::test]
async fn a_long_list_keeps_an_address_of_each_family() {
    let name = "engine".parse().expect("a name");
    let name = ResolvedName::new(name, 80, Arc::new(Crowded));
    let addresses = name.addresses(LIMIT).await.expect("known");
    assert_eq!(addresses.len(), MAX_ADDRESSES);
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6());
}
