//! The engines' KV events: whether they are followed, and where their publishers are.

use super::{names::is_port_name, section::Section};
use crate::{
    cache_sources::kv_events::{DialSource, KvEventsSettings},
    discovery::EventPortNames,
};

/// What a port's name may be.
const PORT_NAME: &str = "a port's name: a-z, 0-9 and -, with a letter";

/// The mapping `kvEvents` of a pool; `None` when it is disabled.
pub(super) fn read(section: &mut Section<'_>) -> Option<KvEventsSettings> {
    let enabled = section
        .flag("enabled", "Whether KV events are followed.")
        .or(true);
    let config = KvEventsSettings {
        port: section
            .count(
                "port",
                1..=65_535,
                "Port at which rank 0 publishes, on the endpoint's host; ports found in Kubernetes take precedence.",
            )
            .or_unset("what the engine reports at `/kv_event_sources`, else `5557`"),
        replay_port: section
            .count("replayPort", 0..=65_535, "Replay port of rank 0; `0` for none.")
            .or_unset("what the engine reports, else `5558`"),
        names: read_names(section),
        topic: section
            .text("topic", "the beginning of a topic", "Prefix of the topics to subscribe to.")
            .or_unset("every topic")
            .unwrap_or_default(),
        ranks: section
            .count(
                "ranks",
                1..=64,
                "Data-parallel ranks of each endpoint; both ports of rank `r` are higher by `r`.",
            )
            .or_unset("what the engine reports, else `1`"),
        dial_from: read_dial_source(section),
        key_file: None,
    };
    let replay = config.replay_port.filter(|port| *port > 0);
    if config.port.is_some() && config.port == replay {
        section.error(
            "replayPort",
            "the same as `port`",
            "set the port of the replay socket, or 0 if there is none",
        );
    }
    enabled.then_some(config)
}

fn read_dial_source(section: &mut Section<'_>) -> DialSource {
    section
        .one_of(
            "dialFrom",
            &[
                ("endpoint", DialSource::Endpoint),
                ("anywhere", DialSource::Anywhere),
            ],
            "From which addresses a publisher that dials may speak for an endpoint: `endpoint`, the endpoint's own; `anywhere`, for engines behind address translation or in the network of their host.",
        )
        .or(DialSource::Endpoint)
}

fn read_names(section: &mut Section<'_>) -> EventPortNames {
    let defaults = EventPortNames::default();
    let mut read = |key, defaults: Vec<String>, meaning: &'static str| {
        section
            .text_where(key, PORT_NAME, is_port_name, meaning)
            .or_unset(format!("`{}`", defaults.join("`, else `")))
            .map_or(defaults, |name| vec![name.to_string()])
    };
    EventPortNames {
        publish: read(
            "portName",
            defaults.publish,
            "In Kubernetes: name of the port at which rank 0 publishes, of the pod or, where Services are selected, of the Service.",
        ),
        replay: read(
            "replayPortName",
            defaults.replay,
            "In Kubernetes: name of the replay port of rank 0.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, diagnostics::Diagnostics, node::Node};

    fn read_value(value: &Value) -> Result<Option<KvEventsSettings>, String> {
        let diagnostics = Diagnostics::default();
        let config = Section::read(&Node::new(value, "kvEvents", &diagnostics), read);
        let errors = diagnostics.into_errors();
        if errors.is_empty() {
            Ok(config.flatten())
        } else {
            Err(errors.to_string())
        }
    }

    #[test]
    fn an_empty_mapping_enables_kv_events() {
        let config = read_value(&json!({}))
            .expect("nothing is wrong")
            .expect("it is on");
        assert_eq!(
            (
                config.port,
                config.replay_port,
                config.ranks,
                &*config.topic
            ),
            (None, None, None, "")
        );
        assert_eq!(config.names, EventPortNames::default());
        assert_eq!(read_value(&json!({"enabled": false})), Ok(None));
    }

    #[test]
    fn contradicting_ports_names_and_ranks_are_rejected() {
        for wrong in [
            json!({"port": 0}),
            json!({"port": 5557, "replayPort": 5557}),
            json!({"portName": "ZMQ"}),
            json!({"ranks": 65}),
        ] {
            assert!(read_value(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pool_with_kv_events_discovers_their_ports() {
        let text = "pools: [{name: a, kubernetes: {pods: {app: vllm}, port: 8000}, kvEvents: {portName: events}}]";
        let config = Config::parse(text).expect("a good file");
        let source = &config.pools[0].sources[0];
        let crate::config::EndpointSource::Pods(selection) = source else {
            panic!("{source:?}")
        };
        assert_eq!(
            selection.event_ports.as_ref().expect("looked for").publish,
            ["events"]
        );
        let silent = Config::parse(&text.replace(", kvEvents: {portName: events}", ""))
            .expect("a good file");
        assert!(silent.pools[0].kv_events.is_none());
        assert_ne!(&silent.pools[0].sources[0], source);
    }

    #[test]
    fn a_strategy_that_reads_no_caches_follows_no_kv_events() {
        let text = "pools: [{name: a, strategy: random, endpoints: ['http://h:1'], kvEvents: {}}]";
        let config = Config::parse(text).expect("accepted");
        assert_eq!(config.pools[0].kv_events, None);
        assert!(
            config.warnings[0].starts_with("pools[0].kvEvents"),
            "{:?}",
            config.warnings
        );
        let text = "pools: [{name: a, engine: tgi, endpoints: ['http://h:1'], kvEvents: {}}]";
        let config = Config::parse(text).expect("accepted");
        assert!(config.pools[0].kv_events.is_some());
        assert!(config.warnings[0].contains("tgi"), "{:?}", config.warnings);
    }
}
