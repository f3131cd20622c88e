//! For which endpoint a publisher that dialed speaks. Pure.
//!
//! ```text
//!   kv@10.0.0.7:8000@Qwen/Qwen3-32B      kv@10.0.0.7@…    kv@[fd00::7]:8000@…    kv@vllm-0@…
//!      └─ address of a pod, or its name   └─ model, which is not looked at
//! ```
//!
//! llm-d's manifests set such topics. A topic of another form names nothing, and the address of
//! the connection does it instead.

use std::net::{IpAddr, SocketAddr};

use hermes_core::address::ServerHost;
use smallvec::SmallVec;

use super::Publisher;

/// What a topic of this form begins with.
const PREFIX: &str = "kv@";

/// Longest topic that is read.
const MAX_TOPIC: usize = 1 << 10;

/// What a publisher that dialed says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublisherClaim<'a> {
    /// How the topic may be read, the likeliest first. An IPv6 address with a port and without
    /// brackets may also be one without a port.
    names: SmallVec<[EndpointName<'a>; 2]>,
    /// Where the connection comes from.
    peer: IpAddr,
}

/// An endpoint, as a topic names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EndpointName<'a> {
    host: NamedHost<'a>,
    port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamedHost<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

/// How well an endpoint fits a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimFit {
    /// It has the host, at another port than the topic says, or the topic says none.
    Host,
    /// It has the host and the port.
    Address,
}

/// Why a claim leads to no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnfoundEndpoint {
    /// No endpoint of any pool that follows KV events fits.
    Unknown,
    /// More than one fits equally well.
    Ambiguous,
}

// === PublisherClaim ===

impl<'a> PublisherClaim<'a> {
    /// The claim of a publisher at `peer` with this topic.
    pub(super) fn new(topic: &'a [u8], peer: IpAddr) -> Self {
        Self {
            names: named(topic).unwrap_or_default(),
            peer: peer.to_canonical(),
        }
    }

    /// How well an endpoint fits, if it does at all.
    pub(super) fn fit(&self, publisher: &Publisher) -> Option<ClaimFit> {
        if self.names.is_empty() {
            let is_peer = *publisher.address.host() == ServerHost::Ip(self.peer);
            return is_peer.then_some(ClaimFit::Host);
        }
        let fits = self.names.iter().filter_map(|name| name.fit(publisher));
        fits.max()
    }
}

/// The one that fits best. Of several pools that share an endpoint, the first has its stream.
pub(super) fn best<P: Copy + PartialEq, E>(
    fitting: impl Iterator<Item = (P, E, ClaimFit)>,
) -> Result<(P, E), UnfoundEndpoint> {
    let mut best: Option<(P, E, ClaimFit)> = None;
    let mut rivals = 0;
    for (pool, endpoint, fit) in fitting {
        match &best {
            Some((_, _, known)) if fit < *known => {}
            Some((first, _, known)) if fit == *known => rivals += usize::from(*first == pool),
            _ => (best, rivals) = (Some((pool, endpoint, fit)), 0),
        }
    }
    let (pool, endpoint, _) = best.ok_or(UnfoundEndpoint::Unknown)?;
    if rivals > 0 {
        return Err(UnfoundEndpoint::Ambiguous);
    }
    Ok((pool, endpoint))
}

fn named(topic: &[u8]) -> Option<SmallVec<[EndpointName<'_>; 2]>> {
    let topic = std::str::from_utf8(topic.get(..MAX_TOPIC.min(topic.len()))?).ok()?;
    let named = topic.strip_prefix(PREFIX)?;
    let name = named.split('@').next().filter(|name| !name.is_empty())?;
    let mut names = SmallVec::new();
    if let Ok(ip) = name.trim_matches(['[', ']']).parse() {
        names.push(EndpointName::at(ip, None));
    } else if let Ok(address) = name.parse::<SocketAddr>() {
        names.push(EndpointName::at(address.ip(), Some(address.port())));
        return Some(names);
    }
    let split = name.rsplit_once(':');
    match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => match host.parse() {
            Ok(ip) => names.push(EndpointName::at(ip, Some(port))),
            Err(_) if names.is_empty() => names.push(EndpointName {
                host: NamedHost::Name(host),
                port: Some(port),
            }),
            Err(_) => {}
        },
        None if names.is_empty() => names.push(EndpointName {
            host: NamedHost::Name(name),
            port: None,
        }),
        None => {}
    }
    Some(names)
}

// === EndpointName ===

impl EndpointName<'_> {
    fn at(ip: IpAddr, port: Option<u16>) -> Self {
        Self {
            host: NamedHost::Ip(ip.to_canonical()),
            port,
        }
    }

    fn fit(&self, publisher: &Publisher) -> Option<ClaimFit> {
        let host = publisher.address.host();
        let has_host = match (self.host, host) {
            (NamedHost::Ip(named), ServerHost::Ip(ip)) => named == *ip,
            (NamedHost::Name(named), ServerHost::Name(name)) => {
                name.as_str().eq_ignore_ascii_case(named) || publisher.is_named(named)
            }
            (NamedHost::Name(named), ServerHost::Ip(_)) => publisher.is_named(named),
            (NamedHost::Ip(_), ServerHost::Name(_)) => false,
        };
        if !has_host {
            return None;
        }
        let has_port = self.port == Some(publisher.address.port().get());
        Some(if has_port {
            ClaimFit::Address
        } else {
            ClaimFit::Host
        })
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::{policy::EndpointTrust, snapshot::EndpointId};
    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn publisher(url: &str, name: &str) -> Publisher {
        Publisher {
            endpoint: EndpointId(1),
            name: name.into(),
            address: url.parse().expect("an address"),
            trust: EndpointTrust::System,
            ports: None,
        }
    }

    fn fit(topic: &str, url: &str) -> Option<ClaimFit> {
        let claim = PublisherClaim::new(topic.as_bytes(), PEER);
        claim.fit(&publisher(url, "chat/vllm-0"))
    }

    #[test]
    fn topics_name_addresses_with_and_without_a_port() {
        let exact = [
            ("kv@10.0.0.7:8000@Qwen/Qwen3-32B", "http://10.0.0.7:8000"),
            ("kv@10.0.0.7:8000", "http://10.0.0.7:8000"),
            ("kv@[fd00::7]:8000@m", "http://[fd00::7]:8000"),
            ("kv@fd00::7:8000@m", "http://[fd00::7]:8000"),
            ("kv@vllm-0.vllm:8000@m@v2", "http://vllm-0.vllm:8000"),
            ("kv@vllm-0:8000@m", "http://10.0.0.9:8000"),
        ];
        for (topic, url) in exact {
            assert_eq!(fit(topic, url), Some(ClaimFit::Address), "{topic}");
        }
        let by_host = [
            ("kv@10.0.0.7@m", "http://10.0.0.7:8000"),
            ("kv@10.0.0.7:8200@m", "http://10.0.0.7:8000"),
            ("kv@[fd00::7]@m", "http://[fd00::7]:8000"),
            ("kv@fd00::7@m", "http://[fd00::7]:8000"),
            ("kv@VLLM-0.vllm@m", "http://vllm-0.vllm:8000"),
            ("kv@vllm-0@m", "http://10.0.0.9:8000"),
            ("", "http://10.0.0.7:8000"),
            ("kv-events", "http://10.0.0.7:8000"),
            ("kv@", "http://10.0.0.7:8000"),
        ];
        for (topic, url) in by_host {
            assert_eq!(fit(topic, url), Some(ClaimFit::Host), "{topic}");
        }
    }

    #[test]
    fn a_topic_that_names_another_endpoint_is_not_read_as_the_peers() {
        for topic in ["kv@10.0.0.8:8000@m", "kv@other@m", "kv@10.0.0.8@m"] {
            assert_eq!(fit(topic, "http://10.0.0.7:8000"), None, "{topic}");
        }
        assert_eq!(fit("", "http://10.0.0.8:8000"), None);
    }

    #[test]
    fn the_best_fit_of_the_first_pool_wins_and_two_equal_ones_of_a_pool_are_ambiguous() {
        use ClaimFit::{Address, Host};
        let found = |fitting: &[(u8, u8, ClaimFit)]| best(fitting.iter().copied());
        assert_eq!(found(&[]), Err(UnfoundEndpoint::Unknown));
        assert_eq!(found(&[(0, 1, Host), (0, 2, Address)]), Ok((0, 2)));
        assert_eq!(found(&[(0, 1, Host), (1, 2, Host)]), Ok((0, 1)));
        assert_eq!(
            found(&[(0, 1, Host), (0, 2, Host)]),
            Err(UnfoundEndpoint::Ambiguous)
        );
    }

    proptest! {
        #[test]
        fn any_topic_is_read(topic in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _claim = PublisherClaim::new(&topic, PEER);
        }

        #[test]
        fn every_address_is_found_by_its_own_topic(ip: IpAddr, port in 1..u16::MAX, model in "[a-z@/]{0,9}") {
            let address = SocketAddr::new(ip.to_canonical(), port);
            let endpoint = publisher(&format!("http://{address}"), "a");
            for topic in [format!("kv@{address}@{model}"), format!("kv@{}:{port}@{model}", address.ip())] {
                let claim = PublisherClaim::new(topic.as_bytes(), PEER);
                prop_assert_eq!(claim.fit(&endpoint), Some(ClaimFit::Address), "{}", topic);
            }
        }
    }
}
