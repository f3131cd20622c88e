//! What a conductor is asked, and what it is told.

use std::sync::Arc;

use super::{
    reader::Node,
    sections::{CONDUCTOR, REGISTER},
};
use crate::cache_sources::kv_manager::{Conductor, EventSource, Registration};

/// Most names of instances in one mapping.
const MAX_INSTANCES: usize = 10_000;

/// The mapping `kvManager.conductor`.
pub(super) fn read(node: &Node<'_>) -> Option<Conductor> {
    let (fields, defaults) = (node.fields(&CONDUCTOR)?, Conductor::default());
    let text = |key: &str| fields.text(key).map(Arc::from);
    Some(Conductor {
        encoding: defaults.encoding,
        tenant: text("tenantId").unwrap_or(defaults.tenant),
        model: text("model"),
        lora: text("loraName"),
        cache_salt: text("cacheSalt"),
        block_size: fields.count("blockSize"),
        instances: fields
            .node("instances")
            .and_then(|node| read_instances(&node))
            .unwrap_or_default(),
        register: fields
            .node("register")
            .and_then(|node| read_register(&node)),
    })
}

fn read_instances(node: &Node<'_>) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let fix = "give at most 10000 names, each with an address such as 10.0.0.7:8000";
    let entries = node.entries(fix)?;
    if entries.len() > MAX_INSTANCES {
        return node.wrong(fix);
    }
    let instance = |(name, node): &(&str, Node<'_>)| {
        let address = node.text("an address such as 10.0.0.7:8000")?;
        let port = address
            .rsplit_once(':')
            .and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        match port {
            Some(_) => Some((Arc::from(*name), Arc::from(address))),
            None => node.wrong("give an address such as 10.0.0.7:8000"),
        }
    };
    Some(entries.iter().filter_map(instance).collect())
}

fn read_register(node: &Node<'_>) -> Option<Registration> {
    if let Some(wanted) = node.as_flag() {
        return wanted.then(Registration::default);
    }
    if !node.is_mapping() {
        return node.wrong("give true, false, or a mapping");
    }
    let (fields, defaults) = (node.fields(&REGISTER)?, Registration::default());
    let port = |key: &str| fields.count(key).and_then(|port| u16::try_from(port).ok());
    let registration = Registration {
        port: port("port").unwrap_or(defaults.port),
        replay_port: port("replayPort"),
        ranks: fields.count("ranks").unwrap_or(defaults.ranks),
        source: match fields.one_of("source") {
            Some("sglang") => EventSource::Sglang,
            _ => EventSource::Vllm,
        },
        algorithm: fields
            .text("algorithm")
            .map_or(defaults.algorithm, Arc::from),
        hash_seed: fields
            .text("hashSeed")
            .map_or(defaults.hash_seed, Arc::from),
    };
    let last = |port: u16| u32::from(port) + registration.ranks - 1;
    if last(registration.port) > u32::from(u16::MAX) {
        fields.mistake(
            "ranks",
            "the last rank's port would be over 65535",
            "give fewer ranks, or a lower `port`",
        );
    }
    Some(registration)
}
