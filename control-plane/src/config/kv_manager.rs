//! The global KV-cache manager of a pool: where it is, and how long to wait for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    address::{Address, is_path},
    conductor,
    reader::{Fields, Node},
    sections::{KV_MANAGER, KVMANAGER},
};
use crate::cache_sources::kv_manager::{
    Conductor, DEFAULT_ID_KEYS, DEFAULT_SCORE_KEYS, Dialect, Encoding, MatchSort,
};

/// How long a request waits for an answer when nothing else is configured.
const BUDGET: Duration = Duration::from_millis(50);

/// How long a connection may take when nothing else is configured; the original's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer is used again when nothing else is configured.
const CACHE: Duration = Duration::from_millis(500);

/// Port and path where a match-sort manager listens when nothing else is configured.
const MATCH_SORT: (u16, &str) = (8080, "/match_sort");

/// The same for a conductor.
const CONDUCTOR: (u16, &str) = (13_333, "/query");

/// Most JSON names in one list.
const MAX_KEYS: usize = 32;

/// Whom to ask which endpoint holds a prompt, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvManagerConfig {
    /// What it speaks.
    pub dialect: Dialect,
    /// Where its lookup is: `http://host:port/path`.
    pub url: Arc<str>,
    /// How long a connection may take to open, and an answer until the connection is given up; no request waits
    /// for it.
    pub timeout: Duration,
    /// How long a request waits for an answer.
    pub budget: Duration,
    /// How long an answer is used again.
    pub cache: Duration,
}

/// The mapping `kvManager` of a pool.
pub(super) fn read(node: &Node<'_>) -> Option<KvManagerConfig> {
    let fields = node.fields(&KV_MANAGER)?;
    if fields.node("url").is_none() {
        fields.missing(
            "url",
            "give a URL such as http://cache-indexer-service:8080/match_sort",
        );
    }
    let dialect = read_dialect(&fields);
    let place = if dialect.needs_tokens() {
        CONDUCTOR
    } else {
        MATCH_SORT
    };
    let url = read_url(&fields, "path", place);
    let config = KvManagerConfig {
        dialect,
        url: Arc::default(),
        timeout: fields.duration("timeout").unwrap_or(TIMEOUT),
        budget: fields.duration("lookupTimeout").unwrap_or(BUDGET),
        cache: fields.duration("cacheTtl").unwrap_or(CACHE),
    };
    Some(KvManagerConfig {
        url: url?,
        ..config
    })
}

/// The original's mapping `app.kvmanager`; a blank URL is none, as its chart has it.
pub(super) fn read_original(node: &Node<'_>) -> Option<KvManagerConfig> {
    let fields = node.fields(&KVMANAGER)?;
    // There is one, under two spellings; reading it refuses every other.
    fields.one_of("protocol");
    let timeout = fields.duration("timeout").unwrap_or(TIMEOUT);
    let url = fields.node("url");
    if url.is_none() {
        fields.missing(
            "url",
            "give a URL such as http://cache-indexer-service, or leave out `kvmanager`",
        );
    }
    if url?.is_blank() {
        fields.warn(format!(
            "{}.url is empty: no KV manager is asked",
            fields.path()
        ));
        return None;
    }
    let url = read_url(&fields, "matchPath", MATCH_SORT)?;
    let dialect = Dialect::MatchSort(MatchSort::named());
    Some(KvManagerConfig {
        dialect,
        url,
        timeout,
        budget: BUDGET,
        cache: CACHE,
    })
}

/// The protocol, and the settings that belong to it. Those of the other are checked too, and have no effect.
fn read_dialect(fields: &Fields<'_>) -> Dialect {
    let names = |key: &str, defaults: &[&str]| {
        read_names(fields, key).unwrap_or_else(|| defaults.iter().copied().map(Arc::from).collect())
    };
    let match_sort = MatchSort {
        id_keys: names("idKeys", &DEFAULT_ID_KEYS),
        score_keys: names("scoreKeys", &DEFAULT_SCORE_KEYS),
    };
    let conductor = fields
        .node("conductor")
        .and_then(|node| conductor::read(&node))
        .unwrap_or_default();
    let encoding = match fields.one_of("protocol") {
        Some("conductor") => Encoding::Json,
        Some("conductor-msgpack") => Encoding::Msgpack,
        _ => {
            warn_foreign(fields, &["conductor"]);
            return Dialect::MatchSort(match_sort);
        }
    };
    warn_foreign(fields, &["idKeys", "scoreKeys"]);
    Dialect::Conductor(Box::new(Conductor {
        encoding,
        ..conductor
    }))
}

fn warn_foreign(fields: &Fields<'_>, keys: &[&str]) {
    for key in keys.iter().filter(|key| fields.node(key).is_some()) {
        fields.warn(format!(
            "{} has no effect with this protocol",
            fields.path_of(key)
        ));
    }
}

/// The lookup's URL from `url`, `port` and the path's key; what stands in two places has to be the same.
fn read_url(
    fields: &Fields<'_>,
    path_key: &str,
    (usual_port, usual_path): (u16, &str),
) -> Option<Arc<str>> {
    let port = fields
        .count("port")
        .and_then(|port| u16::try_from(port).ok());
    let path = read_path(fields, path_key, usual_path);
    let text = fields.text("url")?;
    let address = match Address::parse(text) {
        Ok(address) => address,
        Err(refused) => return fields.node("url")?.wrong(refused.to_string()),
    };
    let url_path = Some(address.path).filter(|path| !matches!(*path, "" | "/"));
    if let Some(inside) = url_path.filter(|path| !is_path(path)) {
        return fields.node("url")?.wrong(format!(
            "give a path such as {usual_path} instead of {inside}"
        ));
    }
    if address
        .port
        .is_some_and(|inside| port.is_some_and(|port| port != inside))
    {
        fields.mistake("port", "another port than in `url`", "give the port once");
    }
    if url_path.is_some_and(|inside| path.is_some_and(|path| path != inside)) {
        fields.mistake(path_key, "another path than in `url`", "give the path once");
    }
    let port = address.port.or(port).unwrap_or(usual_port);
    Some(
        format!(
            "http://{}:{port}{}",
            address.host,
            url_path.or(path).unwrap_or(usual_path)
        )
        .into(),
    )
}

fn read_path<'a>(fields: &Fields<'a>, key: &str, usual: &str) -> Option<&'a str> {
    let path = fields.text(key)?;
    if !is_path(path) {
        return fields
            .node(key)?
            .wrong(format!("give a path such as {usual}"));
    }
    Some(path)
}

fn read_names(fields: &Fields<'_>, key: &str) -> Option<Vec<Arc<str>>> {
    let items = fields.node(key)?.items(1, MAX_KEYS, "JSON names")?;
    let mut seen = BTreeSet::new();
    let mut names: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(name) = item.text("a JSON name") else {
            continue;
        };
        if seen.insert(name) {
            names.push(name.into());
        } else {
            item.wrong::<()>("leave it out: it is in the list already");
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::reader::Notes;

    #[test]
    fn port_and_path_may_stand_in_the_url_or_beside_it() {
        let cases = [
            json!({"url": "http://mooncake"}),
            json!({"url": "http://mooncake:8080/match_sort"}),
            json!({"url": "http://mooncake/", "port": 8080, "path": "/match_sort"}),
            json!({"url": "http://mooncake:8080", "port": 8080, "kind": "match-sort"}),
        ];
        for value in cases {
            let notes = Notes::default();
            let config = read(&Node::new(&value, "kvManager", &notes)).expect("a good mapping");
            assert_eq!(&*config.url, "http://mooncake:8080/match_sort", "{value}");
            assert_eq!((config.budget, config.timeout), (BUDGET, TIMEOUT));
        }
    }

    #[test]
    fn a_conductor_has_another_port_and_path_and_settings_of_its_own() {
        let value = json!({
            "protocol": "conductor-msgpack", "url": "http://conductor", "idKeys": ["ip"],
            "conductor": {"blockSize": 128, "instances": {"prefill-0": "10.0.0.7:8000"}, "register": true},
        });
        let notes = Notes::default();
        let config = read(&Node::new(&value, "kvManager", &notes)).expect("a good mapping");
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
        assert!(notes.into_mistakes().is_empty());
    }
}
