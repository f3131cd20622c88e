//! Fields that control an engine's internals, and where they hide.
//!
//! vLLM merges the object `vllm_xargs` into a request's extra arguments, and reads
//! `kv_transfer_params` from there as well.

use super::object_scanner::ObjectScanner;

/// Top-level fields that clients must not set: they can crash an engine, or make it reach other
/// hosts.
pub(super) const CONTROL_FIELDS: [&str; 11] = [
    "kv_transfer_params",
    "ec_transfer_params",
    "disaggregated_params",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "bootstrap_pair_key",
    "decode_tp_size",
    "data_parallel_rank",
    "routed_dp_rank",
    "disagg_prefill_dp_rank",
];

/// The field whose value is merged into an engine's arguments.
pub(super) const EXTRA_ARGUMENTS: &str = "vllm_xargs";

/// Whether an object that is the value of [`EXTRA_ARGUMENTS`] may have a control field: also if it
/// cannot be followed here. It comes in pieces, and is read in constant memory.
pub(super) fn are_hidden_in<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut scanner = ObjectScanner::default();
    let mut are_found = false;
    for piece in arguments {
        let scanned = scanner.scan(piece, |field| are_found |= is_control_field(field.name));
        if scanned.is_err() {
            return true;
        }
    }
    are_found || scanner.finish().is_err()
}

/// Whether it is one of [`CONTROL_FIELDS`].
pub(super) fn is_control_field(name: &[u8]) -> bool {
    CONTROL_FIELDS.iter().any(|field| field.as_bytes() == name)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    /// The same for pieces of any size.
    fn is_hidden(arguments: &str) -> bool {
        let sizes = 1..=arguments.len();
        let mut hidden = sizes.map(|size| are_hidden_in(arguments.as_bytes().chunks(size)));
        let first = hidden.next().expect("some bytes");
        assert!(hidden.all(|other| other == first), "{arguments}");
        first
    }

    #[test]
    fn control_fields_are_found_however_their_names_are_written() {
        for hidden in [
            r#"{"kv_transfer_params": {"do_remote_prefill": true}}"#,
            r#"{"a":1,"kv_transf\u0065r_params":"x"}"#,
            r#"{"bootstrap_host":"10.0.0.1"}"#,
            r#" {"\ud800":1,"kv_transfer_params":"x"}"#,
            r#"{"a":1,"#,
        ] {
            assert!(is_hidden(hidden), "{hidden}");
        }
        for other in [
            r#"{"my_processor": 3, "nested": {"kv_transfer_params": 1}}"#,
            r#"{"a":NaN}"#,
            "{}",
        ] {
            assert!(!is_hidden(other), "{other}");
        }
    }
}
