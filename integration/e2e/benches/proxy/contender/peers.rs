//! The proxies that people use for this today, as `benches/peers/install` puts them.

use std::io;
use std::path::PathBuf;

use super::{Command, Recipe, Site, free_port, strings};

/// In the order of the table's columns.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "nginx",
        start: nginx,
    },
    Recipe {
        name: "envoy",
        start: envoy,
    },
    Recipe {
        name: "vllm-router",
        start: vllm_router,
    },
    Recipe {
        name: "vllm-router-cache",
        start: vllm_router_cache,
    },
    Recipe {
        name: "sglang-router",
        start: sglang_router,
    },
];

fn installed(name: &str) -> PathBuf {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("HERMES_CACHE").or_else(|| set("HOME").map(|home| home.join(".cache/hermes")));
    cache.unwrap_or_default().join("peers/bin").join(name)
}

fn nginx(site: &Site<'_>) -> io::Result<Vec<Command>> {
    let servers: String = site
        .backends
        .iter()
        .map(|backend| format!("server {};", backend.authority()))
        .collect();
    let config = format!(
        "daemon off; worker_processes auto; pid nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_buffer_size 1m; client_max_body_size 64m; keepalive_requests 100000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream engines {{ {servers} keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
",
        listen = site.listen()
    );
    let config = site.write("nginx.conf", &config)?;
    let folder = site.folder.display().to_string();
    Ok(vec![Command {
        program: installed("nginx"),
        args: strings(["-p", &folder, "-e", "stderr", "-c", &config]),
    }])
}

fn envoy(site: &Site<'_>) -> io::Result<Vec<Command>> {
    let config = site.write("envoy.json", &envoy_config(site).to_string())?;
    let workers = std::thread::available_parallelism()?.to_string();
    let args = strings([
        "-c",
        &config,
        "--concurrency",
        &workers,
        "--use-dynamic-base-id",
        "-l",
        "error",
    ]);
    Ok(vec![Command {
        program: installed("envoy"),
        args,
    }])
}

fn envoy_config(site: &Site<'_>) -> serde_json::Value {
    use serde_json::json;
    let address =
        |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let port = |authority: &str| {
        authority
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or(0)
    };
    let endpoints: Vec<_> = site
        .backends
        .iter()
        .map(|backend| json!({"endpoint": {"address": address(port(backend.authority()))}}))
        .collect();
    // The defaults stop at 1,024 connections and requests, which 2,000 open streams would run into.
    let unlimited = json!({"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000,
                                           "max_requests": 100_000}]});
    json!({"static_resources": {
        "listeners": [{"address": address(site.port), "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "bench",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}]}]},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            },
        }]}]}],
        "clusters": [{"name": "engines", "type": "STATIC", "lb_policy": "ROUND_ROBIN", "circuit_breakers": unlimited,
            "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]}}],
    }})
}

fn vllm_router(site: &Site<'_>) -> io::Result<Vec<Command>> {
    router(site, "vllm-router", &[], "round_robin")
}

fn vllm_router_cache(site: &Site<'_>) -> io::Result<Vec<Command>> {
    router(site, "vllm-router", &[], "cache_aware")
}

fn sglang_router(site: &Site<'_>) -> io::Result<Vec<Command>> {
    router(site, "sglang-router", &["launch"], "round_robin")
}

fn router(site: &Site<'_>, name: &str, command: &[&str], policy: &str) -> io::Result<Vec<Command>> {
    let (port, metrics) = (site.port.to_string(), free_port()?.to_string());
    let mut args: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    args.extend(strings([
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--policy",
        policy,
        "--prometheus-port",
        &metrics,
    ]));
    args.extend(strings([
        "--log-level",
        if name == "vllm-router" {
            "error"
        } else {
            "warn"
        },
        "--worker-urls",
    ]));
    args.extend(site.backends.iter().map(|backend| backend.url.clone()));
    Ok(vec![Command {
        program: installed(name),
        args,
    }])
}
