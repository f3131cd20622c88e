//! Where a pod publishes its KV events, by its Kubernetes object: an annotation, or named ports.
//!
//! The annotation `hermes.ai/kv-events` has the publisher's port and, after a comma, that of its
//! replay socket: `5557` or `5557,5558`. Each may be written as engines want it, `tcp://*:5557`;
//! the host is the pod's own whatever stands there. It is looked for on the pod, or on the Service
//! where Services are selected, as slices do not carry annotations.

use std::{collections::BTreeMap, num::NonZeroU16};

/// The annotation that names the ports.
const ANNOTATION: &str = "hermes.ai/kv-events";

/// Ports of rank 0 of a publisher of KV events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventPorts {
    /// Where it publishes.
    pub publish: NonZeroU16,
    /// Where it replays.
    pub replay: Option<NonZeroU16>,
}

/// How such ports are called in Kubernetes; of several names the first that is there counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPortNames {
    /// Where events are published.
    pub publish: Vec<String>,
    /// Where they are replayed.
    pub replay: Vec<String>,
}

/// What the annotation says.
pub(super) fn annotation(annotations: Option<&BTreeMap<String, String>>) -> Option<&str> {
    annotations?.get(ANNOTATION).map(String::as_str)
}

// === EventPorts ===

impl EventPorts {
    /// What an object's annotation says, or else its named ports; what cannot be understood says
    /// nothing.
    pub(super) fn find(
        names: Option<&EventPortNames>,
        annotation: Option<&str>,
        port: impl Fn(&str) -> Option<NonZeroU16>,
    ) -> Option<Self> {
        let EventPortNames { publish, replay } = names?;
        let annotated = annotation.and_then(Self::parse);
        let first = |names: &[String]| names.iter().find_map(|name| port(name));
        annotated.or_else(|| {
            Some(Self {
                publish: first(publish)?,
                replay: first(replay),
            })
        })
    }

    /// Those of a later rank: both ports are higher by its number, as engines have it. `None` if
    /// there are no such ports.
    pub(super) fn of_rank(self, rank: u16) -> Option<Self> {
        let moved = |port: NonZeroU16| port.checked_add(rank);
        Some(Self {
            publish: moved(self.publish)?,
            replay: self.replay.and_then(moved),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.rsplit(':').next()?.trim().parse().ok();
        match text.split_once(',') {
            Some((publish, replay)) => Some(Self {
                publish: port(publish)?,
                replay: Some(port(replay)?),
            }),
            None => Some(Self {
                publish: port(text)?,
                replay: None,
            }),
        }
    }
}

// === EventPortNames ===

impl Default for EventPortNames {
    /// `zmq-pub` (as openFuyao's charts have it) and `kv-events`, each with a name for the replay
    /// socket.
    fn default() -> Self {
        let owned = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        Self {
            publish: owned(["zmq-pub", "kv-events"]),
            replay: owned(["zmq-replay", "kv-replay"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ports(publish: u16, replay: Option<u16>) -> EventPorts {
        let port = |port| NonZeroU16::new(port).unwrap();
        EventPorts {
            publish: port(publish),
            replay: replay.map(port),
        }
    }

    fn annotated(text: &str) -> Option<EventPorts> {
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]);
        EventPorts::find(
            Some(&EventPortNames::default()),
            annotation(Some(&annotations)),
            |_| None,
        )
    }

    #[test]
    fn an_annotation_is_a_port_or_two_in_any_spelling() {
        assert_eq!(annotated("5557"), Some(ports(5557, None)));
        assert_eq!(annotated("tcp://*:5557"), Some(ports(5557, None)));
        assert_eq!(
            annotated("tcp://10.0.0.1:5601, tcp://[::]:5602"),
            Some(ports(5601, Some(5602)))
        );
        for wrong in ["", "0", "zmq", "5557,", "tcp://*", "70000"] {
            assert_eq!(annotated(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_annotation_wins_over_names_and_the_first_name_over_the_second() {
        let named = |name: &str| match name {
            "kv-events" => NonZeroU16::new(6000),
            "zmq-replay" => NonZeroU16::new(6001),
            _ => None,
        };
        let names = EventPortNames::default();
        assert_eq!(
            EventPorts::find(Some(&names), Some("5557"), named),
            Some(ports(5557, None))
        );
        assert_eq!(
            EventPorts::find(Some(&names), None, named),
            Some(ports(6000, Some(6001)))
        );
        let both = |name: &str| {
            if name == "zmq-pub" {
                NonZeroU16::new(7000)
            } else {
                named(name)
            }
        };
        assert_eq!(
            EventPorts::find(Some(&names), None, both),
            Some(ports(7000, Some(6001)))
        );
        assert_eq!(
            EventPorts::find(None, Some("5557"), named),
            None,
            "not configured"
        );
    }

    proptest! {
        #[test]
        fn any_annotation_is_read_or_says_nothing(text in ".{0,40}") {
            let _ports = annotated(&text);
        }
    }
}
