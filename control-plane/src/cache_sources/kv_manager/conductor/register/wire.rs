//! The bodies of `/register`, `/unregister` and `/services`. The C++ conductor refuses fields that
//! it does not know, and wants to know how the engine hashes; the one in Go has a field for a salt.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Conductor, Encoding, LookupOutcome, Registration, RegistrationRow, Source, WantedRows,
};

#[derive(Serialize)]
struct Register<'a> {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_endpoint: Option<String>,
    r#type: &'a str,
    modelname: &'a str,
    lora_name: &'a str,
    tenant_id: &'a str,
    instance_id: &'a str,
    block_size: u32,
    dp_rank: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    additionalsalt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_profile: Option<HashProfile<'a>>,
}

/// Exactly these four.
#[derive(Serialize)]
struct HashProfile<'a> {
    strategy: &'a str,
    algorithm: &'a str,
    python_hash_seed: &'a str,
    index_projection: &'a str,
}

#[derive(Serialize)]
struct Unregister<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    tenant_id: &'a str,
    instance_id: &'a str,
    dp_rank: u32,
}

#[derive(Deserialize)]
struct RegisteredServices {
    #[serde(default)]
    services: Vec<RegisteredService>,
}

#[derive(Deserialize)]
struct RegisteredService {
    #[serde(alias = "InstanceID")]
    instance_id: Arc<str>,
    #[serde(alias = "TenantID", default)]
    tenant_id: String,
    #[serde(alias = "DPRank", default)]
    dp_rank: u32,
}

/// The body that registers `row`, whose events come from `host`.
pub(super) fn register(
    conductor: &Conductor,
    registration: &Registration,
    wanted: &WantedRows,
    (instance, rank): &RegistrationRow,
    host: &str,
) -> Result<Bytes, LookupOutcome> {
    let address = |port: u16| {
        let port = u32::from(port) + rank;
        if host.contains(':') {
            format!("tcp://[{host}]:{port}")
        } else {
            format!("tcp://{host}:{port}")
        }
    };
    let is_json = conductor.encoding == Encoding::Json;
    conductor.encoding.write(&Register {
        endpoint: address(registration.port),
        replay_endpoint: registration.replay_port.map(address),
        r#type: registration.source.name(),
        modelname: &wanted.model,
        lora_name: conductor.lora.as_deref().unwrap_or_default(),
        tenant_id: &conductor.tenant,
        instance_id: instance,
        block_size: wanted.block_size,
        dp_rank: *rank,
        additionalsalt: is_json.then(|| conductor.cache_salt.as_deref().unwrap_or_default()),
        hash_profile: (!is_json).then_some(HashProfile {
            strategy: "vllm_v1",
            algorithm: &registration.algorithm,
            python_hash_seed: &registration.hash_seed,
            index_projection: "low64_be",
        }),
    })
}

/// The body that takes `row` back.
pub(super) fn unregister(
    conductor: &Conductor,
    registration: &Registration,
    (instance, rank): &RegistrationRow,
) -> Result<Bytes, LookupOutcome> {
    let r#type = (conductor.encoding == Encoding::Json).then(|| registration.source.name());
    conductor.encoding.write(&Unregister {
        r#type,
        tenant_id: &conductor.tenant,
        instance_id: instance,
        dp_rank: *rank,
    })
}

/// The rows of `tenant` that the conductor has.
pub(super) fn services(
    encoding: Encoding,
    tenant: &str,
    answer: &[u8],
) -> Result<BTreeSet<RegistrationRow>, LookupOutcome> {
    let RegisteredServices { services } = encoding.read(answer)?;
    let own = services
        .into_iter()
        .filter(|service| service.tenant_id == tenant);
    Ok(own
        .map(|service| (service.instance_id, service.dp_rank))
        .collect())
}

// === Source ===

impl Source {
    /// Its name on the wire.
    const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn wanted() -> WantedRows {
        WantedRows {
            model: "m".into(),
            block_size: 16,
            ..WantedRows::default()
        }
    }

    fn registration() -> Registration {
        Registration {
            replay_port: Some(6000),
            ..Registration::default()
        }
    }

    #[test]
    fn in_json_the_fields_are_those_of_the_documented_api() {
        let row = ("10.0.0.7:8000".into(), 1);
        let body = register(
            &Conductor::default(),
            &registration(),
            &wanted(),
            &row,
            "10.0.0.7",
        )
        .expect("a body");
        let expected = json!({
            "endpoint": "tcp://10.0.0.7:5558", "replay_endpoint": "tcp://10.0.0.7:6001", "type": "vLLM", "modelname": "m",
            "lora_name": "", "tenant_id": "default", "instance_id": "10.0.0.7:8000", "block_size": 16, "dp_rank": 1,
            "additionalsalt": "",
        });
        assert_eq!(
            serde_json::from_slice::<Value>(&body).expect("JSON"),
            expected
        );
        let body = unregister(&Conductor::default(), &registration(), &row).expect("a body");
        let expected = json!({"type": "vLLM", "tenant_id": "default", "instance_id": "10.0.0.7:8000", "dp_rank": 1});
        assert_eq!(
            serde_json::from_slice::<Value>(&body).expect("JSON"),
            expected
        );
    }

    #[test]
    fn in_msgpack_the_hashes_are_described_and_nothing_unknown_is_there() {
        let conductor = Conductor {
            encoding: Encoding::Msgpack,
            ..Conductor::default()
        };
        let body = register(
            &conductor,
            &Registration::default(),
            &wanted(),
            &("i".into(), 0),
            "fd00::1",
        )
        .expect("a body");
        let read: Value = rmp_serde::from_slice(&body).expect("msgpack");
        let expected = json!({
            "endpoint": "tcp://[fd00::1]:5557", "type": "vLLM", "modelname": "m", "lora_name": "", "tenant_id": "default",
            "instance_id": "i", "block_size": 16, "dp_rank": 0,
            "hash_profile": {"strategy": "vllm_v1", "algorithm": "sha256_cbor", "python_hash_seed": "0",
                             "index_projection": "low64_be"},
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn rows_of_other_tenants_are_not_ours() {
        let answer = json!({"count": 2, "services": [
            {"InstanceID": "i", "TenantID": "default", "DPRank": 1, "Endpoint": "tcp://x"},
            {"InstanceID": "j", "TenantID": "other", "DPRank": 0},
        ]});
        let rows =
            services(Encoding::Json, "default", answer.to_string().as_bytes()).expect("rows");
        assert_eq!(rows, BTreeSet::from([("i".into(), 1)]));
    }

    proptest! {
        #[test]
        fn any_list_of_services_is_survived(answer in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = services(Encoding::Json, "default", &answer);
            let _ = services(Encoding::Msgpack, "default", &answer);
        }
    }
}
