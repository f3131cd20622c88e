//! Envoy with the file that the documentation shows, and without its picker.

use std::io;
use std::path::PathBuf;

const FILE: &str = include_str!("../../../gateways/envoy.yaml");

/// The binary that `benches/peers/install envoy` puts below the cache.
pub fn binary() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("HERMES_CACHE").map(PathBuf::from);
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".cache/hermes"));
    let cache = cache.or_else(home).unwrap_or_default();
    cache.join("peers/bin/envoy")
}

/// Where an Envoy listens, and its admin port.
#[derive(Clone, Copy, Debug)]
pub struct EnvoyPorts {
    /// Of clients.
    pub clients: u16,
    /// Of its admin interface.
    pub admin: u16,
}

/// Asks the picker at this port.
pub fn asking(ports: EnvoyPorts, picker: u16) -> io::Result<String> {
    let text = with_ports(ports)?;
    replaced(&text, "port_value: 9002", &format!("port_value: {picker}"))
}

/// Has no picker: requests go to these ports in turn.
pub fn alone(ports: EnvoyPorts, backends: &[u16]) -> io::Result<String> {
    let text = with_ports(ports)?;
    let (head, filter) = split(&text, "          - name: envoy.filters.http.ext_proc\n")?;
    let (_, router) = split(filter, "          - name: envoy.filters.http.router\n")?;
    let (router, _) = split(
        router,
        "  # The endpoint of each request is named in its header.\n",
    )?;
    let endpoint = |port: &u16| {
        let address = format!("{{address: 127.0.0.1, port_value: {port}}}");
        format!("        - endpoint: {{address: {{socket_address: {address}}}}}\n")
    };
    let endpoints: String = backends.iter().map(endpoint).collect();
    Ok(format!(
        "{head}          - name: envoy.filters.http.router\n{router}  - name: endpoints
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 40000, max_pending_requests: 40000, max_requests: 40000}}]}}
    load_assignment:
      cluster_name: endpoints
      endpoints:
      - lb_endpoints:
{endpoints}"
    ))
}

fn with_ports(ports: EnvoyPorts) -> io::Result<String> {
    let clients = format!("port_value: {}", ports.clients);
    let text = replaced(FILE, "port_value: 8080", &clients)?;
    replaced(
        &text,
        "port_value: 9901",
        &format!("port_value: {}", ports.admin),
    )
}

fn replaced(text: &str, from: &str, to: &str) -> io::Result<String> {
    split(text, from)?;
    Ok(text.replace(from, to))
}

fn split<'t>(text: &'t str, at: &str) -> io::Result<(&'t str, &'t str)> {
    let changed = || io::Error::other(format!("envoy.yaml has no line {at:?} any more"));
    text.split_once(at).ok_or_else(changed)
}
