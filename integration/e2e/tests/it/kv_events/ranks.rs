//! An endpoint with several data-parallel ranks, each of which has a cache and a publisher of its
//! own.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use hermes_control_plane::{
    cache_sources::kv_events::{KvEvents, Publisher},
    discovery::EventPorts,
};
use hermes_core::{
    block_index::CacheIdentity, policy::EndpointTrust, query::CachedTokens, snapshot::EndpointId,
};
use hermes_engine_sim::{Engine, EngineHandle};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::watched::{FollowedEngine, follower, prompt, publishing};
use crate::client::eventually;

/// An engine's front end that reports where its ranks publish.
struct Front {
    url: String,
    sources: Arc<Mutex<Value>>,
    _serving: AbortOnDropHandle<()>,
}

impl Front {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let sources = Arc::new(Mutex::new(json!({})));
        let served = Arc::clone(&sources);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                let body = served.lock().to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _sent = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Self {
            url,
            sources,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn set_ranks(&self, ranks: &[&EngineHandle]) {
        let source = |(rank, engine): (usize, &&EngineHandle)| {
            let (publish, replay) = engine.kv_events_addrs().expect("it publishes");
            let endpoint = |port: u16| format!("tcp://*:{port}");
            let replay = replay.map(|address| endpoint(address.port()));
            (
                rank.to_string(),
                json!({"publisher": "zmq", "endpoint": endpoint(publish.port()), "replay_endpoint": replay}),
            )
        };
        *self.sources.lock() = Value::Object(ranks.iter().enumerate().map(source).collect());
    }
}

fn standings(events: &KvEvents) -> Vec<&'static str> {
    events
        .view()
        .streams
        .iter()
        .map(|stream| stream.standing)
        .collect()
}

#[tokio::test]
async fn the_estimate_is_that_of_the_best_rank_and_a_lost_rank_leaves_misses_unknown() {
    let mut ranks = Vec::new();
    for _ in 0..2 {
        ranks.push(FollowedEngine {
            engine: Engine::start(publishing(1_000)).await.expect("starts"),
            events: follower("{}"),
        });
    }
    let front = Front::start().await;
    front.set_ranks(&[&ranks[0].engine, &ranks[1].engine]);
    let events = follower("{}");
    events.set([Publisher {
        endpoint: EndpointId(1),
        name: "engine".into(),
        trust: EndpointTrust::System,
        address: front.url.parse().expect("an address"),
        ports: None,
    }]);
    eventually("both ranks are known", || async {
        standings(&events) == ["synced", "synced"]
    })
    .await;

    ranks[0].ask_all([100]).await;
    ranks[1].ask_all([100, 101]).await;
    let estimated = |number| {
        events
            .hits(&prompt(number), &CacheIdentity::default())
            .first()
            .map(|hit| hit.cached)
    };
    eventually("what either rank has is known", || async {
        [100, 101]
            .iter()
            .all(|number| estimated(*number) == Some(ranks[1].truth("sim", &prompt(*number))))
    })
    .await;
    assert_eq!(
        estimated(102),
        Some(CachedTokens::default()),
        "neither has it"
    );

    ranks[1].engine.kill().await;
    eventually("a miss is no longer known", || async {
        estimated(102).is_none()
    })
    .await;
    assert_eq!(
        estimated(100),
        Some(ranks[0].truth("sim", &prompt(100))),
        "the other still counts"
    );
    assert_eq!(estimated(101), None);

    front.set_ranks(&[&ranks[0].engine]);
    eventually("the endpoint has one rank now", || async {
        standings(&events) == ["synced"]
    })
    .await;
    assert_eq!(estimated(102), Some(CachedTokens::default()));
}

#[tokio::test]
async fn ranks_that_the_metrics_name_without_a_known_publisher_leave_misses_unknown() {
    let engine = Engine::start(publishing(1_000)).await.expect("starts");
    let (publish, replay) = engine.kv_events_addrs().expect("it publishes");
    let (port, replay) = (publish.port(), replay.expect("it replays").port());
    let watched = FollowedEngine {
        events: follower(&format!("{{port: {port}, replayPort: {replay}, ranks: 1}}")),
        engine,
    };
    watched.follow();
    eventually("the rank is followed", || async {
        standings(&watched.events) == ["synced"]
    })
    .await;
    let identity = CacheIdentity::default();
    let nothing = Some(CachedTokens::default());
    assert_eq!(watched.estimated(&prompt(102), &identity), nothing);

    watched.events.set_reported_ranks(EndpointId(1), 8);
    eventually("seven ranks are not followed", || async {
        let standings = standings(&watched.events);
        standings.len() == 8
            && standings[1..]
                .iter()
                .all(|standing| *standing == "unsynced")
    })
    .await;
    watched.ask_all([100]).await;
    eventually("what the one rank has is known", || async {
        watched.estimated(&prompt(100), &identity) == Some(watched.truth("sim", &prompt(100)))
    })
    .await;
    assert_eq!(watched.estimated(&prompt(102), &identity), None);
    let streams = watched.events.view().streams;
    let reason = streams[7].failure.as_deref().unwrap_or_default();
    assert!(reason.starts_with("not followed"), "{reason}");
}

#[tokio::test]
async fn every_rank_that_the_metrics_name_is_followed_from_a_port_that_kubernetes_has() {
    let (first, second) = neighboring_ports().await;
    let port = first.local_addr().expect("an address").port();
    let events = follower("{replayPort: 0}");
    events.set([Publisher {
        endpoint: EndpointId(1),
        name: "engine".into(),
        trust: EndpointTrust::System,
        address: "http://127.0.0.1:9".parse().expect("an address"),
        ports: Some(EventPorts {
            publish: NonZeroU16::new(port).expect("not zero"),
            replay: None,
        }),
    }]);
    let soon = Duration::from_secs(10);
    let connected = timeout(soon, first.accept()).await;
    connected.expect("soon").expect("a follower of rank 0");
    events.set_reported_ranks(EndpointId(1), 2);
    let connected = timeout(soon, second.accept()).await;
    connected.expect("soon").expect("a follower of rank 1");
    assert_eq!(events.view().streams.len(), 2);
}

/// Two ports of which the second is higher by one.
async fn neighboring_ports() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = first.local_addr().expect("an address").port();
        let next = port.checked_add(1).map(|port| ("127.0.0.1", port));
        let Some(next) = next else { continue };
        if let Ok(second) = TcpListener::bind(next).await {
            return (first, second);
        }
    }
}
