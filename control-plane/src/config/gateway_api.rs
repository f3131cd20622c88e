//! Whether the objects of the Gateway API are configuration, and which of them.

use std::{sync::Arc, time::Duration};

use super::{
    gateway_service::{self, GatewayServiceConfig},
    inference_pools::{ObjectNamespaces, read_namespaces},
    names::is_dns_label,
    section::Section,
    source,
};

/// The controller's name unless another is configured.
const CONTROLLER: &str = "hermes.ai/gateway";

/// What a controller's name may be.
const CONTROLLER_NAME: &str = "a domain and a path, such as hermes.ai/gateway";

/// What is configured for the objects of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayApiConfig {
    /// The name of this controller, by which classes of Gateways choose it.
    pub controller: Arc<str>,
    /// Where Gateways, routes and what these refer to are looked for.
    pub namespaces: ObjectNamespaces,
    /// Whether the status of objects is written.
    pub write_status: bool,
    /// How long one response of the Kubernetes API may take.
    pub timeout: Duration,
    /// How Gateways get addresses.
    pub service: GatewayServiceConfig,
}

/// The mapping `gatewayApi`; `None` when it is disabled.
pub(super) fn read(section: &mut Section<'_>) -> Option<GatewayApiConfig> {
    let enabled = section
        .flag(
            "enabled",
            "Whether `Gateway` and `HTTPRoute` objects are listeners and routes: see [routes](routes.md).",
        )
        .or(true);
    let controller = section
        .text_where(
            "controllerName",
            CONTROLLER_NAME,
            is_controller,
            "Name of this controller: it serves the Gateways of each `GatewayClass` that has the same.",
        )
        .or(CONTROLLER.into());
    let namespaces = read_namespaces(section);
    let write_status = section
        .flag(
            "writeStatus",
            "Whether the status of `GatewayClass`, `Gateway`, `HTTPRoute` and `InferencePool` objects is written.",
        )
        .or(true);
    let timeout = source::api_timeout(section);
    let service = section.section(
        "service",
        "The Service that is made for each Gateway, which leads its ports to ports of the proxies.",
        gateway_service::read,
    );
    enabled.then_some(GatewayApiConfig {
        controller,
        namespaces,
        write_status,
        timeout,
        service,
    })
}

/// `domain/path`, as the definition of a `GatewayClass` has it.
fn is_controller(text: &str) -> bool {
    let Some((domain, path)) = text.split_once('/') else {
        return false;
    };
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    text.len() <= 253
        && domain.split('.').all(is_dns_label)
        && !path.is_empty()
        && path.bytes().all(is_path)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_file_with_gateways_is_complete_and_names_this_controller() {
        let text = "gatewayApi: {allNamespaces: true, service: {selector: {app: proxy}}}";
        let config = Config::parse(text).expect("a good file");
        let gateways = config.gateway_api.expect("enabled");
        assert_eq!(&*gateways.controller, "hermes.ai/gateway");
        assert!(gateways.write_status);
        let disabled = "pools: [{name: a, endpoints: ['http://h:1']}]\ngatewayApi: {enabled: false, service: {selector: {a: b}}}";
        assert_eq!(
            Config::parse(disabled).expect("a good file").gateway_api,
            None
        );
    }

    #[test]
    fn a_controllers_name_is_a_domain_and_a_path() {
        for (name, is_right) in [
            ("example.com/hermes", true),
            ("example.com/a/b", true),
            ("hermes", false),
            ("example.com/", false),
            ("Example.com/a", false),
            ("example.com/a b", false),
        ] {
            let text = format!(
                "gatewayApi: {{controllerName: '{name}', service: {{selector: {{app: proxy}}}}}}"
            );
            let parsed = Config::parse(&text);
            assert_eq!(parsed.is_ok(), is_right, "{name}");
            let errors = parsed.err().map(|errors| errors.to_string());
            let names = errors.is_none_or(|errors| errors.contains("gatewayApi.controllerName"));
            assert!(names, "{name}");
        }
    }
}
