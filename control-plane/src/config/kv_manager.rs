//! The global KV-cache manager of a pool: where it is, and how long requests wait for it.

use std::{borrow::Cow, num::NonZeroU16, ops::RangeInclusive, sync::Arc, time::Duration};

use hermes_core::address::{ServerAddress, ServerScheme, UrlParts, is_path};

use super::{
    conductor,
    duration::{MINUTE, SECOND},
    error::excerpt,
    key::ValueType,
    node::Node,
    section::{Reading, Section},
};
use crate::cache_sources::kv_manager::{
    Conductor, DEFAULT_ID_KEYS, DEFAULT_SCORE_KEYS, Dialect, Encoding, KvManagerSettings, MatchSort,
};

/// How long a request waits for a lookup unless something else is configured.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(50);

/// Bound of a connection unless something else is configured; the original's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a lookup's result is used unless something else is configured.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Where a match-sort manager listens unless something else is configured.
const MATCH_SORT: LookupEndpoint = LookupEndpoint {
    port: 8080,
    path: "/match_sort",
};

/// Where a conductor listens unless something else is configured.
const CONDUCTOR: LookupEndpoint = LookupEndpoint {
    port: 13_333,
    path: "/query",
};

/// JSON names in one list.
const NAMES: RangeInclusive<usize> = 1..=32;

/// Port and path of a lookup.
#[derive(Clone, Copy, Debug)]
struct LookupEndpoint {
    port: u16,
    path: &'static str,
}

/// Which protocol is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KvManagerProtocol {
    MatchSort,
    Conductor(Encoding),
}

/// The mapping `kvManager` of a pool.
pub(super) fn read(section: &mut Section<'_>) -> Option<KvManagerSettings> {
    let protocol = section
        .one_of(
            ("protocol", ["kind"]),
            &[
                ("match-sort", KvManagerProtocol::MatchSort),
                ("match_sort", KvManagerProtocol::MatchSort),
                ("conductor", KvManagerProtocol::Conductor(Encoding::Json)),
                ("conductor-msgpack", KvManagerProtocol::Conductor(Encoding::Msgpack)),
            ],
            "Protocol: `/match_sort` by text, or Mooncake's `/query` by token ids, which needs `tokenizer`.",
        )
        .or(KvManagerProtocol::MatchSort);
    let lookup = match protocol {
        KvManagerProtocol::MatchSort => MATCH_SORT,
        KvManagerProtocol::Conductor(_) => CONDUCTOR,
    };
    let url = section
        .text(
            "url",
            "a URL such as http://cache-indexer-service:8080/match_sort",
            "URL of the manager; port and path may be part of it, or set in `port` and `path`.",
        )
        .required("set a URL such as http://cache-indexer-service:8080/match_sort");
    let port = port(section).or_unset(format!(
        "{}; {} for a conductor",
        MATCH_SORT.port, CONDUCTOR.port
    ));
    let path = path(section, "path").or_unset(format!(
        "{}; {} for a conductor",
        MATCH_SORT.path, CONDUCTOR.path
    ));
    let url = url.and_then(|url| full_url(section, &url, port, ("path", path), lookup));
    let config = KvManagerSettings {
        dialect: read_dialect(section, protocol),
        url: Arc::default(),
        timeout: timeout(
            section,
            "Timeout of connecting, and of a response before its connection is closed. No request waits for it.",
        ),
        budget: section
            .duration(
                "lookupTimeout",
                SECOND / 1_000..=SECOND * 5,
                "How long a request waits for a lookup; after it the caches count as unknown.",
            )
            .or(LOOKUP_TIMEOUT),
        cache: section
            .duration(
                "cacheTtl",
                Duration::ZERO..=MINUTE,
                "How long a lookup's result is used for the same prefix; 0s looks up every time.",
            )
            .or(CACHE_TTL),
    };
    Some(KvManagerSettings {
        url: url?,
        ..config
    })
}

/// The original's mapping `app.kvmanager`; a blank URL is none, as in its chart.
pub(super) fn read_original(section: &mut Section<'_>) -> Option<KvManagerSettings> {
    section
        .one_of(
            "protocol",
            &[("match-sort", ()), ("match_sort", ())],
            "Protocol.",
        )
        .or(());
    let url = original_url(section);
    let port = port(section).or_implied(&MATCH_SORT.port);
    let path = path(section, "matchPath").or_implied(&MATCH_SORT.path.into());
    let meaning = format!(
        "Timeout of the connection; a request waits at most {LOOKUP_TIMEOUT:?} for a lookup, whatever is set here."
    );
    let timeout = timeout(section, meaning);
    Some(KvManagerSettings {
        url: full_url(section, &url?, port, ("matchPath", path), MATCH_SORT)?,
        dialect: Dialect::MatchSort(MatchSort::named()),
        timeout,
        budget: LOOKUP_TIMEOUT,
        cache: CACHE_TTL,
    })
}

/// The key `url` of the original; `None` when it is blank, with a warning.
fn original_url(section: &mut Section<'_>) -> Option<Arc<str>> {
    let expected = "a URL such as http://cache-indexer-service";
    let read = |node: &Node<'_>| {
        if node.is_blank() {
            return Some(Arc::default());
        }
        node.text(expected).map(Arc::from)
    };
    let url = section
        .value(
            "url",
            ValueType::Text(expected),
            "Scheme and host; no KV manager if empty.",
            read,
            Arc::<str>::to_string,
        )
        .required("set a URL such as http://cache-indexer-service, or remove `kvmanager`")?;
    if url.is_empty() {
        section.warn("url", "empty, so no KV manager is used");
        return None;
    }
    Some(url)
}

/// The settings of the protocol in use. Those of the other are checked too, and have no effect.
fn read_dialect(section: &mut Section<'_>, protocol: KvManagerProtocol) -> Dialect {
    let match_sort = section.only_for(&["match-sort"], |section| MatchSort {
        id_keys: read_json_names(
            section,
            "idKeys",
            "JSON names of the endpoint in an entry of the response; the first that is present counts.",
            &DEFAULT_ID_KEYS,
        ),
        score_keys: read_json_names(
            section,
            "scoreKeys",
            "JSON names of the degree of match in an entry of the response; the first that is present counts.",
            &DEFAULT_SCORE_KEYS,
        ),
    });
    let conductor = section.only_for(&["conductor", "conductor-msgpack"], |section| {
        section.section("conductor", "settings of the lookup.", conductor::read)
    });
    let (dialect, name) = match protocol {
        KvManagerProtocol::MatchSort => (Dialect::MatchSort(match_sort), "match-sort"),
        KvManagerProtocol::Conductor(encoding) => {
            let conductor = Conductor {
                encoding,
                ..conductor
            };
            (Dialect::Conductor(Box::new(conductor)), "conductor")
        }
    };
    for key in section.foreign(name) {
        section.warn(key.name, "has no effect with this protocol");
    }
    dialect
}

fn read_json_names(
    section: &mut Section<'_>,
    key: &'static str,
    meaning: &'static str,
    defaults: &[&str],
) -> Vec<Arc<str>> {
    let read = |node: &Node<'_>| node.text("a JSON name").map(Arc::from);
    section
        .texts(
            key,
            NAMES,
            "JSON names",
            meaning,
            read,
            Arc::<str>::to_string,
        )
        .or(defaults.iter().copied().map(Arc::from).collect())
}

fn timeout(section: &mut Section<'_>, meaning: impl Into<Cow<'static, str>>) -> Duration {
    section
        .duration("timeout", SECOND / 100..=MINUTE * 5, meaning)
        .or(TIMEOUT)
}

fn port<'s, 'a>(section: &'s mut Section<'a>) -> Reading<'s, 'a, u16, impl Fn(&u16) -> String> {
    section.count("port", 1..=65_535, "Port of the manager.")
}

fn path<'s, 'a>(
    section: &'s mut Section<'a>,
    key: &'static str,
) -> Reading<'s, 'a, Arc<str>, impl Fn(&Arc<str>) -> String> {
    section.text_where(
        key,
        "a path such as /match_sort",
        is_path,
        "Path of the lookup.",
    )
}

/// The lookup's URL from `url`, `port` and the path's key; what is set in two places has to be the
/// same.
fn full_url(
    section: &Section<'_>,
    url: &str,
    port: Option<u16>,
    (path_key, path): (&str, Option<Arc<str>>),
    lookup: LookupEndpoint,
) -> Option<Arc<str>> {
    let wrong = |fix: String| {
        section.error("url", format!("found `{}`", excerpt(url)), fix);
        None
    };
    let address = match UrlParts::parse(url) {
        Ok(address) => address,
        Err(error) => return wrong(error.to_string()),
    };
    if address.scheme == ServerScheme::Https {
        return wrong("expected http:// (a KV manager is asked over plain HTTP)".to_owned());
    }
    let inside_port = address.port.map(NonZeroU16::get);
    let inside = Some(address.path).filter(|path| !matches!(*path, "" | "/"));
    if let Some(path) = inside.filter(|path| !is_path(path)) {
        return wrong(format!(
            "expected a path such as {} instead of {path}",
            lookup.path
        ));
    }
    let differs =
        |inside: Option<u16>| inside.is_some_and(|inside| port.is_some_and(|port| port != inside));
    if differs(inside_port) {
        section.error("port", "another port than in `url`", "set the port once");
    }
    if inside.is_some_and(|inside| path.as_ref().is_some_and(|path| **path != *inside)) {
        section.error(path_key, "another path than in `url`", "set the path once");
    }
    let port = inside_port.or(port).unwrap_or(lookup.port);
    let path = inside.or(path.as_deref()).unwrap_or(lookup.path);
    let port = NonZeroU16::new(port)?;
    let address = ServerAddress::new(address.scheme, address.host, port);
    Some(address.page(path).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::diagnostics::Diagnostics;

    #[test]
    fn port_and_path_may_be_part_of_the_url_or_keys_of_their_own() {
        let cases = [
            json!({"url": "http://mooncake"}),
            json!({"url": "http://mooncake:8080/match_sort"}),
            json!({"url": "http://mooncake/", "port": 8080, "path": "/match_sort"}),
            json!({"url": "http://mooncake:8080", "port": 8080, "kind": "match-sort"}),
        ];
        for value in cases {
            let diagnostics = Diagnostics::default();
            let config = Section::read(&Node::new(&value, "kvManager", &diagnostics), read)
                .flatten()
                .expect("a good mapping");
            assert_eq!(&*config.url, "http://mooncake:8080/match_sort", "{value}");
            assert_eq!((config.budget, config.timeout), (LOOKUP_TIMEOUT, TIMEOUT));
        }
    }

    #[test]
    fn a_conductor_has_another_port_and_path_and_settings_of_its_own() {
        let value = json!({
            "protocol": "conductor-msgpack", "url": "http://conductor", "idKeys": ["ip"],
            "conductor": {"blockSize": 128, "instances": {"prefill-0": "10.0.0.7:8000"}, "register": true},
        });
        let diagnostics = Diagnostics::default();
        let config = Section::read(&Node::new(&value, "kvManager", &diagnostics), read)
            .flatten()
            .expect("a good mapping");
        assert_eq!(&*config.url, "http://conductor:13333/query");
        let Dialect::Conductor(conductor) = config.dialect else {
            panic!("a conductor")
        };
        assert_eq!(
            (conductor.encoding, conductor.block_size, &*conductor.tenant),
            (Encoding::Msgpack, Some(128), "default")
        );
        assert_eq!(
            conductor.instances,
            [("prefill-0".into(), "10.0.0.7:8000".into())]
        );
        assert_eq!(
            conductor.register,
            Some(crate::cache_sources::kv_manager::Registration::default())
        );
        assert!(diagnostics.into_errors().is_empty());
    }
}
