//! By which Services gateways reach the picker for a pool.

use hermes_core::inference_pool::PickerReference;

use super::{names::is_dns_label, node::Node, section::Section};

/// Most Services of one pool.
const MAX_PICKERS: usize = 16;

/// What one may be.
const EXPECTED: &str = "a Service such as ai/chat-picker:9002: namespace/name:port";

/// The key `pickers`; sorted.
pub(super) fn read(pool: &mut Section<'_>) -> Vec<PickerReference> {
    let pickers = pool.texts(
        "pickers",
        0..=MAX_PICKERS,
        "Services, each as `namespace/name:port`",
        "By which Services gateways reach the endpoint picker for this pool. It is needed only where several pools serve \
         the same model: then the pool is meant whose Service the gateway calls.",
        parse,
        |picker| format!("{}/{}:{}", picker.namespace, picker.service, picker.port),
    );
    let mut pickers = pickers.or_unset("none").unwrap_or_default();
    pickers.sort();
    pickers
}

fn parse(node: &Node<'_>) -> Option<PickerReference> {
    let reference = reference(node.text(EXPECTED)?);
    reference.or_else(|| node.wrong(format!("expected {EXPECTED}")))
}

fn reference(text: &str) -> Option<PickerReference> {
    let (namespace, rest) = text.split_once('/')?;
    let (service, port) = rest.split_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (is_dns_label(namespace) && is_dns_label(service)).then(|| PickerReference {
        namespace: namespace.into(),
        service: service.into(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_with_its_namespace_and_port() {
        let expected = PickerReference {
            namespace: "ai".into(),
            service: "chat-picker".into(),
            port: 9002,
        };
        assert_eq!(reference("ai/chat-picker:9002"), Some(expected));
        for wrong in [
            "chat-picker:9002",
            "ai/chat-picker",
            "ai/chat-picker:0",
            "ai/chat-picker:65536",
            "ai/Chat:9002",
            "ai/b/c:9002",
            "/chat:9002",
        ] {
            assert_eq!(reference(wrong), None, "{wrong}");
        }
    }
}
