//! Fields that control an engine's internals, and where they hide.
//!
//! vLLM merges the object `vllm_xargs` into a request's extra arguments, and reads `kv_transfer_params`
//! from there as well.

use std::collections::HashMap;

use serde::de::IgnoredAny;

/// Top-level fields that clients must not set: they can crash an engine, or make it reach other
/// hosts.
pub(super) const CONTROL_FIELDS: [&str; 9] = [
    "kv_transfer_params",
    "ec_transfer_params",
    "disaggregated_params",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "data_parallel_rank",
    "routed_dp_rank",
    "disagg_prefill_dp_rank",
];

/// The field whose value is merged into an engine's arguments.
pub(super) const EXTRA_ARGUMENTS: &str = "vllm_xargs";

/// Whether the value of [`EXTRA_ARGUMENTS`], as JSON, may have a control field: also if it cannot be
/// read here, as engines read more than this (half of a surrogate pair, `NaN`). What is no object
/// has none: engines reject it.
pub(super) fn are_hidden_in(arguments: &[u8]) -> bool {
    if arguments.trim_ascii_start().first() != Some(&b'{') {
        return false;
    }
    let fields = serde_json::from_slice::<HashMap<String, IgnoredAny>>(arguments);
    fields.map_or(true, |fields| {
        CONTROL_FIELDS.iter().any(|name| fields.contains_key(*name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_fields_are_found_however_their_names_are_written() {
        for hidden in [
            r#"{"kv_transfer_params": {"do_remote_prefill": true}}"#,
            r#"{"a":1,"kv_transf\u0065r_params":"x"}"#,
            r#"{"bootstrap_host":"10.0.0.1"}"#,
            r#" {"\ud800":1,"kv_transfer_params":"x"}"#,
            r#"{"a":NaN}"#,
        ] {
            assert!(are_hidden_in(hidden.as_bytes()), "{hidden}");
        }
        for other in [
            r#"{"my_processor": 3, "nested": {"kv_transfer_params": 1}}"#,
            "{}",
            "null",
            "\"kv_transfer_params\"",
            "[\"kv_transfer_params\"]",
            "",
        ] {
            assert!(!are_hidden_in(other.as_bytes()), "{other}");
        }
    }
}
