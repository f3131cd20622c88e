//! The conductor of a pool: what it is asked, and what is registered at it.

use std::sync::Arc;

use super::{key::ValueType, node::Node, section::Section};
use crate::cache_sources::kv_manager::{Conductor, EventSource, Registration};

/// Most names of instances in one mapping.
const MAX_INSTANCES: usize = 10_000;

/// What an instance's address may be.
const ADDRESS: &str = "an address such as 10.0.0.7:8000";

/// Instances by their names at the conductor, with their addresses.
type Instances = Vec<(Arc<str>, Arc<str>)>;

/// The mapping `kvManager.conductor`.
pub(super) fn read(section: &mut Section<'_>) -> Conductor {
    let defaults = Conductor::default();
    Conductor {
        encoding: defaults.encoding,
        tenant: section
            .text("tenantId", "a tenant's name", "Tenant whose caches are looked up.")
            .or(defaults.tenant),
        model: section
            .text("model", "a model's name", "Name of the model at the conductor.")
            .or_unset("the request's model, or its base model"),
        lora: section
            .text("loraName", "an adapter's name", "Adapter of requests that name none.")
            .or_unset("none"),
        cache_salt: section
            .text("cacheSalt", "a salt", "Salt of requests without one.")
            .or_unset("none"),
        block_size: section
            .count("blockSize", 1..=65_536, "Tokens in a block of the engines' KV caches.")
            .or_unset("what the engines' metrics report"),
        instances: section
            .value(
                "instances",
                ValueType::Map(
                    "a mapping of the conductor's instance names to addresses such as 10.0.0.7:8000",
                ),
                "Addresses of the conductor's instances. Names that are an address, a host or a pod need none.",
                read_instances,
                |_| String::new(),
            )
            .optional()
            .unwrap_or_default(),
        register: read_register(section),
    }
}

fn read_instances(node: &Node<'_>) -> Option<Instances> {
    let expected = "at most 10000 names, each with an address such as 10.0.0.7:8000";
    let entries = node.entries(expected)?;
    if entries.len() > MAX_INSTANCES {
        return node.wrong(format!("expected {expected}"));
    }
    let instance = |(name, node): &(&str, Node<'_>)| {
        let address = node.text(ADDRESS)?;
        if is_authority(address) {
            Some((Arc::from(*name), Arc::from(address)))
        } else {
            node.wrong(format!("expected {ADDRESS}"))
        }
    };
    Some(entries.iter().filter_map(instance).collect())
}

fn is_authority(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    !host.is_empty() && port.parse::<u16>().is_ok()
}

fn read_register(conductor: &mut Section<'_>) -> Option<Registration> {
    let (defaults, keys) = Section::describe(read_registration);
    let read = |node: &Node<'_>| {
        if let Some(is_on) = node.value().as_bool() {
            return Some(is_on.then(|| defaults.clone()));
        }
        if node.mapping().is_none() {
            return node.wrong("expected true, false, or a mapping");
        }
        Some(Section::read(node, read_registration))
    };
    conductor
        .value(
            "register",
            ValueType::FlagOrSection(keys),
            "Registers the pool's endpoints at the conductor, and removes those that are gone.",
            read,
            |registration: &Option<Registration>| registration.is_some().to_string(),
        )
        .or(None)
}

fn read_registration(section: &mut Section<'_>) -> Registration {
    let defaults = Registration::default();
    let registration = Registration {
        port: section
            .count(
                "port",
                1..=65_535,
                "Port at which rank 0 of each endpoint publishes its KV events; that of rank `r` is higher by `r`.",
            )
            .or(defaults.port),
        replay_port: section
            .count("replayPort", 1..=65_535, "Replay port of rank 0.")
            .or_unset("none"),
        ranks: section
            .count("ranks", 1..=1_024, "Data-parallel ranks of each endpoint.")
            .or(defaults.ranks),
        source: section
            .one_of(
                "source",
                &[("vllm", EventSource::Vllm), ("sglang", EventSource::Sglang)],
                "Engine that publishes the events.",
            )
            .or(defaults.source),
        algorithm: section
            .text(
                "algorithm",
                "an algorithm's name",
                "Block hash of the engines: their `--prefix-caching-hash-algo`. Sent in msgpack only.",
            )
            .or(defaults.algorithm),
        hash_seed: section
            .text(
                "hashSeed",
                "a number, or random",
                "The engines' `PYTHONHASHSEED`. Sent in msgpack only.",
            )
            .or(defaults.hash_seed),
    };
    let last = u32::from(registration.port) + registration.ranks - 1;
    if last > u32::from(u16::MAX) {
        section.error(
            "ranks",
            "the last rank's port would be over 65535",
            "set fewer ranks, or a lower `port`",
        );
    }
    registration
}
