//! Where an endpoint publishes its KV events.
//!
//! In this order: the pod's object in Kubernetes (an annotation, or ports by name), the configured
//! port, the engine's answer at `/kv_event_sources` (vLLM since 0.32), and the ports that vLLM's
//! and SGLang's documents use, 5557 and 5558. The host is always the endpoint's own, and rank `r`
//! has both ports moved up by `r`, as engines do it.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc, time::Duration};

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

/// Default port of replays.
const DEFAULT_REPLAY: u16 = 5558;

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

/// Where the publisher of one rank is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PublisherPlace {
    /// It listens here.
    At(PublisherAddress),
    /// It connects to its subscribers.
    Dials,
    /// The engine does not say.
    Unknown,
}

/// Where the ranks of one endpoint are.
#[derive(Debug)]
pub(super) struct PublisherPorts {
    host: ServerHost,
    /// What is known without asking.
    fixed: Option<RankPorts>,
    /// The replay port of rank 0, if it is known without asking.
    fixed_replay: FixedReplay,
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

/// The ports of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RankPorts {
    /// Where it publishes; `None` if it connects to its subscribers instead.
    publish: Option<u16>,
    replay: Option<u16>,
}

/// The ports of every rank.
type Ports = Vec<RankPorts>;

/// The configured replay port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FixedReplay {
    /// What the engine reports.
    Asked,
    /// There is none.
    Nowhere,
    At(u16),
}

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
            None => Some(DEFAULT_REPLAY),
        };
        let fixed = match discovered {
            Some(EventPorts {
                publish,
                replay: discovered,
            }) => Some(RankPorts {
                publish: Some(publish.get()),
                replay: discovered.map(NonZeroU16::get).or(replay),
            }),
            None => config.port.map(|port| RankPorts {
                publish: Some(port),
                replay,
            }),
        };
        let discovered_replay = discovered.and_then(|ports| ports.replay);
        let fixed_replay = match (discovered_replay, config.replay_port) {
            (Some(port), _) => FixedReplay::At(port.get()),
            (None, Some(0)) => FixedReplay::Nowhere,
            (None, Some(port)) => FixedReplay::At(port),
            (None, None) => FixedReplay::Asked,
        };
        Ok(Self {
            host: address.host().clone(),
            fixed,
            fixed_replay,
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
    pub(super) fn assumed_ranks(&self) -> u32 {
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
    ) -> Result<PublisherPlace, RankCountChanged> {
        let ports = match self.fixed {
            Some(_) if self.assumed_ranks() != of => return Err(RankCountChanged),
            Some(ports) => Some(ports.moved(rank)),
            None => match self.ask().await {
                Some(ports) if ports.len() as u32 != of => return Err(RankCountChanged),
                Some(ports) => ports.get(rank as usize).copied(),
                None => None,
            },
        };
        Ok(match ports {
            None => PublisherPlace::Unknown,
            Some(RankPorts { publish: None, .. }) => PublisherPlace::Dials,
            Some(RankPorts {
                publish: Some(publisher),
                replay,
            }) => PublisherPlace::At(PublisherAddress {
                publisher: self.authority(publisher),
                replay: replay.map(|port| self.authority(port)),
            }),
        })
    }

    /// Where a rank whose publisher dials replays, if it may do so.
    pub(super) async fn replay(&self, rank: u32) -> Option<Arc<str>> {
        let port = match self.fixed_replay {
            FixedReplay::Nowhere => None,
            FixedReplay::At(port) => Some(port.saturating_add(rank as u16)),
            FixedReplay::Asked => {
                let ports = self.ask().await?;
                // Ranks behind addresses of their own are counted over all of these. Whether it is
                // this rank's is seen by its batches.
                let own = ports.get(rank as usize);
                own.or_else(|| ports.first().filter(|_| ports.len() == 1))?
                    .replay
            }
        };
        port.map(|port| self.authority(port))
    }

    /// Asks the engine. One that does not know the question has its publishers at the usual ports.
    async fn ask(&self) -> Option<Ports> {
        let client = self.engine.load().client.clone();
        let key = self.key.as_ref();
        match fetch::get(&client, &self.question, key, ASK, MAX_ANSWER).await {
            Ok(body) => read(&body, &self.host),
            Err(ProbeFailure::Status(400..=499)) => {
                let ranks = 0..self.assumed_ranks();
                Some(ranks.map(|rank| RankPorts::DEFAULT.moved(rank)).collect())
            }
            Err(_) => None,
        }
    }

    fn authority(&self, port: u16) -> Arc<str> {
        format!("{}:{port}", self.host).into()
    }
}

// === RankPorts ===

impl RankPorts {
    /// Those of vLLM's and SGLang's documents.
    const DEFAULT: Self = Self {
        publish: Some(5557),
        replay: Some(DEFAULT_REPLAY),
    };

    /// Those of another rank, if these are of rank 0.
    fn moved(self, rank: u32) -> Self {
        let up = |port: u16| port.saturating_add(rank as u16);
        Self {
            publish: self.publish.map(up),
            replay: self.replay.map(up),
        }
    }
}

/// The ports of all ranks of the engine on `host`, if all of them publish.
fn read(body: &[u8], host: &ServerHost) -> Option<Ports> {
    let sources: BTreeMap<u32, EventSourceReply> = serde_json::from_slice(body).ok()?;
    let publishes = |source: &EventSourceReply| source.publisher.as_deref() == Some("zmq");
    let are_ranks =
        sources.keys().copied().eq(0..sources.len() as u32) && sources.len() as u32 <= MAX_RANKS;
    if sources.is_empty() || !are_ranks || !sources.values().all(publishes) {
        return None;
    }
    let ports = |source: &EventSourceReply| {
        let endpoint = source.endpoint.as_deref()?;
        let replay = source.replay_endpoint.as_deref().and_then(port);
        let publish = port(endpoint)?;
        Some(RankPorts {
            publish: binds(endpoint, host).then_some(publish),
            replay,
        })
    };
    sources.values().map(ports).collect()
}

/// Whether a publisher with this `tcp://host:port` may listen there. One with the name of another
/// host connects to it. An address may be any of its own host's: vLLM reports one if the system
/// chose the port.
fn binds(endpoint: &str, own: &ServerHost) -> bool {
    let host = endpoint.strip_prefix("tcp://").unwrap_or(endpoint);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    host.contains('*') || is_address || host == "localhost" || host == own.to_string()
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
        let place = ports_of.place(rank, of).await;
        let PublisherPlace::At(place) = place.expect("as many ranks as before") else {
            panic!("known")
        };
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
        let host: ServerHost = ServerHost::Ip([10, 0, 0, 7].into());
        let ports = |publish, replay| RankPorts { publish, replay };
        assert_eq!(
            read(vllm, &host),
            Some(vec![ports(Some(5601), Some(5602)), ports(Some(5701), None)])
        );
        let useless = [
            "{}",
            "[]",
            r#"{"0":{"publisher":"null","endpoint":"tcp://*:5557"}}"#,
            r#"{"0":{"publisher":"zmq","endpoint":"ipc:///run/kv"}}"#,
            r#"{"1":{"publisher":"zmq","endpoint":"tcp://*:5557"}}"#,
            r#"{"0":{"publisher":"zmq","endpoint":"tcp://*:0"}}"#,
        ];
        for answer in useless {
            assert_eq!(read(answer.as_bytes(), &host), None, "{answer}");
        }
    }

    #[test]
    fn a_publisher_with_the_name_of_another_host_connects_to_it() {
        let own = ServerHost::Name("vllm-0.vllm".parse().expect("a name"));
        let listening = [
            "*",
            "0.0.0.0",
            "[::]",
            "[::1]",
            "127.0.0.1",
            "localhost",
            "10.0.0.7",
            "vllm-0.vllm",
        ];
        for host in listening {
            assert!(binds(&format!("tcp://{host}:5557"), &own), "{host}");
        }
        for host in ["vllm-1.vllm", "epp.ai.svc.cluster.local"] {
            assert!(!binds(&format!("tcp://{host}:5557"), &own), "{host}");
        }
        let answer = br#"{"0":{"publisher":"zmq","endpoint":"tcp://epp:5557","replay_endpoint":"tcp://*:5602"}}"#;
        let dials = RankPorts {
            publish: None,
            replay: Some(5602),
        };
        assert_eq!(read(answer, &own), Some(vec![dials]));
    }

    #[tokio::test]
    async fn a_configured_replay_port_counts_for_publishers_that_dial() {
        let replay = |yaml, discovered| async move { ports_of(yaml, discovered).replay(2).await };
        let found = replay("{replayPort: 6001}", None).await;
        assert_eq!(found.as_deref(), Some("10.0.0.7:6003"));
        assert_eq!(replay("{replayPort: 0}", None).await, None);
        let found = replay("{replayPort: 6001}", Some((7000, Some(7001)))).await;
        assert_eq!(found.as_deref(), Some("10.0.0.7:7003"));
    }
}
