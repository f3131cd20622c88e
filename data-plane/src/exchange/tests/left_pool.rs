//! Requests whose placements leave the pool after they were chosen.

use hermes_core::policy::{PairDialect, PairFallback, RetryPolicy};
use tokio::sync::oneshot;

use super::*;

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An engine that answers one request with what the test gives it.
struct PromptedEngine {
    address: SocketAddr,
    /// It has read the request.
    asked: oneshot::Receiver<()>,
    says: oneshot::Sender<&'static str>,
}

impl PromptedEngine {
    async fn start() -> Self {
        let (listener, address) = listen().await;
        let (is_asked, asked) = oneshot::channel();
        let (says, said) = oneshot::channel::<&str>();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            drop(listener);
            read_head(&mut stream).await;
            is_asked.send(()).expect("the test waits");
            let answer = said.await.expect("the test says it");
            stream.write_all(answer.as_bytes()).await.expect("open");
            while stream.read_u8().await.is_ok() {}
        });
        Self {
            address,
            asked,
            says,
        }
    }

    /// Waits for the request, and answers it when the pool has become that.
    async fn leaves(
        self,
        exchange: &Exchange,
        there: impl IntoIterator<Item = (Role, SocketAddr)>,
        answer: &'static str,
    ) {
        self.asked.await.expect("a request");
        exchange.becomes(there);
        self.says.send(answer).expect("it waits");
    }
}

/// An engine that says `ok` to one request, whatever its body is.
async fn says_ok() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.expect("open");
        while stream.read_u8().await.is_ok() {}
    });
    address
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        assert_ne!(stream.read_buf(&mut head).await.expect("open"), 0);
    }
}

/// Nothing listens there.
async fn gone() -> SocketAddr {
    let (listener, address) = listen().await;
    drop(listener);
    address
}

fn alone(address: SocketAddr) -> (Role, SocketAddr) {
    (Role::default(), address)
}

fn pair(prefill: SocketAddr, decode: SocketAddr) -> [(Role, SocketAddr); 2] {
    [(Role::Prefill, prefill), (Role::Decode, decode)]
}

/// The body of the answer.
async fn body(answer: Result<ResponseBody, LocalReply>) -> Bytes {
    let body = answer.expect("an answer").collect().await;
    body.expect("whole").to_bytes()
}

/// How often the request was sent.
fn attempts(exchange: &mut Exchange) -> usize {
    let is_started = |event: &Event| matches!(event, Event::Started(_));
    exchange.events().into_iter().filter(is_started).count()
}

#[tokio::test]
async fn a_request_whose_endpoints_have_left_goes_to_one_that_is_there_at_the_first_attempt() {
    let mut exchange = Exchange::with(&[gone().await, gone().await]);
    let selection = exchange.selection();
    exchange.becomes([alone(says_ok().await)]);
    assert_eq!(body(exchange.answer(&selection).await).await, "ok");
    assert_eq!(attempts(&mut exchange), 1);
}

#[tokio::test]
async fn an_endpoint_that_has_left_is_tried_where_no_other_is_there() {
    let exchange = Exchange::with(&[says_ok().await]);
    let selection = exchange.selection();
    exchange.becomes([]);
    assert_eq!(body(exchange.answer(&selection).await).await, "ok");
}

#[tokio::test]
async fn an_endpoint_that_leaves_while_it_is_asked_is_followed_by_one_that_is_there() {
    let leaving = PromptedEngine::start().await;
    let exchange = Exchange::with(&[leaving.address]);
    let selection = exchange.selection();
    let there = [alone(says_ok().await)];
    let (answer, ()) = tokio::join!(
        exchange.answer(&selection),
        leaving.leaves(&exchange, there, BUSY)
    );
    assert_eq!(body(answer).await, "ok");
}

#[tokio::test]
async fn attempts_and_answers_before_a_second_choice_count() {
    let policy = PoolPolicy {
        strategy: Strategy::RoundRobin,
        retry: RetryPolicy {
            max_attempts: 2,
            ..PoolPolicy::default().retry
        },
        ..PoolPolicy::default()
    };
    let leaving = PromptedEngine::start().await;
    let mut exchange = Exchange::under(policy, &[leaving.address]);
    let selection = exchange.selection();
    let there = [alone(gone().await), alone(gone().await)];
    let (answer, ()) = tokio::join!(
        exchange.answer(&selection),
        leaving.leaves(&exchange, there, BUSY)
    );
    assert_eq!(body(answer).await, "busy", "the only answer that there was");
    assert_eq!(attempts(&mut exchange), 2);
}

#[tokio::test]
async fn the_endpoint_of_a_stored_response_is_replaced_by_no_other() {
    let exchange = Exchange::with(&[gone().await]);
    let (request, selection) = (
        request_to("/v1/responses/resp_1/cancel"),
        exchange.selection(),
    );
    exchange.becomes([alone(says_ok().await)]);
    let mut guard = exchange.guard();
    let answer = exchange
        .forwarder
        .forward(&request, &exchange.pool, &selection, &mut guard)
        .await;
    assert_eq!(answer.err(), Some(LocalReply::Exhausted(1)));
}

/// Pairs of this policy of failures.
fn paired(fallback: PairFallback, endpoints: [(Role, SocketAddr); 2]) -> Exchange {
    let mut policy = pairs::policy(PairDialect::SharedStorage, Duration::from_secs(30));
    let rules = policy.disaggregation.as_mut().expect("pairs");
    rules.fallback = fallback;
    Exchange::in_roles(policy, endpoints)
}

#[tokio::test]
async fn a_pair_that_has_left_is_replaced_by_one_that_is_there() {
    for fallback in [PairFallback::OtherPrefill, PairFallback::Fail] {
        let exchange = paired(fallback, pair(gone().await, gone().await));
        let selection = pairs::pair_first(&exchange);
        let there = [says_ok().await, says_ok().await];
        exchange.becomes(pair(there[0], there[1]));
        assert_eq!(body(exchange.answer(&selection).await).await, "ok");
    }
}

#[tokio::test]
async fn after_a_pair_that_failed_the_pools_policy_says_what_may_be_chosen() {
    for (fallback, expected) in [
        (PairFallback::OtherPrefill, "ok"),
        (PairFallback::Aggregate, "ok"),
        (PairFallback::Fail, "busy"),
    ] {
        let leaving = PromptedEngine::start().await;
        let exchange = paired(fallback, pair(leaving.address, gone().await));
        let selection = pairs::pair_first(&exchange);
        let there = [says_ok().await, says_ok().await];
        let (answer, ()) = tokio::join!(
            exchange.answer(&selection),
            leaving.leaves(&exchange, pair(there[0], there[1]), BUSY)
        );
        assert_eq!(body(answer).await, expected, "{fallback:?}");
    }
}
