//! Publishers that dial: what they say is known as that of publishers that are dialed, and none
//! speaks for another.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hermes_control_plane::cache_sources::kv_events::Publisher;
use hermes_core::{
    block_index::CacheIdentity, policy::EndpointTrust, query::CachedTokens, snapshot::EndpointId,
};
use hermes_engine_sim::{Encoding, EngineConfig, Fault, KvEventsConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    entry::{PublisherDoor, subscribed},
    watched::{FollowedEngine, prompt, publishing},
};
use crate::client::eventually;

/// llm-d's.
const TOPIC: &str = "kv@{address}@sim";

/// Asks until the engine's stream is followed: a publisher is known by its first batch.
async fn dialed(door: &PublisherDoor, engine: &FollowedEngine) {
    engine.ask_all([0]).await;
    door.await_arrival("accepted").await;
    eventually("it is synced", || async { engine.standing() == "synced" }).await;
}

#[tokio::test]
async fn an_engine_that_dials_is_indexed_under_every_topic_that_leads_to_it() {
    let topics = [
        TOPIC,
        "kv@127.0.0.1@Qwen/Qwen3-32B",
        "kv@engine@sim",
        "kv-events",
        "",
    ];
    for (at, topic) in topics.into_iter().enumerate() {
        let door = PublisherDoor::open("{}").await;
        let encoding = [Encoding::Maps, Encoding::Arrays][at % 2];
        let events = KvEventsConfig {
            encoding,
            ..door.dialed(topic)
        };
        let engine = door.engine(events).await;
        engine.ask_all(0..20).await;
        engine.await_estimates(0..24).await;
        assert_eq!(engine.standing(), "synced", "{topic}");
        assert_eq!(door.metric("hermes_kv_events_connections"), 1);
    }
}

#[tokio::test]
async fn a_publisher_that_dials_without_replay_is_known_whole_from_its_first_batch() {
    let door = PublisherDoor::open("{}").await;
    let events = KvEventsConfig {
        replay: None,
        ..door.dialed(TOPIC)
    };
    let engine = door.engine(events).await;
    engine.ask_all(0..8).await;
    engine.await_estimates(0..9).await;
    assert_eq!(engine.standing(), "synced");
}

#[tokio::test]
async fn a_restarted_engine_that_dials_again_has_an_empty_index() {
    for replay in [KvEventsConfig::default().replay, None] {
        let door = PublisherDoor::open("{}").await;
        let events = KvEventsConfig {
            replay,
            ..door.dialed(TOPIC)
        };
        let engine = door.engine(events).await;
        engine.ask_all(0..5).await;
        engine.await_estimates(0..5).await;
        engine.engine.restart().await.expect("starts again");
        subscribed(&engine).await;
        eventually("nothing is claimed", || async {
            let estimated = engine.estimated(&prompt(0), &CacheIdentity::default());
            estimated.is_none_or(|cached| cached.gpu == 0)
        })
        .await;
        engine.ask_all(5..7).await;
        engine.await_estimates(0..8).await;
        assert_eq!(engine.standing(), "synced");
    }
}

#[tokio::test]
async fn a_control_plane_that_restarts_is_dialed_again_and_learns_all_by_replay() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.engine(door.dialed(TOPIC)).await;
    engine.ask_all(0..6).await;
    engine.await_estimates(0..6).await;
    let address = door.address;
    drop(door);
    let FollowedEngine { engine, events } = engine;
    drop(events);
    eventually("the connection is gone", || async {
        engine.kv_events_subscribers() == 0
    })
    .await;
    let door = PublisherDoor::open_at(address, "{}").await;
    let events = std::sync::Arc::clone(&door.events);
    let engine = FollowedEngine { engine, events };
    engine.follow();
    subscribed(&engine).await;
    engine.ask_all([100]).await;
    engine.await_estimates((0..6).chain([100, 101])).await;
    assert_eq!(engine.standing(), "synced");
}

#[tokio::test]
async fn a_lost_batch_of_a_publisher_that_dials_is_replayed_or_costs_what_was_known() {
    let replay = KvEventsConfig::default().replay;
    for (replay, standing) in [(replay, "synced"), (None, "partial")] {
        let door = PublisherDoor::open("{}").await;
        let events = KvEventsConfig {
            replay,
            ..door.dialed(TOPIC)
        };
        let engine = door.engine(events).await;
        engine.ask_all(0..3).await;
        engine.await_estimates(0..1).await;
        engine.engine.faults().set_for(2, Fault::KvEventsDrop);
        engine.ask_all(100..104).await;
        engine.await_estimates(103..104).await;
        assert_eq!(engine.standing(), standing);
        for number in (0..3).chain(100..104) {
            let estimated = engine.estimated(&prompt(number), &CacheIdentity::default());
            let truth = engine.truth("sim", &prompt(number));
            assert!(estimated.unwrap_or_default().gpu <= truth.gpu, "{number}");
        }
    }
}

#[tokio::test]
async fn a_broken_connection_of_a_publisher_that_dials_is_resumed_by_replay() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.engine(door.dialed(TOPIC)).await;
    engine.ask_all(0..5).await;
    engine.await_estimates(0..5).await;
    engine.engine.faults().set_for(1, Fault::KvEventsDisconnect);
    engine.ask_all([100]).await;
    eventually("the connection is gone", || async {
        engine.engine.kv_events_subscribers() == 0
    })
    .await;
    subscribed(&engine).await;
    engine.ask_all([101]).await;
    engine.await_estimates((0..5).chain([100, 101])).await;
    assert_eq!(door.arrivals("accepted"), 2);
    assert_eq!(engine.standing(), "synced");
}

#[tokio::test]
async fn a_publisher_that_dials_and_answers_no_pings_is_unsynced() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.engine(door.dialed(TOPIC)).await;
    dialed(&door, &engine).await;
    engine.engine.faults().set_for(1, Fault::KvEventsMute);
    engine.ask_all(3..4).await;
    eventually("the missing pong is detected", || async {
        engine.standing() == "unsynced"
    })
    .await;
    assert_eq!(
        engine.estimated(&prompt(0), &CacheIdentity::default()),
        None
    );
}

#[tokio::test]
async fn a_publisher_is_subscribed_to_again_once_its_endpoint_is_found() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.stranger(door.dialed(TOPIC)).await;
    engine.ask_all(0..3).await;
    door.await_arrival("unknown_endpoint").await;
    engine.follow();
    let fresh = AtomicU32::new(100);
    eventually("it is subscribed to again", || async {
        engine
            .ask_all([fresh.fetch_add(1, Ordering::Relaxed)])
            .await;
        door.arrivals("accepted") > 0
    })
    .await;
    engine.await_estimates(0..5).await;
    assert_eq!(engine.standing(), "synced", "what it missed was replayed");
}

/// An engine at 127.0.0.2 whose publisher connects from 127.0.0.1.
async fn engine_with_another_address(door: &PublisherDoor) -> FollowedEngine {
    let config = EngineConfig {
        listen: SocketAddr::from(([127, 0, 0, 2], 0)),
        kv_events: Some(door.dialed(TOPIC)),
        ..publishing(1_000)
    };
    let engine = door.start(config).await;
    engine.follow();
    engine.ask_all(0..3).await;
    engine
}

#[tokio::test]
async fn a_publisher_speaks_for_its_own_address_only_unless_that_is_allowed() {
    let door = PublisherDoor::open("{}").await;
    let engine = engine_with_another_address(&door).await;
    door.await_arrival("other_address").await;
    assert_eq!(engine.standing(), "unsynced");
    assert_eq!(
        engine.estimated(&prompt(0), &CacheIdentity::default()),
        None
    );

    let door = PublisherDoor::open("{dialFrom: anywhere, replayPort: 0}").await;
    let engine = engine_with_another_address(&door).await;
    engine.await_estimates(0..4).await;
}

#[tokio::test]
async fn the_first_of_two_publishers_of_one_endpoint_is_kept() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.engine(door.dialed(TOPIC)).await;
    dialed(&door, &engine).await;
    let topic = format!("kv@{}@sim", engine.engine.addr());
    let rival = door.stranger(door.dialed(&topic)).await;
    rival.ask_all(200..203).await;
    door.await_arrival("duplicate").await;
    engine.ask_all(1..6).await;
    engine.await_estimates(0..8).await;
    let theirs = engine.estimated(&prompt(200), &CacheIdentity::default());
    assert_eq!(theirs, Some(CachedTokens::default()));
    assert_eq!(engine.standing(), "synced");
}

/// Waits until the other side closes the connection.
async fn closed(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    timeout(Duration::from_secs(10), end)
        .await
        .expect("it is closed");
}

#[tokio::test]
async fn peers_that_are_silent_speak_http_or_are_no_publishers_are_closed() {
    let door = PublisherDoor::open("{}").await;
    let connect = || async { TcpStream::connect(door.address).await.expect("accepted") };
    let silent = connect().await;
    let mut http = connect().await;
    http.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("sent");
    let mut slow = connect().await;
    slow.write_all(&[0xff]).await.expect("sent");
    for peer in [silent, http, slow] {
        closed(peer).await;
    }
    eventually("all are counted", || async {
        door.arrivals("no_handshake") == 3
    })
    .await;
    assert_eq!(door.metric("hermes_kv_events_connections"), 0);
}

#[tokio::test]
async fn an_address_with_too_many_connections_keeps_no_other_out() {
    let door = PublisherDoor::open("{}").await;
    let mut flood = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 3], 0)))
            .expect("any port");
        flood.push(socket.connect(door.address).await.expect("connected"));
    }
    door.await_arrival("too_many").await;
    assert!(door.metric("hermes_kv_events_connections") <= 256);
    let engine = door.engine(door.dialed(TOPIC)).await;
    dialed(&door, &engine).await;
}

/// A publisher written byte by byte: what it sends after its greeting and READY.
async fn scripted(door: &PublisherDoor, sent: &[u8]) -> TcpStream {
    let mut stream = shaking(door, b"PUB").await;
    // The other side may close the connection meanwhile.
    let _sent = stream.write_all(sent).await;
    stream
}

/// A socket of this type that sends its greeting and READY.
async fn shaking(door: &PublisherDoor, socket: &[u8; 3]) -> TcpStream {
    let mut stream = TcpStream::connect(door.address).await.expect("accepted");
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).await.expect("sent");
    let ready = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03";
    let ready = [ready.as_slice(), socket].concat();
    stream.write_all(&ready).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_large_message_of_an_unknown_publisher_is_not_read() {
    let door = PublisherDoor::open("{}").await;
    let header = [[2].as_slice(), &(64_u64 << 20).to_be_bytes()].concat();
    closed(scripted(&door, &header).await).await;
}

/// `[topic, number, [0, [], rank]]`, whose topic has at most 255 bytes.
fn empty_batch(topic: &str, number: u8, rank: u8) -> Vec<u8> {
    let mut bytes = vec![1, topic.len() as u8];
    bytes.extend(topic.as_bytes());
    bytes.extend([1, 8, 0, 0, 0, 0, 0, 0, 0, number]);
    bytes.extend([0, 4, 0x93, 0x00, 0x90, rank]);
    bytes
}

#[tokio::test]
async fn the_replay_of_another_rank_is_not_taken() {
    let door = PublisherDoor::open("{}").await;
    let engine = door.engine(door.dialed(TOPIC)).await;
    engine.ask_all(0..4).await;
    engine.await_estimates(0..5).await;
    // The engine reports the replay port of its first rank only.
    let topic = format!("kv@{}@sim", engine.engine.addr());
    let _second = scripted(&door, &empty_batch(&topic, 0, 1)).await;
    eventually("it has a stream of its own", || async {
        let streams = door.events.view().streams;
        streams.len() == 2 && streams[1].standing == "synced"
    })
    .await;
    let streams = door.events.view().streams;
    assert_eq!(
        (streams[1].rank, streams[1].next, streams[1].blocks),
        (1, 1, 0)
    );
    engine.await_estimates(0..5).await;
}

#[tokio::test]
async fn every_rank_that_dials_has_a_stream_and_one_that_does_not_leaves_misses_unknown() {
    let door = PublisherDoor::open("{ranks: 2, replayPort: 0}").await;
    door.events.set([Publisher {
        endpoint: EndpointId(1),
        name: "engine".into(),
        trust: EndpointTrust::System,
        address: "http://127.0.0.1:9".parse().expect("an address"),
        ports: None,
    }]);
    let message = |rank| empty_batch("kv@127.0.0.1:9", 0, rank);
    let identity = CacheIdentity::default();
    let miss = || {
        door.events
            .hits(&prompt(1), &identity)
            .first()
            .map(|hit| hit.cached)
    };
    let _first = scripted(&door, &message(0)).await;
    eventually("one rank dialed", || async {
        let streams = door.events.view().streams;
        streams.len() == 2 && streams.iter().any(|stream| stream.standing == "synced")
    })
    .await;
    assert_eq!(miss(), None, "the other may have it");
    let _second = scripted(&door, &message(1)).await;
    eventually("both dialed", || async {
        let streams = door.events.view().streams;
        streams.len() == 2 && streams.iter().all(|stream| stream.standing == "synced")
    })
    .await;
    assert_eq!(miss(), Some(CachedTokens::default()));
}

/// Two replicas that share what they receive, and an engine that dials the first; as the second
/// one sees it, too.
async fn shared(
    events: impl Fn(&PublisherDoor) -> KvEventsConfig,
) -> ([PublisherDoor; 2], FollowedEngine) {
    let doors = PublisherDoor::open_two("{}").await;
    eventually("they follow each other", || async {
        let followed = |door: &PublisherDoor| door.metric("hermes_kv_events_replicas") == 1;
        doors.iter().all(followed)
    })
    .await;
    let engine = doors[0].engine(events(&doors[0])).await;
    (doors, engine)
}

/// The engine, as the replica behind this door knows it.
fn seen_by(door: &PublisherDoor, engine: FollowedEngine) -> FollowedEngine {
    let events = std::sync::Arc::clone(&door.events);
    let FollowedEngine { engine, .. } = engine;
    let engine = FollowedEngine { engine, events };
    engine.follow();
    engine
}

#[tokio::test]
async fn what_a_publisher_sends_to_one_replica_is_known_to_the_others() {
    for replay in [KvEventsConfig::default().replay, None] {
        let (doors, engine) = shared(|door| KvEventsConfig {
            replay,
            ..door.dialed(TOPIC)
        })
        .await;
        let engine = seen_by(&doors[1], engine);
        engine.ask_all(0..12).await;
        engine.await_estimates(0..14).await;
        assert_eq!(engine.standing(), "synced");
        assert_eq!(
            doors[1].arrivals("accepted"),
            0,
            "it dialed the first replica only"
        );
        let engine = seen_by(&doors[0], engine);
        engine.await_estimates(0..14).await;
    }
}

#[tokio::test]
async fn a_publisher_that_leaves_one_replica_is_unsynced_at_the_others() {
    let (doors, engine) = shared(|door| door.dialed(TOPIC)).await;
    let engine = seen_by(&doors[1], engine);
    engine.ask_all(0..3).await;
    engine.await_estimates(0..4).await;
    engine.engine.kill().await;
    eventually("no claims", || async { engine.standing() == "unsynced" }).await;
    engine.engine.restart().await.expect("starts again");
    subscribed(&engine).await;
    engine.ask_all(4..6).await;
    engine.await_estimates(0..8).await;
    assert_eq!(engine.standing(), "synced");
}

#[tokio::test]
async fn a_replica_that_dies_takes_its_streams_along_until_their_publishers_dial_again() {
    let ([first, second], engine) = shared(|door| door.dialed(TOPIC)).await;
    let address = first.address;
    let engine = seen_by(&second, engine);
    engine.ask_all(0..3).await;
    engine.await_estimates(0..4).await;
    drop(first);
    eventually("no claims", || async { engine.standing() == "unsynced" }).await;
    eventually("the connection is gone", || async {
        engine.engine.kv_events_subscribers() == 0
    })
    .await;
    let first = PublisherDoor::rejoin(address, &second).await;
    eventually("the second follows it again", || async {
        second.metric("hermes_kv_events_replicas") == 1
    })
    .await;
    let engine = seen_by(&first, engine);
    subscribed(&engine).await;
    let engine = seen_by(&second, engine);
    engine.ask_all([100]).await;
    engine.await_estimates((0..4).chain([100])).await;
    assert_eq!(engine.standing(), "synced");
}

#[tokio::test]
async fn a_subscriber_that_is_no_replica_gets_nothing() {
    let door = PublisherDoor::open("{}").await;
    let stream = shaking(&door, b"SUB").await;
    closed(stream).await;
    eventually("it is counted", || async {
        door.arrivals("no_handshake") == 1
    })
    .await;
}
