//! An endpoint with several data-parallel ranks, each of which has a cache and a publisher of its
//! own.

use std::sync::Arc;

use hermes_control_plane::cache_sources::kv_events::{KvEvents, Publisher};
use hermes_core::{
    block_index::CacheIdentity, policy::EndpointTrust, query::CachedTokens, snapshot::EndpointId,
};
use hermes_engine_sim::{Engine, EngineHandle};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
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
