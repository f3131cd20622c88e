//! The syntax of names in Kubernetes.

/// RFC 6335, as long as a Service allows.
pub(super) fn is_port_name(name: &str) -> bool {
    name.bytes().any(|b| b.is_ascii_lowercase()) && is_dns_label(name)
}

/// RFC 1123 as Kubernetes applies it to names: at most 63 characters.
pub(super) fn is_dns_label(name: &str) -> bool {
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let has_edge = name.starts_with('-') || name.ends_with('-');
    (1..=63).contains(&name.len()) && !has_edge && name.bytes().all(is_known)
}

/// `name` or `prefix/name`:
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
pub(super) fn is_label_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let is_prefix = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(is_dns_label);
    prefix.is_none_or(is_prefix) && !name.is_empty() && is_label_value(name)
}

/// At most 63 characters; may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    let is_edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let is_known = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    let has_edges = is_edge(bytes.first()) && is_edge(bytes.last());
    bytes.len() <= 63 && has_edges && bytes.iter().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_names_may_have_a_prefix_and_values_may_be_empty() {
        for name in ["app", "app.kubernetes.io/name", "openfuyao.com/pdRole"] {
            assert!(is_label_name(name), "{name}");
        }
        for name in ["", "a/b/c", "-a", "A.b/c"] {
            assert!(!is_label_name(name), "{name}");
        }
        for value in ["", "v1.2_x"] {
            assert!(is_label_value(value), "{value}");
        }
        for value in ["a b", "a-"] {
            assert!(!is_label_value(value), "{value}");
        }
    }
}
