//! The engines' KV events: whether they are followed, and where their publishers are.

use std::sync::Arc;

use super::{
    reader::{Fields, Node},
    sections::KV_EVENTS,
    source::is_port_name,
};
use crate::discovery::EventPortNames;

/// Where the publishers of a pool's KV events are, unless something closer to them tells, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEventsConfig {
    /// Where rank 0 publishes; nothing when the engine is to be asked.
    pub port: Option<u16>,
    /// Where rank 0 replays; zero if nowhere, nothing when the engine is to be asked.
    pub replay_port: Option<u16>,
    /// How the ports are called in Kubernetes.
    pub names: EventPortNames,
    /// Topics that begin so are subscribed to.
    pub topic: Arc<str>,
    /// Data-parallel ranks of each endpoint; nothing when the engine is to be asked.
    pub ranks: Option<u32>,
}

/// The mapping `kvEvents` of a pool; nothing when it is switched off.
pub(super) fn read(node: &Node<'_>) -> Option<KvEventsConfig> {
    let fields = node.fields(&KV_EVENTS)?;
    let defaults = EventPortNames::default();
    let config = KvEventsConfig {
        port: read_port(&fields, "port"),
        replay_port: read_port(&fields, "replayPort"),
        names: EventPortNames {
            publish: read_name(&fields, "portName").map_or(defaults.publish, |name| vec![name]),
            replay: read_name(&fields, "replayPortName").map_or(defaults.replay, |name| vec![name]),
        },
        topic: fields.text("topic").unwrap_or_default().into(),
        ranks: fields.count("ranks"),
    };
    let replay = config.replay_port.filter(|port| *port > 0);
    if config.port.is_some() && config.port == replay {
        fields.mistake(
            "replayPort",
            "the same as `port`",
            "give the port of the replay socket, or 0 if there is none",
        );
    }
    fields.flag("enabled").unwrap_or(true).then_some(config)
}

fn read_port(fields: &Fields<'_>, key: &str) -> Option<u16> {
    fields.count(key).and_then(|port| u16::try_from(port).ok())
}

fn read_name(fields: &Fields<'_>, key: &str) -> Option<String> {
    let name = fields.text(key)?;
    if !is_port_name(name) {
        return fields
            .node(key)?
            .wrong("give a port's name: a-z, 0-9 and -, with a letter");
    }
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Config, reader::Notes};

    fn read_value(value: &Value) -> Result<Option<KvEventsConfig>, String> {
        let notes = Notes::default();
        let config = read(&Node::new(value, "kvEvents", &notes));
        let mistakes = notes.into_mistakes();
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(mistakes.to_string())
        }
    }

    #[test]
    fn nothing_has_to_be_said() {
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
    fn what_cannot_be_is_refused() {
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
    fn a_pool_that_follows_events_looks_for_their_ports() {
        let text = "pools: [{name: a, kubernetes: {pods: {app: vllm}, port: 8000}, kvEvents: {portName: events}}]";
        let config = Config::parse(text).expect("a good file");
        let source = &config.pools[0].sources[0];
        let crate::config::Source::Pods(selection) = source else {
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
    fn a_strategy_that_does_not_look_at_caches_follows_no_events() {
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
