//! Where an endpoint publishes its KV events.
//!
//! In this order: the pod's object in Kubernetes (an annotation, or ports by name), the configured
//! port, the engine's answer at `/kv_event_sources` (vLLM since 0.32), and the ports that vLLM's
//! and SGLang's documents use, 5557 and 5558. The host is always the endpoint's own, and rank `r`
//! has both ports moved up by `r`, as engines do it.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hermes_core::address::{ServerAddress, ServerHost};
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::watch;

use super::settings::KvEventsSettings;
use crate::{
    discovery::EventPorts,
    engines::{
        EngineClient, EngineKey, NoEngineClient,
        fetch::{self, ProbeFailure},
    },
};

/// Default ports of publisher and replay.
const DEFAULT_PORTS: (u16, u16) = (5557, 5558);

/// How long the engine may take to say where its publisher is.
const ASK: Duration = Duration::from_secs(2);

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// Most ranks of one endpoint.
pub(super) const MAX_RANKS: u32 = 64;

/// The publisher of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublisherAddress {
    /// `host:port`.
    pub(super) publisher: Arc<str>,
    /// `host:port`, if there may be one.
    pub(super) replay: Option<Arc<str>>,
}

/// Where the ranks of one endpoint are.
#[derive(Debug)]
pub(super) struct PublisherPorts {
    host: ServerHost,
    /// What is known without asking.
    fixed: Option<(u16, Option<u16>)>,
    /// The number of ranks, if it is configured.
    ranks: Option<u32>,
    reported: ReportedRanks,
    /// The engine that is asked otherwise, and the URL of the question.
    engine: SharedEngineClient,
    question: Url,
    /// What it wants of those who ask.
    key: Option<EngineKey>,
}

/// The client of one engine, for those who ask it. It is replaced when other authorities verify the
/// engine.
pub(super) type SharedEngineClient = Arc<ArcSwap<EngineClient>>;

/// The number of ranks that the engine's metrics name; 0 while that is unknown.
pub(super) type ReportedRanks = watch::Receiver<u32>;

/// The engine has another number of ranks than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RankCountChanged;

/// The ports of every rank.
type Ports = Vec<(u16, Option<u16>)>;

/// What vLLM says of one rank.
#[derive(Deserialize)]
struct EventSourceReply {
    publisher: Option<String>,
    endpoint: Option<String>,
    replay_endpoint: Option<String>,
}

// === PublisherPorts ===

impl PublisherPorts {
    /// Of the endpoint at this address, which `engine` asks.
    ///
    /// # Errors
    /// When there is no URL for the question.
    pub(super) fn new(
        address: &ServerAddress,
        discovered: Option<EventPorts>,
        config: &KvEventsSettings,
        engine: SharedEngineClient,
        reported: ReportedRanks,
    ) -> Result<Self, NoEngineClient> {
        let replay = match config.replay_port {
            Some(0) => None,
            Some(port) => Some(port),
            None => Some(DEFAULT_PORTS.1),
        };
        let fixed = match discovered {
            Some(EventPorts {
                publish,
                replay: discovered,
            }) => Some((publish.get(), discovered.map(NonZeroU16::get).or(replay))),
            None => config.port.map(|port| (port, replay)),
        };
        Ok(Self {
            host: address.host().clone(),
            fixed,
            ranks: config.ranks,
            reported,
            question: engine.load().page("/kv_event_sources")?,
            key: config.key_file.clone().map(EngineKey::new),
            engine,
        })
    }

    /// What the engine's metrics say of its ranks.
    pub(super) fn reported(&self) -> ReportedRanks {
        self.reported.clone()
    }

    /// The number of ranks of an engine that is not asked, or does not know the question.
    fn assumed_ranks(&self) -> u32 {
        let reported = || Some(*self.reported.borrow()).filter(|ranks| *ranks > 0);
        self.ranks.or_else(reported).unwrap_or(1).min(MAX_RANKS)
    }

    /// The number of ranks, if it is known.
    pub(super) async fn ranks(&self) -> Option<u32> {
        match self.fixed {
            Some(_) => Some(self.assumed_ranks()),
            None => Some(self.ask().await?.len() as u32),
        }
    }

    /// The address of a rank of an endpoint with `of` ranks, if it is known.
    pub(super) async fn place(
        &self,
        rank: u32,
        of: u32,
    ) -> Result<Option<PublisherAddress>, RankCountChanged> {
        let ports = match self.fixed {
            Some(_) if self.assumed_ranks() != of => return Err(RankCountChanged),
            Some(ports) => Some(moved(ports, rank)),
            None => match self.ask().await {
                Some(ports) if ports.len() as u32 != of => return Err(RankCountChanged),
                Some(ports) => ports.get(rank as usize).copied(),
                None => None,
            },
        };
        Ok(ports.map(|(publisher, replay)| PublisherAddress {
            publisher: self.authority(publisher),
            replay: replay.map(|port| self.authority(port)),
        }))
    }

    /// Asks the engine. One that does not know the question has its publishers at the usual ports.
    async fn ask(&self) -> Option<Ports> {
        let client = self.engine.load().client.clone();
        let key = self.key.as_ref();
        match fetch::get(&client, &self.question, key, ASK, MAX_ANSWER).await {
            Ok(body) => read(&body),
            Err(ProbeFailure::Status(400..=499)) => {
                let ports = (DEFAULT_PORTS.0, Some(DEFAULT_PORTS.1));
                Some(
                    (0..self.assumed_ranks())
                        .map(|rank| moved(ports, rank))
                        .collect(),
                )
            }
            Err(_) => None,
        }
    }

    fn authority(&self, port: u16) -> Arc<str> {
        format!("{}:{port}", self.host).into()
    }
}

fn moved((publisher, replay): (u16, Option<u16>), rank: u32) -> (u16, Option<u16>) {
    let up = |port: u16| port.saturating_add(rank as u16);
    (up(publisher), replay.map(up))
}

/// The ports of all ranks, if all of them publish.
fn read(body: &[u8]) -> Option<Ports> {
    let sources: BTreeMap<u32, EventSourceReply> = serde_json::from_slice(body).ok()?;
    let publishes = |source: &EventSourceReply| source.publisher.as_deref() == Some("zmq");
    let are_ranks =
        sources.keys().copied().eq(0..sources.len() as u32) && sources.len() as u32 <= MAX_RANKS;
    if sources.is_empty() || !are_ranks || !sources.values().all(publishes) {
        return None;
    }
    let ports = |source: &EventSourceReply| {
        Some((
            port(source.endpoint.as_deref()?)?,
            source.replay_endpoint.as_deref().and_then(port),
        ))
    };
    sources.values().map(ports).collect()
}

/// The port of `tcp://host:port`; other transports do not leave the engine's host.
fn port(endpoint: &str) -> Option<u16> {
    endpoint
        .strip_prefix("tcp://")?
        .rsplit_once(':')?
        .1
        .parse()
        .ok()
        .filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::EndpointTrust;
    use hermes_runtime::crypto::install_default_crypto;

    use super::*;
    use crate::config::Config;

    fn ports_of(yaml: &str, discovered: Option<(u16, Option<u16>)>) -> PublisherPorts {
        ports_with(yaml, discovered, 0)
    }

    /// The ports of an engine whose metrics name this number of ranks.
    fn ports_with(
        yaml: &str,
        discovered: Option<(u16, Option<u16>)>,
        reported: u32,
    ) -> PublisherPorts {
        install_default_crypto();
        let text = format!("pools: [{{name: a, endpoints: ['http://h:1'], kvEvents: {yaml}}}]");
        let config = Config::parse(&text)
            .expect("a good mapping")
            .pools
            .swap_remove(0)
            .kv_events
            .expect("switched on");
        let port = |port| NonZeroU16::new(port).expect("not zero");
        let discovered = discovered.map(|(publish, replay)| EventPorts {
            publish: port(publish),
            replay: replay.map(port),
        });
        let clients = fetch::clients().expect("TLS is set up");
        let address = ServerAddress::parse("http://10.0.0.7:8000").expect("an address");
        let engine = clients.to(&address, &EndpointTrust::System);
        let engine = Arc::new(ArcSwap::from_pointee(engine.expect("a client")));
        let (_, reported) = watch::channel(reported);
        PublisherPorts::new(&address, discovered, &config, engine, reported).expect("a host")
    }

    async fn place(ports_of: &PublisherPorts, rank: u32) -> (String, Option<String>) {
        let of = ports_of.ranks().await.expect("known");
        let place = ports_of
            .place(rank, of)
            .await
            .expect("as many ranks as before")
            .expect("known");
        (
            place.publisher.to_string(),
            place.replay.map(|replay| replay.to_string()),
        )
    }

    #[tokio::test]
    async fn ports_from_kubernetes_override_configured_ports() {
        let both = ports_of("{port: 6000, replayPort: 6001}", Some((7000, Some(7001))));
        assert_eq!(
            place(&both, 0).await,
            ("10.0.0.7:7000".to_owned(), Some("10.0.0.7:7001".to_owned()))
        );
        let half = ports_of("{port: 6000, replayPort: 6001}", Some((7000, None)));
        assert_eq!(place(&half, 0).await.1.as_deref(), Some("10.0.0.7:6001"));
        let configured = ports_of("{port: 6000}", None);
        assert_eq!(
            place(&configured, 0).await,
            ("10.0.0.7:6000".to_owned(), Some("10.0.0.7:5558".to_owned()))
        );
        let alone = ports_of("{port: 6000, replayPort: 0}", None);
        assert_eq!(place(&alone, 0).await.1, None);
    }

    #[tokio::test]
    async fn each_rank_has_ports_of_its_own() {
        let ranks = ports_of("{port: 6000, replayPort: 6100, ranks: 2}", None);
        assert_eq!(ranks.ranks().await, Some(2));
        assert_eq!(
            place(&ranks, 1).await,
            ("10.0.0.7:6001".to_owned(), Some("10.0.0.7:6101".to_owned()))
        );
    }

    #[tokio::test]
    async fn the_number_of_ranks_is_what_is_configured_else_what_the_metrics_name() {
        let discovered = Some((7000, None));
        let ranks = |yaml, reported| ports_with(yaml, discovered, reported);
        assert_eq!(ranks("{}", 0).ranks().await, Some(1));
        assert_eq!(ranks("{}", 8).ranks().await, Some(8));
        assert_eq!(ranks("{ranks: 2}", 8).ranks().await, Some(2));
        assert_eq!(place(&ranks("{}", 8), 7).await.0, "10.0.0.7:7007");
    }

    #[test]
    fn what_an_engine_says_is_read() {
        let vllm = br#"{"0":{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5601","replay_endpoint":"tcp://*:5602","topic":"kv@"},
            "1":{"publisher":"zmq","endpoint":"tcp://[::1]:5701","replay_endpoint":null}}"#;
        assert_eq!(read(vllm), Some(vec![(5601, Some(5602)), (5701, None)]));
        let useless = [
            "{}",
            "[]",
            r#"{"0":{"publisher":"null","endpoint":"tcp://*:5557"}}"#,
            r#"{"0":{"publisher":"zmq","endpoint":"ipc:///run/kv"}}"#,
            r#"{"1":{"publisher":"zmq","endpoint":"tcp://*:5557"}}"#,
            r#"{"0":{"publisher":"zmq","endpoint":"tcp://*:0"}}"#,
        ];
        for answer in useless {
            assert_eq!(read(answer.as_bytes()), None, "{answer}");
        }
    }
}
