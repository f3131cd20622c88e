//! What engines state of their part in prefill/decode pairs.
//!
//! | question | page | what is read |
//! |---|---|---|
//! | Mooncake | `/query` of the bootstrap server (vLLM's `VLLM_MOONCAKE_BOOTSTRAP_PORT`) | the engine id of each data-parallel rank: `{"0":{"engine_id":"…",…},…}` |
//! | SGLang | `/server_info`, before 0.5 `/get_server_info` | `disaggregation_mode`, `disaggregation_bootstrap_port` |
//!
//! vLLM and TensorRT-LLM state no role: vLLM shows its configuration in its development mode only.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use hermes_core::{
    policy::{DisaggregationPolicy, PairDialect},
    snapshot::{EngineRank, Role},
};
use serde::Deserialize;
use serde_json::Value;

/// Most ranks of one engine.
const MAX_RANKS: usize = 1_024;

/// Longest name of a rank, in bytes.
const MAX_ENGINE_ID: usize = 256;

/// What an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairingQuestion {
    /// The names of its ranks, at the bootstrap server on this port of its host.
    Mooncake {
        /// Its port.
        port: NonZeroU16,
    },
    /// Its role, and the port of its bootstrap server.
    Sglang,
}

/// What an endpoint stated; absent what it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairingStatement {
    /// What it does for a request.
    pub role: Option<Role>,
    /// Where it serves its address to decode endpoints.
    pub bootstrap_port: Option<NonZeroU16>,
    /// What decode endpoints call its ranks, in ascending order.
    pub ranks: Option<Arc<[EngineRank]>>,
}

/// The answer has another form.
#[derive(Debug, thiserror::Error)]
pub enum NotAStatement {
    /// No JSON, or none of the documented fields.
    #[error("not the documented JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// More than is kept.
    #[error("more than {MAX_RANKS} ranks, or a name of none or more than {MAX_ENGINE_ID} bytes")]
    Size,
}

#[derive(Deserialize)]
struct Bootstrapped {
    engine_id: Arc<str>,
}

#[derive(Deserialize)]
struct ServerInfo {
    #[serde(default)]
    disaggregation_mode: Value,
    #[serde(default)]
    disaggregation_bootstrap_port: Value,
}

// === PairingQuestion ===

impl PairingQuestion {
    /// What is asked of an endpoint of this role, of which Kubernetes or the configuration names
    /// the role, or not, and this port of its bootstrap server, or none.
    pub(crate) fn of(
        rules: &DisaggregationPolicy,
        role: Option<Role>,
        port: Option<NonZeroU16>,
    ) -> Option<Self> {
        match (rules.dialect, role) {
            (PairDialect::VllmMooncake, Some(Role::Prefill)) => Some(Self::Mooncake {
                port: port.unwrap_or(rules.bootstrap_port),
            }),
            (PairDialect::Sglang, None) => Some(Self::Sglang),
            (PairDialect::Sglang, Some(Role::Prefill)) if port.is_none() => Some(Self::Sglang),
            _ => None,
        }
    }

    /// Paths at which releases have the page, the newest first.
    pub(crate) const fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Mooncake { .. } => &["/query"],
            Self::Sglang => &["/server_info", "/get_server_info"],
        }
    }

    /// Reads the page.
    ///
    /// # Errors
    ///
    /// When it has another form.
    pub(crate) fn read(self, page: &[u8]) -> Result<PairingStatement, NotAStatement> {
        match self {
            Self::Mooncake { .. } => mooncake(page),
            Self::Sglang => sglang(page),
        }
    }
}

/// A bootstrap server with which no rank has registered yet has no ranks.
fn mooncake(page: &[u8]) -> Result<PairingStatement, NotAStatement> {
    let ranks: BTreeMap<u32, Bootstrapped> = serde_json::from_slice(page)?;
    let is_kept = |rank: &Bootstrapped| (1..=MAX_ENGINE_ID).contains(&rank.engine_id.len());
    if ranks.len() > MAX_RANKS || !ranks.values().all(is_kept) {
        return Err(NotAStatement::Size);
    }
    let ranks = ranks
        .into_iter()
        .map(|(rank, Bootstrapped { engine_id })| EngineRank { rank, engine_id });
    let ranks: Arc<[EngineRank]> = ranks.collect();
    Ok(PairingStatement {
        ranks: Some(ranks).filter(|ranks| !ranks.is_empty()),
        ..PairingStatement::default()
    })
}

fn sglang(page: &[u8]) -> Result<PairingStatement, NotAStatement> {
    let ServerInfo {
        disaggregation_mode,
        disaggregation_bootstrap_port,
    } = serde_json::from_slice(page)?;
    let role = match disaggregation_mode.as_str() {
        Some("prefill") => Some(Role::Prefill),
        Some("decode") => Some(Role::Decode),
        Some("null") => Some(Role::Aggregate),
        _ => None,
    };
    let port = disaggregation_bootstrap_port.as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok());
    Ok(PairingStatement {
        role,
        bootstrap_port: port.and_then(NonZeroU16::new),
        ranks: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOONCAKE: PairingQuestion = PairingQuestion::Mooncake {
        port: NonZeroU16::MIN,
    };

    /// As vLLM's bootstrap server answers.
    const QUERY: &str = r#"{"1":{"engine_id":"e-1","worker_addr":{"0":{"0":"tcp://10.0.0.7:41000"}}},
        "0":{"engine_id":"e-0","worker_addr":{"0":{"0":"tcp://10.0.0.7:42000"}}}}"#;

    #[test]
    fn a_bootstrap_server_names_the_engine_of_each_rank() {
        let stated = MOONCAKE.read(QUERY.as_bytes()).expect("as documented");
        let ranks = stated.ranks.expect("two ranks");
        let ranks: Vec<_> = ranks
            .iter()
            .map(|rank| (rank.rank, &*rank.engine_id))
            .collect();
        assert_eq!(ranks, [(0, "e-0"), (1, "e-1")]);
        let empty = MOONCAKE.read(b"{}").expect("no rank has registered");
        assert_eq!(empty, PairingStatement::default());
        for wrong in [
            "[]",
            r#"{"a":{"engine_id":"e"}}"#,
            r#"{"0":{}}"#,
            r#"{"0":{"engine_id":""}}"#,
        ] {
            assert!(MOONCAKE.read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sglang_states_its_role_and_its_port() {
        let read = |page: &str| PairingQuestion::Sglang.read(page.as_bytes());
        let stated = read(
            r#"{"model_path":"m","disaggregation_mode":"prefill","disaggregation_bootstrap_port":8997,"internal_states":[{}]}"#,
        );
        let stated = stated.expect("as documented");
        assert_eq!(
            (stated.role, stated.bootstrap_port.map(NonZeroU16::get)),
            (Some(Role::Prefill), Some(8997))
        );
        for (mode, role) in [
            (r#""decode""#, Some(Role::Decode)),
            (r#""null""#, Some(Role::Aggregate)),
            ("null", None),
            (r#""text""#, None),
        ] {
            let page =
                format!(r#"{{"disaggregation_mode":{mode},"disaggregation_bootstrap_port":null}}"#);
            let stated = read(&page).expect("an object");
            assert_eq!((stated.role, stated.bootstrap_port), (role, None), "{mode}");
        }
        assert_eq!(read("{}").expect("an object"), PairingStatement::default());
        assert!(read("<html>").is_err());
    }

    #[test]
    fn an_endpoint_is_asked_for_what_nothing_else_names() {
        let asked = |dialect, role, port: Option<u16>| {
            let port = port.and_then(NonZeroU16::new);
            PairingQuestion::of(&DisaggregationPolicy::of(dialect), role, port)
        };
        let (prefill, decode) = (Some(Role::Prefill), Some(Role::Decode));
        let port = |port| PairingQuestion::Mooncake {
            port: NonZeroU16::new(port).expect("not zero"),
        };
        let mooncake = |role, port| asked(PairDialect::VllmMooncake, role, port);
        assert_eq!(mooncake(prefill, None), Some(port(8998)));
        assert_eq!(mooncake(prefill, Some(7)), Some(port(7)));
        assert_eq!(mooncake(decode, None), None, "it has no bootstrap server");
        let sglang = |role, port| asked(PairDialect::Sglang, role, port);
        assert_eq!(sglang(None, Some(7)), Some(PairingQuestion::Sglang));
        assert_eq!(sglang(prefill, None), Some(PairingQuestion::Sglang));
        assert_eq!(sglang(prefill, Some(7)), None);
        assert_eq!(sglang(decode, None), None);
        assert_eq!(asked(PairDialect::VllmNixl, None, None), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(page in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = MOONCAKE.read(&page);
            let _ = PairingQuestion::Sglang.read(&page);
        }
    }
}
