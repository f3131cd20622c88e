//! Reads the filters of a rule.

use std::{collections::BTreeSet, num::NonZeroU16, ops::RangeInclusive, sync::Arc};

use hermes_core::{
    address::{DnsName, ServerScheme},
    header_names::is_credential,
    route::{
        BackendTarget, HeaderEdits, HeaderField, PathEdit, RouteFilters, RouteMirror,
        RouteRedirect, UrlRewrite, is_reserved_request_header, is_reserved_response_header,
        is_route_path,
    },
};

use super::matches::{HEADER, PATH, is_header};
use crate::config::{node::Node, section::Section};

/// Headers that one filter sets, adds or removes.
const HEADERS: RangeInclusive<usize> = 0..=64;

/// Mirrors of one rule.
const MIRRORS: RangeInclusive<usize> = 0..=4;

/// What the value of a header may be.
const VALUE: &str = "a header's value: visible ASCII, and spaces inside";

/// What a host may be.
const HOST: &str = "a DNS name, such as engines.example.com";

/// The filters among the keys of a rule.
pub(super) fn read(rule: &mut Section<'_>) -> RouteFilters {
    RouteFilters {
        request_headers: rule.section(
            "requestHeaders",
            "Edits of the requests' headers.",
            |section| read_edits(section, is_reserved_request_header),
        ),
        response_headers: rule.section(
            "responseHeaders",
            "Edits of the headers of responses that come from an endpoint.",
            |section| read_edits(section, is_reserved_response_header),
        ),
        redirect: rule.optional_section(
            "redirect",
            "Answers every request of the rule by sending the client elsewhere; what is not set is as in the request.",
            read_redirect,
        ),
        rewrite: rule.optional_section(
            "rewrite",
            "What endpoints get in place of what the client sent. Which API a request is for follows from its new path.",
            |section| UrlRewrite {
                hostname: hostname(section, "The header `Host` for endpoints."),
                path: read_path_edit(section),
            },
        ),
        mirrors: rule.list(
            "mirrors",
            MIRRORS,
            "Pools that get copies of requests; their responses are discarded.",
            read_mirror,
        ),
    }
}

fn read_edits(section: &mut Section<'_>, is_reserved: impl Fn(&str) -> bool) -> HeaderEdits {
    let set = section.list(
        "set",
        HEADERS,
        "Headers that replace what is there.",
        read_header,
    );
    let add = section.list(
        "add",
        HEADERS,
        "Headers that are added to what is there.",
        read_header,
    );
    let remove = section
        .texts(
            "remove",
            HEADERS,
            "names of headers",
            "Headers that are removed.",
            |node: &Node<'_>| {
                let name = node.text(HEADER)?;
                if is_header(name) {
                    Some(Arc::<str>::from(name.to_ascii_lowercase()))
                } else {
                    node.wrong(format!("expected {HEADER}"))
                }
            },
            Arc::<str>::to_string,
        )
        .optional();
    let edits = HeaderEdits {
        set,
        add,
        remove: remove.unwrap_or_default(),
    };
    let fields = edits.set.iter().chain(&edits.add);
    let mut credentials = fields.filter(|field| is_credential(&field.name));
    if let Some(field) = credentials.next() {
        let found = format!("the header `{}`", field.name);
        section.own_error(
            &found,
            "leave it to clients: what is configured here reaches every proxy and its debug pages",
        );
    }
    let mut names = BTreeSet::new();
    for name in edits.names() {
        if is_reserved(name) {
            let found = format!("the header `{name}`");
            section.own_error(&found, "leave it to the proxy: it belongs to a connection, describes the body, or controls a router");
        } else if !names.insert(name) {
            section.own_error(
                &format!("the header `{name}` twice"),
                "name each header once",
            );
        }
    }
    edits
}

fn read_header(section: &mut Section<'_>) -> Option<HeaderField> {
    let name = section
        .text_where("name", HEADER, is_header, "Its name.")
        .required("set its name");
    let value = section
        .text_where("value", VALUE, str::is_ascii, "Its value.")
        .required("set its value");
    Some(HeaderField {
        name: name?.to_ascii_lowercase().into(),
        value: value?,
    })
}

fn read_redirect(section: &mut Section<'_>) -> RouteRedirect {
    let schemes = [ServerScheme::Http, ServerScheme::Https];
    let scheme = section
        .one_of(
            "scheme",
            &schemes.map(|scheme| (scheme.as_str(), scheme)),
            "The scheme to use.",
        )
        .or_unset("that of the request");
    let hostname = hostname(section, "The host to ask.");
    let port: Option<u16> = section
        .count("port", 1..=65_535, "The port to ask.")
        .or_unset("that of `scheme`, else that of the listener");
    let path = read_path_edit(section);
    let status: u16 = section
        .count("status", 301..=308, "301, 302, 303, 307 or 308.")
        .or(302);
    if matches!(status, 304..=306) {
        section.error(
            "status",
            format!("found {status}"),
            "expected 301, 302, 303, 307 or 308",
        );
    }
    RouteRedirect {
        scheme,
        hostname,
        port: port.and_then(NonZeroU16::new),
        path,
        status,
    }
}

fn hostname(section: &mut Section<'_>, meaning: &'static str) -> Option<DnsName> {
    section
        .parsed("hostname", HOST, |text| text.parse().ok(), meaning)
        .or_unset("that of the request")
}

fn read_path_edit(section: &mut Section<'_>) -> Option<PathEdit> {
    let full = section
        .text_where(
            "replacePath",
            PATH,
            is_route_path,
            "What the path becomes; the query stays.",
        )
        .optional();
    let prefix = section
        .text_where(
            "replacePrefix",
            PATH,
            is_route_path,
            "What the prefix by which the path was matched becomes; `/` removes it.",
        )
        .optional();
    if section.has("replacePath") && section.has("replacePrefix") {
        section.own_error("both `replacePath` and `replacePrefix`", "set one of them");
    }
    full.map(PathEdit::Full)
        .or_else(|| prefix.map(PathEdit::Prefix))
}

fn read_mirror(section: &mut Section<'_>) -> Option<RouteMirror> {
    let pool = section
        .text("pool", "a pool's name", "The pool.")
        .required("set the name of a pool");
    let percent = section
        .number(
            "percent",
            0.0..=100.0,
            "The share of requests that are copied.",
        )
        .or(100.0);
    Some(RouteMirror {
        target: BackendTarget::Pool(pool?),
        share: percent / 100.0,
    })
}
