//! What the legs of prefill/decode pairs do to the trials and cool-downs of their endpoints.

use std::{num::NonZeroU16, pin::pin, time::Duration};

use hermes_core::{
    load::Health,
    policy::{DisaggregationPolicy, EjectionPolicy, PairDialect, PairFallback},
    snapshot::{EngineRank, PairingFacts},
};

use tokio::{sync::oneshot, time::timeout};

use super::*;
use crate::{exchange::pair::PREFILL_PATIENCE, telemetry::metrics::PairEnd};

const DIALECTS: [PairDialect; 4] = [
    PairDialect::VllmMooncake,
    PairDialect::SharedStorage,
    PairDialect::Sglang,
    PairDialect::LlmDSidecar,
];

/// What a partner needs to know of an engine in any dialect.
pub(super) fn facts() -> PairingFacts {
    let rank = EngineRank {
        rank: 0,
        engine_id: "engine".into(),
    };
    PairingFacts {
        ranks: Some([rank].into()),
        ..PairingFacts::default()
    }
}

/// A pool of a prefill, a decode and perhaps a third endpoint. What fails is ejected, and its trial
/// is due at once.
fn paired(dialect: PairDialect, endpoints: &[SocketAddr]) -> Exchange {
    leased(dialect, Duration::from_secs(30), endpoints)
}

/// As [`paired`], with what is handed over for so long.
fn leased(dialect: PairDialect, lease: Duration, endpoints: &[SocketAddr]) -> Exchange {
    Exchange::under(policy(dialect, lease), endpoints)
}

pub(super) fn policy(dialect: PairDialect, lease: Duration) -> PoolPolicy {
    PoolPolicy {
        strategy: Strategy::RoundRobin,
        ejection: EjectionPolicy {
            consecutive_failures: 1,
            base_time: Duration::ZERO,
            ..EjectionPolicy::default()
        },
        disaggregation: Some(DisaggregationPolicy {
            dialect,
            fallback: PairFallback::OtherPrefill,
            min_uncached_tokens: 0,
            lease,
            bootstrap_port: NonZeroU16::MIN,
        }),
        ..PoolPolicy::default()
    }
}

/// The pair, and then the other endpoints alone.
pub(super) fn pair_first(exchange: &Exchange) -> EndpointSelection {
    let upstreams = &exchange.pool.upstreams;
    let pair = Placement::Pair {
        prefill: selected(&upstreams[0]),
        decode: selected(&upstreams[1]),
    };
    let others = upstreams[2..].iter().map(selected).map(Placement::One);
    EndpointSelection {
        ranked: std::iter::once(pair).chain(others).collect(),
        ..EndpointSelection::default()
    }
}

/// An engine that says this, or nothing, to the head of each request, which it counts.
pub(super) async fn says(answer: &'static str, heads: &mpsc::Sender<()>) -> SocketAddr {
    let (listener, address) = listen().await;
    let heads = heads.clone();
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
                assert_ne!(stream.read_buf(&mut head).await.expect("open"), 0);
            }
            stream.write_all(answer.as_bytes()).await.expect("open");
            streams.push(stream);
            heads.send(()).await.expect("it is counted");
        }
    });
    address
}

/// Sends a request, whose client leaves when all its legs have been read.
async fn leave(exchange: &Exchange, legs: usize, heads: &mut mpsc::Receiver<()>) {
    let (request, mut guard) = (request(), exchange.guard());
    let selection = pair_first(exchange);
    let answer = exchange
        .forwarder
        .forward(&request, &exchange.pool, &selection, &mut guard);
    let all_are_read = async {
        for _ in 0..legs {
            heads.recv().await.expect("an engine");
        }
    };
    tokio::select! {
        _ = answer => panic!("no engine answers"),
        () = all_are_read => {}
    }
}

const fn legs_of(dialect: PairDialect) -> usize {
    match dialect {
        PairDialect::Sglang | PairDialect::VllmMooncake => 2,
        _ => 1,
    }
}

#[tokio::test]
async fn a_client_that_leaves_leaves_the_trials_of_both_endpoints_to_the_next() {
    for dialect in DIALECTS {
        let (sender, mut heads) = mpsc::channel(2);
        let exchange = paired(dialect, &[says("", &sender).await, says("", &sender).await]);
        for upstream in &*exchange.pool.upstreams {
            assert!(upstream.failed(uptime(), EndpointFailure::Connect));
        }
        leave(&exchange, legs_of(dialect), &mut heads).await;
        for upstream in &*exchange.pool.upstreams {
            let name = &upstream.endpoint.name;
            assert!(upstream.admit(uptime()).is_some(), "{dialect:?}: {name}");
        }
    }
}

#[tokio::test]
async fn a_pair_that_is_not_the_trial_of_its_endpoints_leaves_those_trials_alone() {
    for dialect in DIALECTS {
        let (sender, mut heads) = mpsc::channel(2);
        let exchange = paired(dialect, &[says("", &sender).await, says("", &sender).await]);
        for upstream in &*exchange.pool.upstreams {
            upstream.failed(uptime(), EndpointFailure::Connect);
            assert!(upstream.admit(uptime()).is_some(), "of another request");
        }
        leave(&exchange, legs_of(dialect), &mut heads).await;
        for upstream in &*exchange.pool.upstreams {
            let name = &upstream.endpoint.name;
            assert!(upstream.admit(uptime()).is_none(), "{dialect:?}: {name}");
        }
    }
}

#[tokio::test]
async fn what_was_handed_over_too_late_is_not_used() {
    let body = r#"{"choices":[{"text":"a"}],"kv_transfer_params":{"remote_engine_id":"p"}}"#;
    let handoff = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (sender, mut heads) = mpsc::channel(9);
    let (asked, mut decode_heads) = mpsc::channel(9);
    let addresses = [says(handoff.leak(), &sender).await, says("", &asked).await];
    // As long as the margin that the transfer itself is left.
    let exchange = leased(PairDialect::VllmNixl, Duration::from_secs(5), &addresses);
    while exchange.pool.budget.withdraw() {}
    let answer = exchange.answer(&pair_first(&exchange)).await;
    assert!(answer.is_err(), "no other endpoint is left");
    assert!(heads.try_recv().is_ok());
    assert!(
        decode_heads.try_recv().is_err(),
        "the decode endpoint is not asked"
    );
}

#[tokio::test]
async fn the_failure_of_a_prefill_leaves_the_trial_of_its_decode_to_the_next() {
    let failed = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    for dialect in [
        PairDialect::SharedStorage,
        PairDialect::Sglang,
        PairDialect::VllmMooncake,
    ] {
        let (sender, _heads) = mpsc::channel(9);
        let addresses = [says(failed, &sender).await, says("", &sender).await];
        let exchange = paired(dialect, &addresses);
        while exchange.pool.budget.withdraw() {}
        let [_, decode] = &*exchange.pool.upstreams else {
            panic!("two endpoints")
        };
        decode.failed(uptime(), EndpointFailure::Connect);
        let answer = exchange.answer(&pair_first(&exchange)).await;
        drop(answer.expect("the 500 is passed on"));
        assert!(decode.admit(uptime()).is_some(), "{dialect:?}");
    }
}

#[tokio::test]
async fn a_429_of_a_prefill_and_of_another_endpoint_is_the_clients() {
    let limited = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let (sender, _heads) = mpsc::channel(9);
    let mut addresses = Vec::new();
    for _ in 0..3 {
        addresses.push(says(limited, &sender).await);
    }
    let mut exchange = paired(PairDialect::SharedStorage, &addresses);
    let answer = exchange.answer(&pair_first(&exchange)).await;
    drop(answer.expect("the 429 is passed on"));
    for upstream in &*exchange.pool.upstreams {
        let health = upstream.own_load(uptime()).health;
        assert_eq!(health, Health::Up, "{}", upstream.endpoint.name);
    }
    let confirmed = v1::SecondOpinion::Confirmed;
    let is_taken_back = |event: &Event| match event {
        Event::AttemptFailed(failed) => failed.second_opinion() == confirmed,
        _ => false,
    };
    let taken_back = exchange.events().into_iter().filter(is_taken_back).count();
    assert!(taken_back >= 2, "that of the prefill, and each further one");
}

/// The bytes of a whole JSON answer.
fn json_answer(body: &str) -> &'static str {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .leak()
}

#[tokio::test]
async fn the_answer_of_a_context_server_is_the_clients_when_it_ended_with_the_first_token() {
    let body = r#"{"id":"c","choices":[{"index":0,"text":"a","finish_reason":"stop","disaggregated_params":{"ctx_request_id":1}}],"prompt_token_ids":[7]}"#;
    let (sender, _heads) = mpsc::channel(9);
    let (asked, mut decode_heads) = mpsc::channel(9);
    let prefill = says(json_answer(body), &sender).await;
    let mut exchange = paired(PairDialect::Trtllm, &[prefill, says("", &asked).await]);
    let answer = exchange.answer(&pair_first(&exchange)).await;
    let answer = answer.expect("an answer").collect().await.expect("whole");
    assert_eq!(
        answer.to_bytes(),
        r#"{"id":"c","choices":[{"index":0,"text":"a","finish_reason":"stop"}]}"#
    );
    assert!(
        decode_heads.try_recv().is_err(),
        "the generation server is not asked"
    );
    let mut ended = Vec::new();
    while let Ok(report) = exchange.reports.try_recv() {
        if let Some(Event::Finished(_)) = report.event {
            ended.push(report.leg);
        }
    }
    assert_eq!(ended, [1, 0], "both legs, each once");
}

#[tokio::test]
async fn an_answer_of_a_context_server_that_cannot_be_used_is_the_failure_of_its_endpoint() {
    let body = r#"{"choices":[{"index":0,"text":"a","finish_reason":"length"}]}"#;
    let (sender, _heads) = mpsc::channel(9);
    let (asked, mut decode_heads) = mpsc::channel(9);
    let prefill = says(json_answer(body), &sender).await;
    let exchange = paired(PairDialect::Trtllm, &[prefill, says("", &asked).await]);
    while exchange.pool.budget.withdraw() {}
    let answer = exchange.answer(&pair_first(&exchange)).await;
    assert!(answer.is_err(), "no other endpoint is left");
    assert!(decode_heads.try_recv().is_err());
    let health = |index: usize| exchange.pool.upstreams[index].own_load(uptime()).health;
    assert_ne!(health(0), Health::Up, "it is ejected by one failure");
    assert_eq!(health(1), Health::Up);
}

/// A prompt that was computed for one token.
const COMPUTED: &str = r#"{"choices":[{"index":0,"text":"a","finish_reason":"length"}]}"#;

/// An engine that answers one request with this when it is released, if its connection is open
/// then.
async fn says_when_released(answer: &'static str) -> (SocketAddr, oneshot::Sender<()>) {
    let (listener, address) = listen().await;
    let (release, released) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        let closed = async {
            while stream
                .read_buf(&mut request)
                .await
                .is_ok_and(|read| read > 0)
            {}
        };
        tokio::select! {
            () = closed => {}
            _ = released => stream.write_all(answer.as_bytes()).await.expect("open"),
        }
    });
    (address, release)
}

#[tokio::test]
async fn a_mooncake_prefill_is_not_cut_off_when_its_decode_is_answered_first() {
    let (asked, mut decode_heads) = mpsc::channel(9);
    let decode = says(json_answer(COMPUTED), &asked).await;
    let (prefill, release) = says_when_released(json_answer(COMPUTED)).await;
    let exchange = paired(PairDialect::VllmMooncake, &[prefill, decode]);
    let selection = pair_first(&exchange);
    let mut answer = pin!(exchange.answer(&selection));
    let patience = 3 * PREFILL_PATIENCE;
    assert!(
        timeout(patience, &mut answer).await.is_err(),
        "it waits for the prefill"
    );
    assert!(decode_heads.try_recv().is_ok(), "which the decode does not");
    release.send(()).expect("its connection is open");
    let answer = answer.await.expect("an answer").collect().await;
    assert_eq!(answer.expect("whole").to_bytes(), COMPUTED);
    let ends = &exchange.pool.metrics.pairs.ends;
    assert_eq!(ends[PairEnd::Answered].get(), 1);
}

#[tokio::test]
async fn a_mooncake_prefill_that_transfers_nothing_ends_the_decode() {
    let unknown = COMPUTED.replace("length", "error");
    let (sender, _heads) = mpsc::channel(9);
    let prefill = says(json_answer(&unknown), &sender).await;
    let (decode, mut release) = says_when_released("").await;
    let exchange = paired(PairDialect::VllmMooncake, &[prefill, decode]);
    while exchange.pool.budget.withdraw() {}
    let answer = exchange.answer(&pair_first(&exchange)).await;
    assert!(answer.is_err(), "no other endpoint is left");
    release.closed().await;
    let health = |index: usize| exchange.pool.upstreams[index].own_load(uptime()).health;
    assert_ne!(health(0), Health::Up, "it is ejected by one failure");
    assert_eq!(health(1), Health::Up);
}

#[tokio::test]
async fn the_usage_of_a_pair_has_the_cached_tokens_of_its_prefill() {
    let usage = |cached: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"text":"a","finish_reason":"length"}}],"usage":{{"prompt_tokens":1000,"prompt_tokens_details":{{"cached_tokens":{cached}}}}}}}"#
        )
    };
    for dialect in [PairDialect::SharedStorage, PairDialect::VllmMooncake] {
        let (sender, _heads) = mpsc::channel(9);
        let prefill = says(json_answer(&usage("16")), &sender).await;
        let decode = says(json_answer(&usage("999")), &sender).await;
        let mut exchange = paired(dialect, &[prefill, decode]);
        let answer = exchange.answer(&pair_first(&exchange)).await;
        let answer = answer.expect("an answer").collect().await.expect("whole");
        assert_eq!(answer.to_bytes(), usage("16 "), "{dialect:?}");
        let reported = exchange.events().into_iter().find_map(|event| match event {
            Event::Finished(finished) => finished.usage,
            _ => None,
        });
        let reported = reported.expect("the usage is reported");
        assert_eq!(reported.prompt_tokens, 1_000, "{dialect:?}");
    }
}

#[tokio::test]
async fn a_pair_is_passed_over_and_the_next_endpoint_is_tried() {
    let (first, second) = (Engine::start(true).await, Engine::start(true).await);
    let exchange = Exchange::with(&[first.address, second.address]);
    let [first, second] = &exchange.pool.upstreams[..] else {
        panic!("two endpoints")
    };
    let pair = Placement::Pair {
        prefill: selected(first),
        decode: selected(second),
    };
    let mut selection = EndpointSelection {
        ranked: [pair].into_iter().collect(),
        ..EndpointSelection::default()
    };
    let answer = exchange.answer(&selection).await;
    assert_eq!(answer.err(), Some(LocalReply::NoEndpoint));
    selection.ranked.push(Placement::One(selected(first)));
    let answer = exchange.answer(&selection).await;
    let body = answer.expect("an answer").collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "ok");
}

/// A decode endpoint that serves whole requests, and prefill endpoints that are gone; each of these
/// is in a pair.
async fn without_prefills() -> (Exchange, EndpointSelection, mpsc::Receiver<()>) {
    let (sender, heads) = mpsc::channel(9);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let mut endpoints = vec![(Role::Decode, says(answer, &sender).await)];
    for _ in 0..3 {
        let (gone, address) = listen().await;
        drop(gone);
        endpoints.push((Role::Prefill, address));
    }
    let policy = policy(PairDialect::SharedStorage, Duration::from_secs(30));
    let exchange = Exchange::in_roles(policy, endpoints);
    let upstreams = &exchange.pool.upstreams;
    let pair = |prefill| Placement::Pair {
        prefill: selected(prefill),
        decode: selected(&upstreams[0]),
    };
    let selection = EndpointSelection {
        ranked: upstreams[1..].iter().map(pair).collect(),
        ..EndpointSelection::default()
    };
    (exchange, selection, heads)
}

#[tokio::test]
async fn the_last_attempt_is_left_to_an_endpoint_that_needs_no_prefill() {
    let (exchange, selection, _heads) = without_prefills().await;
    let answer = exchange.answer(&selection).await;
    let body = answer.expect("an answer").collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "{}");
}

#[tokio::test]
async fn endpoints_that_left_the_pool_since_they_were_chosen_cost_no_attempt() {
    let (exchange, selection, _heads) = without_prefills().await;
    let upstreams = &exchange.pool.upstreams;
    upstreams[1..].iter().for_each(|prefill| prefill.remove());
    while exchange.pool.budget.withdraw() {}
    let answer = exchange.answer(&selection).await;
    drop(answer.expect("the first attempt is at the decode endpoint"));
}

#[tokio::test]
async fn a_decode_endpoint_in_every_pair_that_is_gone_is_replaced_by_another() {
    let (sender, _heads) = mpsc::channel(9);
    let (gone, address) = listen().await;
    drop(gone);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let mut endpoints = vec![
        (Role::Decode, address),
        (Role::Decode, says(answer, &sender).await),
    ];
    for _ in 0..3 {
        endpoints.push((Role::Prefill, says(answer, &sender).await));
    }
    let policy = policy(PairDialect::SharedStorage, Duration::from_secs(30));
    let exchange = Exchange::in_roles(policy, endpoints);
    let upstreams = &exchange.pool.upstreams;
    let pair = |prefill| Placement::Pair {
        prefill: selected(prefill),
        decode: selected(&upstreams[0]),
    };
    let selection = EndpointSelection {
        ranked: upstreams[2..].iter().map(pair).collect(),
        ..EndpointSelection::default()
    };
    let answer = exchange.answer(&selection).await;
    drop(answer.expect("the other decode endpoint answers"));
}
