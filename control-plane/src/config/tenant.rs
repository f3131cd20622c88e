//! What identifies the tenants of a pool.

use hermes_core::{inference_pool::FAIRNESS_HEADERS, policy::TenantKey};

use super::{header, key::ValueType, node::Node, section::Section};

/// What it may be.
const EXPECTED: &str = "`none`, `key`, `model`, `fairness-id` or `header:NAME`";

/// The word for a header of llm-d, by both of its names.
const FAIRNESS_ID: &str = "fairness-id";

/// The key `tenant`.
pub(super) fn read(section: &mut Section<'_>) -> TenantKey {
    section
        .value(
            "tenant",
            ValueType::Text(EXPECTED),
            "What identifies a tenant, for fair queueing: nothing, the model's name, or what clients cannot make up: a \
             header that a gateway in front sets (`fairness-id` is `header:x-llm-d-inference-fairness-id`, also by its older \
             name `x-gateway-inference-fairness-id`), or the API key, if a gateway verifies it.",
            parse,
            show,
        )
        .or(TenantKey::default())
}

fn parse(node: &Node<'_>) -> Option<TenantKey> {
    let text = node.text(EXPECTED)?;
    match (text, text.strip_prefix("header:")) {
        ("none", _) => Some(TenantKey::None),
        ("key", _) => Some(TenantKey::Key),
        ("model", _) => Some(TenantKey::Model),
        (FAIRNESS_ID, _) => Some(TenantKey::Header(FAIRNESS_HEADERS[0].into())),
        (_, Some(name)) if name.to_ascii_lowercase().starts_with("x-hermes-") => {
            node.wrong("use another header: proxies remove those that begin with x-hermes-")
        }
        (_, Some(name)) => header::read(node, name, EXPECTED).map(TenantKey::Header),
        (_, None) => node.wrong(format!("expected {EXPECTED}")),
    }
}

fn show(key: &TenantKey) -> String {
    match key {
        TenantKey::None => "none".to_owned(),
        TenantKey::Key => "key".to_owned(),
        TenantKey::Model => "model".to_owned(),
        TenantKey::Header(name) if **name == *FAIRNESS_HEADERS[0] => FAIRNESS_ID.to_owned(),
        TenantKey::Header(name) => format!("header:{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::diagnostics::Diagnostics;

    fn read_value(text: &str) -> Option<TenantKey> {
        let diagnostics = Diagnostics::default();
        parse(&Node::new(&json!(text), "tenant", &diagnostics))
    }

    #[test]
    fn a_header_is_kept_in_lower_case() {
        assert_eq!(
            read_value("header:X-Team"),
            Some(TenantKey::Header("x-team".into()))
        );
        assert_eq!(read_value("model"), Some(TenantKey::Model));
        assert_eq!(read_value("none"), Some(TenantKey::None));
    }

    #[test]
    fn a_fairness_id_is_a_header_of_llm_d() {
        let key = read_value("fairness-id").expect("known");
        assert_eq!(
            key,
            TenantKey::Header("x-llm-d-inference-fairness-id".into())
        );
        assert_eq!(show(&key), "fairness-id");
    }

    #[test]
    fn headers_that_proxies_do_not_pass_on_are_rejected() {
        for wrong in [
            "header:Authorization",
            "header:",
            "header:not a name",
            "header:X-Hermes-Team",
            "user",
        ] {
            assert_eq!(read_value(wrong), None, "{wrong}");
        }
    }
}
