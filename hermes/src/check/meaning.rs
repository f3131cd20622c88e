//! What a configuration means, defaults included, a few lines a pool.

use std::{fmt, sync::Arc};

use hermes_control_plane::{
    cache_sources::tokenizer::{TokenizerSettings, Way},
    config::{
        Config, EndpointSource, EndpointTlsConfig, GatewayApiConfig, InferencePoolsConfig,
        KubernetesSelection, ObjectNamespaces, PoolConfig, PortRef,
    },
};
use hermes_core::{
    inference_pool::{AskedPicker, PickerFailure},
    listener::Listener,
    policy::{Strategy, TenantKey},
    rewrites::{ModelRewrite, RewriteTarget},
    route::Route,
};

/// Shows a configuration to the person who wrote it.
pub(crate) struct Meaning<'a>(pub(crate) &'a Config);

/// Endpoints that are named one by one; more are counted.
const MAX_NAMED: usize = 8;

impl fmt::Display for Meaning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            pools,
            inference_pools,
            gateway_api,
            routes,
            listeners,
            settings,
            warnings,
        } = self.0;
        for (index, pool) in pools.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}pool {}", pool.name)?;
            write_pool(f, pool)?;
        }
        if let Some(objects) = inference_pools {
            let separator = if pools.is_empty() { "" } else { "\n" };
            write!(f, "{separator}inference pools: ")?;
            write_objects(f, objects)?;
        }
        if let Some(gateways) = gateway_api {
            let is_first = pools.is_empty() && inference_pools.is_none();
            let separator = if is_first { "" } else { "\n" };
            write!(f, "{separator}Gateways: ")?;
            write_gateways(f, gateways)?;
        }
        for listener in listeners {
            write_listener(f, listener)?;
        }
        for route in routes {
            write_route(f, route)?;
        }
        let (body, requests) = (settings.max_body_bytes >> 10, settings.max_concurrent);
        write!(
            f,
            "\nlimits: bodies up to {body} KiB, {requests} requests at once in each proxy"
        )?;
        for warning in warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

/// Which objects are pools, too, and how their requests are handled.
fn write_objects(f: &mut fmt::Formatter<'_>, objects: &InferencePoolsConfig) -> fmt::Result {
    write_namespaces(f, &objects.namespaces)?;
    write!(f, ", strategy {}", objects.strategy().name())
}

/// Which Gateways are served, and how they are reached.
fn write_gateways(f: &mut fmt::Formatter<'_>, gateways: &GatewayApiConfig) -> fmt::Result {
    let GatewayApiConfig {
        controller,
        namespaces,
        write_status: _,
        timeout: _,
        service,
    } = gateways;
    write_namespaces(f, namespaces)?;
    let (reach, ports) = (service.reach.name(), &service.ports);
    write!(
        f,
        ", for the controller {controller}, each with a Service of the type {reach}, at ports {} to {} of the proxies",
        ports.start(),
        ports.end()
    )
}

fn write_namespaces(f: &mut fmt::Formatter<'_>, namespaces: &ObjectNamespaces) -> fmt::Result {
    match namespaces {
        ObjectNamespaces::Own => f.write_str("of the control plane's namespace"),
        ObjectNamespaces::Named(names) => write!(f, "of the namespaces {}", names.join(", ")),
        ObjectNamespaces::All => f.write_str("of all namespaces"),
    }
}

fn write_listener(f: &mut fmt::Formatter<'_>, listener: &Listener) -> fmt::Result {
    let Listener {
        name,
        address,
        hostname,
        tls,
        routes_only: _,
    } = listener;
    write!(f, "\nlistener {name}: {address}")?;
    if let Some(hostname) = hostname {
        write!(f, ", for {hostname}")?;
    }
    match tls {
        Some(tls) => write!(f, ", with the certificates {}", tls.certificates.join(", ")),
        None => Ok(()),
    }
}

fn write_route(f: &mut fmt::Formatter<'_>, route: &Route) -> fmt::Result {
    let hosts: Vec<String> = route.hostnames.iter().map(ToString::to_string).collect();
    let hosts = match &hosts[..] {
        [] => "any host".to_owned(),
        named => named.join(", "),
    };
    let listeners = match &route.listeners[..] {
        [] => "the usual port".to_owned(),
        named => named.join(", "),
    };
    let rules = route.rules.len();
    write!(
        f,
        "\nroute {}: {hosts} on {listeners}, {rules} rules",
        route.name
    )
}

fn write_pool(f: &mut fmt::Formatter<'_>, pool: &PoolConfig) -> fmt::Result {
    let policy = &pool.policy;
    let (engine, strategy) = (pool.engine.name(), policy.strategy.name());
    write!(f, ": engine {engine}, strategy {strategy}")?;
    if let Strategy::KvAware(rules) = &policy.strategy {
        write_order(f, &policy.tenant, rules.queue.max_priority)?;
    }
    if let Some(lanes) = pool.lanes {
        write!(f, "\n  lanes: {lanes} prompts at once at each endpoint")?;
    }
    write_models(f, pool)?;
    for source in &pool.sources {
        write_source(f, source)?;
    }
    if pool.http2 {
        write!(f, "\n  endpoints at http addresses: over HTTP/2")?;
    }
    if let Some(rules) = &policy.disaggregation {
        let (dialect, fallback) = (rules.dialect.name(), rules.fallback.name());
        write!(
            f,
            "\n  disaggregation: {dialect}, from {} uncached tokens on; on failure: {fallback}",
            rules.min_uncached_tokens
        )?;
    }
    write_tls(f, &pool.tls)?;
    write_knowledge(f, pool)?;
    let (timeouts, retry) = (policy.timeouts, policy.retry);
    write!(
        f,
        "\n  timeouts: connect {:?}, request {:?}, first byte {:?}, idle {:?}",
        timeouts.connect, timeouts.request, timeouts.first_byte, timeouts.idle
    )?;
    write!(f, "\n  attempts: {}", retry.max_attempts)
}

/// What requests may name: models and objectives; and by which pickers the pool is meant.
fn write_models(f: &mut fmt::Formatter<'_>, pool: &PoolConfig) -> fmt::Result {
    match &pool.models[..] {
        [] => write!(f, "\n  models: what the engines answer on /v1/models")?,
        named => write!(f, "\n  models: {}", named.join(", "))?,
    }
    write_rewrites(f, &pool.rewrites)?;
    let priorities = pool.priorities.iter().map(|one| (&one.model, one.priority));
    write_priorities(f, "priorities of models", priorities)?;
    let objectives = pool.objectives.iter().map(|one| (&one.name, one.priority));
    write_priorities(f, "objectives", objectives)?;
    for picker in pool.pickers.iter() {
        let (service, namespace) = (&picker.service, &picker.namespace);
        write!(f, "\n  picker: {service}.{namespace}:{}", picker.port)?;
    }
    write_picker(f, pool.asked_picker.as_ref())
}

fn write_picker(f: &mut fmt::Formatter<'_>, picker: Option<&AskedPicker>) -> fmt::Result {
    let Some(picker) = picker else {
        return Ok(());
    };
    let means = if picker.tls {
        "by TLS"
    } else {
        "in plain text"
    };
    let otherwise = match picker.on_failure {
        PickerFailure::Open => "the strategy above",
        PickerFailure::Close => "503",
    };
    let authority = &picker.authority;
    write!(
        f,
        "\n  endpoints are chosen by the picker at {authority}, asked {means}; if it fails: {otherwise}"
    )
}

/// From where the control plane knows loads and caches.
fn write_knowledge(f: &mut fmt::Formatter<'_>, pool: &PoolConfig) -> fmt::Result {
    let collector = &pool.collector;
    if collector.enabled {
        let (path, interval) = (&collector.path, collector.interval);
        write!(f, "\n  metrics: {path} every {interval:?}")?;
    } else {
        write!(f, "\n  metrics: not collected")?;
    }
    if let Some(manager) = &pool.kv_manager {
        let (language, url, budget) = (manager.dialect.name(), &manager.url, manager.budget);
        write!(
            f,
            "\n  KV manager: {language} at {url}, given {budget:?} per request"
        )?;
    }
    if let Some(tokenizer) = &pool.tokenizer {
        write_tokenizer(f, tokenizer)?;
    }
    let Some(events) = &pool.kv_events else {
        return Ok(());
    };
    match events.port {
        Some(port) => write!(
            f,
            "\n  KV events: from port {port} of each endpoint, unless its pod says another"
        ),
        None => write!(
            f,
            "\n  KV events: from where each pod or engine says that it publishes them"
        ),
    }
}

fn write_rewrites(f: &mut fmt::Formatter<'_>, rewrites: &[ModelRewrite]) -> fmt::Result {
    for ModelRewrite { model, targets } in rewrites {
        let model = model.as_deref().unwrap_or("any other model");
        write!(f, "\n  rewrite: {model} to ")?;
        for (index, RewriteTarget { model, weight }) in targets.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{model} ({weight})")?;
        }
    }
    Ok(())
}

fn write_priorities<'a>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    priorities: impl Iterator<Item = (&'a Arc<str>, i32)>,
) -> fmt::Result {
    let named: Vec<_> = priorities
        .map(|(name, priority)| format!("{name} {priority}"))
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {what}: {}", named.join(", "))
}

/// What orders queued requests besides their work and their wait.
fn write_order(f: &mut fmt::Formatter<'_>, tenant: &TenantKey, max_priority: i32) -> fmt::Result {
    f.write_str("\n  queue: ")?;
    match tenant {
        TenantKey::None => f.write_str("without tenants")?,
        TenantKey::Header(name) => write!(
            f,
            "tenants by the header {name}, which a gateway in front has to set"
        )?,
        TenantKey::Key => {
            f.write_str("tenants by the API key, which a gateway in front has to verify")?;
        }
        TenantKey::Model => f.write_str("tenants by the model")?,
    }
    match max_priority {
        0 => f.write_str("; clients cannot raise their priority"),
        most => write!(f, "; clients may raise their priority by up to {most}"),
    }
}

fn write_tls(f: &mut fmt::Formatter<'_>, tls: &EndpointTlsConfig) -> fmt::Result {
    if let Some(path) = &tls.ca_file {
        let path = path.display();
        write!(f, "\n  certificates: signed by an authority in {path}")?;
    }
    match &tls.server_name {
        Some(name) => write!(f, "\n  certificates: for {name}"),
        None => Ok(()),
    }
}

fn write_tokenizer(f: &mut fmt::Formatter<'_>, tokenizer: &TokenizerSettings) -> fmt::Result {
    let TokenizerSettings {
        way,
        cache,
        timeout,
        longest: _,
        key_file: _,
    } = tokenizer;
    match way {
        Way::Files(files) => write!(f, "\n  token ids: by the files of {}", files.path.display())?,
        Way::Engine => write!(f, "\n  token ids: by the engines' /tokenize")?,
    }
    write!(
        f,
        ", given {timeout:?} per request; {} MiB remember them",
        cache >> 20
    )
}

fn write_source(f: &mut fmt::Formatter<'_>, source: &EndpointSource) -> fmt::Result {
    match source {
        EndpointSource::Static(addresses) => write_addresses(f, "endpoints", addresses),
        EndpointSource::StaticRole(role, addresses) => {
            write_addresses(f, &format!("{} endpoints", role.name()), addresses)
        }
        EndpointSource::Services(selection) => write_selection(f, "Services", selection),
        EndpointSource::Service(name, _) => write!(f, "\n  endpoints of the Service {name}"),
        EndpointSource::Pods(selection) => write_selection(f, "pods", selection),
    }
}

fn write_addresses(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    addresses: &[impl fmt::Display],
) -> fmt::Result {
    let named: Vec<String> = addresses
        .iter()
        .take(MAX_NAMED)
        .map(ToString::to_string)
        .collect();
    write!(f, "\n  {name}: {}", named.join(", "))?;
    match addresses.len().saturating_sub(MAX_NAMED) {
        0 => Ok(()),
        more => write!(f, ", and {more} more"),
    }
}

fn write_selection(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    selection: &KubernetesSelection,
) -> fmt::Result {
    let labels: Vec<String> = selection
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let namespace = selection
        .namespace
        .as_deref()
        .unwrap_or("(the control plane's own)");
    write!(
        f,
        "\n  endpoints: {kind} {} in namespace {namespace}, port ",
        labels.join(",")
    )?;
    match &selection.port {
        PortRef::Number(number) => write!(f, "{number}"),
        PortRef::Name(name) => write!(f, "{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> String {
        Meaning(&Config::parse(text).expect("a good file")).to_string()
    }

    #[test]
    fn a_pool_is_shown_with_what_it_selects_and_how_it_chooses() {
        let text = meaning(
            "pools:\n- {name: chat, models: [m], endpoints: ['http://a:1'], strategy: random}\n\
             - {name: exact, endpoints: ['http://b:1'], kvEvents: {port: 5557}}\n\
             - {name: wide, kubernetes: {namespace: ai, pods: {app: vllm}, port: http}, engine: openai}",
        );
        for part in [
            "pool chat: engine vllm, strategy random",
            "models: m",
            "endpoints: http://a:1",
            "KV events: from port 5557 of each endpoint",
            "pool wide: engine openai, strategy kv-aware",
            "endpoints: pods app=vllm in namespace ai, port http",
            "metrics: not collected",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn gateways_are_shown_with_their_controller_and_their_ports() {
        let text = meaning(
            "gatewayApi: {namespaces: [a, b], service: {type: ClusterIP, selector: {app: proxy}, portRange: 30000-30099}}",
        );
        let wanted = "Gateways: of the namespaces a, b, for the controller hermes.ai/gateway, each with a Service of the type \
                      ClusterIP, at ports 30000 to 30099 of the proxies\n";
        assert!(text.starts_with(wanted), "{text}");
    }

    #[test]
    fn who_knows_caches_is_shown_with_what_it_goes_by() {
        let text = meaning(
            "pools: [{name: chat, endpoints: ['http://a:1'], tokenizer: {path: /models/m}, \
             kvManager: {protocol: conductor, url: 'http://c'}}]",
        );
        for part in [
            "KV manager: conductor at http://c:13333/query, given 50ms per request",
            "token ids: by the files of /models/m, given 20ms per request; 64 MiB remember them",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn what_orders_the_queue_is_shown_with_what_it_relies_on() {
        let order = |keys: &str| {
            let text = meaning(&format!(
                "pools: [{{name: a, endpoints: ['http://a:1'], {keys}}}]"
            ));
            let line = text.lines().find(|line| line.starts_with("  queue: "));
            line.expect("a line for the queue").to_owned()
        };
        assert_eq!(
            order("engine: vllm"),
            "  queue: without tenants; clients cannot raise their priority"
        );
        assert_eq!(
            order("tenant: 'header:x-team', queue: {maxPriority: 2}"),
            "  queue: tenants by the header x-team, which a gateway in front has to set; \
             clients may raise their priority by up to 2"
        );
    }

    #[test]
    fn many_endpoints_are_counted() {
        let urls: Vec<String> = (1..=20).map(|port| format!("'http://a:{port}'")).collect();
        let text = meaning(&format!(
            "pools: [{{name: a, endpoints: [{}]}}]",
            urls.join(",")
        ));
        assert!(text.contains("http://a:8, and 12 more"), "{text}");
    }
}
