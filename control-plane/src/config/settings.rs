//! Settings that apply to every request, before its pool is known.

use std::{ops::RangeInclusive, sync::Arc};

use hermes_core::{address::is_path, policy::ProxySettings};

use super::{
    duration::{DAY, HOUR, SECOND},
    node::Node,
    section::Section,
};

/// Paths besides the known ones.
const PATHS: RangeInclusive<usize> = 0..=64;

/// Origins that CORS admits.
const ORIGINS: RangeInclusive<usize> = 0..=64;

/// The settings among the keys of the top level.
pub(super) fn read(top: &mut Section<'_>) -> ProxySettings {
    let limits = top.section("limits", "Limits of one proxy.", read_limits);
    ProxySettings {
        expose_endpoint: top
            .flag(
                "exposeEndpoint",
                "Whether responses name the chosen endpoint in the header `x-hermes-endpoint`.",
            )
            .or(limits.expose_endpoint),
        extra_paths: top
            .texts(
                "extraPaths",
                PATHS,
                "paths such as /v2/embed",
                "Paths, besides the known ones, that are forwarded. With several pools, `model` in a JSON object or a form chooses one.",
                read_path,
                Arc::<str>::to_string,
            )
            .or(limits.extra_paths),
        cors_origins: top
            .texts(
                "corsOrigins",
                ORIGINS,
                "origins such as https://chat.example.com, or *",
                "Origins whose web pages may send requests and read the responses (CORS). Without one, browsers let no page do so unless the engines permit it.",
                read_origin,
                Arc::<str>::to_string,
            )
            .or(limits.cors_origins),
        ..limits
    }
}

/// The mapping `limits`, with defaults for the other settings.
fn read_limits(section: &mut Section<'_>) -> ProxySettings {
    let defaults = ProxySettings::default();
    ProxySettings {
        max_body_bytes: section
            .size(
                "maxBodyBytes",
                1 << 10..=4 << 30,
                "Largest request body; above it the response is 413.",
            )
            .or(defaults.max_body_bytes),
        max_concurrent: section
            .count(
                "maxConcurrent",
                1..=1_000_000,
                "Concurrent requests of one proxy; above it the response is 429.",
            )
            .or(defaults.max_concurrent),
        client_timeout: section
            .duration(
                "clientTimeout",
                SECOND / 100..=HOUR,
                "How long a client may take to send its request head, and between two chunks of its body.",
            )
            .or(defaults.client_timeout),
        send_timeout: section
            .duration(
                "sendTimeout",
                SECOND / 100..=HOUR,
                "How long a response may wait for its client to read; above it the connection is cut, or the HTTP/2 stream.",
            )
            .or(defaults.send_timeout),
        keep_alive_timeout: section
            .duration(
                "keepAliveTimeout",
                SECOND / 100..=DAY,
                "How long a client may keep a connection without a request; longer than the load balancer in front keeps it.",
            )
            .or(defaults.keep_alive_timeout),
        ..defaults
    }
}

fn read_path(node: &Node<'_>) -> Option<Arc<str>> {
    let path = node.text("a path such as /v2/embed")?;
    if !is_path(path) {
        return node.wrong("expected a path such as /v2/embed, without a query");
    }
    Some(path.into())
}

fn read_origin(node: &Node<'_>) -> Option<Arc<str>> {
    let origin = node.text("an origin such as https://chat.example.com, or *")?;
    if !is_origin(origin) {
        return node.wrong(
            "expected an origin as browsers send it: scheme://host, with a port if it is not the scheme's, in lower case and without a path; or *",
        );
    }
    Some(origin.into())
}

/// Whether a browser may send this as an origin (RFC 6454, 6.1), or `*`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return text == "*";
    };
    let of_host =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    let of_scheme =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "://",
    };
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(of_scheme)
        && !authority.is_empty()
        && authority.bytes().all(of_host)
        && !authority.ends_with(default_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for origin in [
            "*",
            "https://chat.example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
            "app://electron",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "chat.example.com",
            "https://",
            "https://chat.example.com/",
            "https://chat.example.com/app",
            "https://Chat.example.com",
            "https://chat.example.com:443",
            "http://localhost:80",
            "https://*.example.com",
            "null",
            "https://a b",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }
}
