//! What tells the tenants of a pool apart.

use hermes_core::policy::TenantKey;

use super::reader::Node;

/// What it may be.
const WANTED: &str = "`key`, `model` or `header:NAME`";

/// The value of `tenant`; nothing when it is wrong, which has been noted.
pub(super) fn read(node: &Node<'_>) -> Option<TenantKey> {
    let text = node.text(WANTED)?;
    match (text, text.strip_prefix("header:")) {
        ("key", _) => Some(TenantKey::Key),
        ("model", _) => Some(TenantKey::Model),
        (_, Some(name)) if name.eq_ignore_ascii_case("authorization") => {
            node.wrong("give `key`: it is the credential, hashed before it leaves the proxy")
        }
        (_, Some(name)) if name.to_ascii_lowercase().starts_with("x-hermes-") => {
            node.wrong("give another name: proxies cut headers that begin with x-hermes-")
        }
        (_, Some(name)) if http::HeaderName::try_from(name).is_ok() => {
            Some(TenantKey::Header(name.to_ascii_lowercase().into()))
        }
        (_, Some(_) | None) => node.wrong(format!("give {WANTED}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::reader::Notes;

    fn read_value(text: &str) -> Option<TenantKey> {
        let notes = Notes::default();
        read(&Node::new(&json!(text), "tenant", &notes))
    }

    #[test]
    fn a_header_is_kept_in_lower_case() {
        assert_eq!(
            read_value("header:X-Team"),
            Some(TenantKey::Header("x-team".into()))
        );
        assert_eq!(read_value("model"), Some(TenantKey::Model));
    }

    #[test]
    fn headers_that_are_not_to_be_read_are_refused() {
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
