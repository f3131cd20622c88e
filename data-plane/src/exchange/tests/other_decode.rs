//! Pairs whose decode endpoint is lost while the prompt is computed.

use std::{num::NonZeroU16, time::Duration};

use hermes_core::{
    load::{Health, Load},
    policy::{DisaggregationPolicy, PairDialect, PairFallback},
};

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// An engine that answers each request, after it was counted.
async fn answers(heads: &mpsc::Sender<()>) -> SocketAddr {
    let (listener, address) = listen().await;
    let heads = heads.clone();
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
                assert_ne!(stream.read_buf(&mut head).await.expect("open"), 0);
            }
            heads.send(()).await.expect("it is counted");
            stream.write_all(ANSWER).await.expect("open");
            streams.push(stream);
        }
    });
    address
}

/// Sends a request for a prefill endpoint and the first of two decode endpoints, whose load is this.
/// Returns how often each of the decode endpoints was asked.
async fn decoded_by(load: Load) -> [usize; 2] {
    let (prefills, _prefilled) = mpsc::channel(9);
    let (firsts, mut first) = mpsc::channel(9);
    let (seconds, mut second) = mpsc::channel(9);
    let policy = PoolPolicy {
        strategy: Strategy::RoundRobin,
        disaggregation: Some(DisaggregationPolicy {
            dialect: PairDialect::SharedStorage,
            fallback: PairFallback::OtherPrefill,
            min_uncached_tokens: 0,
            lease: Duration::from_secs(30),
            bootstrap_port: NonZeroU16::MIN,
        }),
        ..PoolPolicy::default()
    };
    let endpoints = [
        (Role::Prefill, answers(&prefills).await),
        (Role::Decode, answers(&firsts).await),
        (Role::Decode, answers(&seconds).await),
    ];
    let exchange = Exchange::in_roles(policy, endpoints);
    let upstreams = &exchange.pool.upstreams;
    upstreams[1].set_others(&load);
    let selection = EndpointSelection {
        ranked: std::iter::once(Placement::Pair {
            prefill: selected(&upstreams[0]),
            decode: selected(&upstreams[1]),
        })
        .collect(),
        ..EndpointSelection::default()
    };
    let (request, mut guard) = (request(), exchange.guard());
    let answer = exchange
        .forwarder
        .forward(&request, &exchange.pool, &selection, &mut guard);
    drop(answer.await);
    [&mut first, &mut second].map(|heads| std::iter::from_fn(|| heads.try_recv().ok()).count())
}

#[tokio::test]
async fn what_was_computed_for_an_endpoint_that_went_down_is_decoded_by_another() {
    assert_eq!(decoded_by(Load::default()).await, [1, 0]);
    let down = Load {
        health: Health::Down,
        ..Load::default()
    };
    assert_eq!(decoded_by(down).await, [0, 1]);
}
