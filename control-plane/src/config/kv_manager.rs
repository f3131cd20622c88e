//! The global KV-cache manager of a pool: where it is, and how long to wait for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    address::{Address, is_path},
    reader::{Fields, Node},
    sections::{KV_MANAGER, KVMANAGER},
};

/// How long a request waits for an answer when nothing else is configured.
const BUDGET: Duration = Duration::from_millis(50);

/// How long a connection may take when nothing else is configured; the original's default.
const TIMEOUT: Duration = Duration::from_secs(10);

const PORT: u16 = 8080;
const PATH: &str = "/match_sort";

const ID_KEYS: [&str; 9] = ["pod_ip", "podIP", "ip", "address", "endpoint", "instance", "instance_id", "name", "pod"];
const SCORE_KEYS: [&str; 6] = ["match_rate", "hit_rate", "score", "match", "longest_matched", "matched_tokens"];

/// Most JSON names in one list.
const MAX_KEYS: usize = 32;

/// Whom to ask which endpoint holds a prompt, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvManagerConfig {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its lookup is: `http://host:port/path`.
    pub url: Arc<str>,
    /// How long a connection may take to open, and an answer until the connection is given up; no request waits
    /// for it.
    pub timeout: Duration,
    /// How long a request waits for an answer.
    pub budget: Duration,
    /// JSON names under which an entry of the answer may name the endpoint, in order of precedence.
    pub id_keys: Arc<[Arc<str>]>,
    /// JSON names under which an entry of the answer may have its degree of match, in order of precedence.
    pub score_keys: Arc<[Arc<str>]>,
}

/// The language of a KV manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// `POST /match_sort` of the original's cache indexer.
    #[default]
    MatchSort,
}

// === Protocol ===

impl Protocol {
    /// Its name in the configuration and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MatchSort => "match-sort",
        }
    }

    /// Whether it needs the prompt's text, so that `Score` has to carry it.
    #[must_use]
    pub const fn matches_text(self) -> bool {
        match self {
            Self::MatchSort => true,
        }
    }
}

/// The mapping `kvManager` of a pool.
pub(super) fn read(node: &Node<'_>) -> Option<KvManagerConfig> {
    let fields = node.fields(&KV_MANAGER)?;
    if fields.node("url").is_none() {
        fields.missing("url", "give a URL such as http://cache-indexer-service:8080/match_sort");
    }
    read_protocol(&fields);
    let url = read_url(&fields, "path");
    let config = KvManagerConfig {
        protocol: Protocol::MatchSort,
        url: Arc::default(),
        timeout: fields.duration("timeout").unwrap_or(TIMEOUT),
        budget: fields.duration("budget").unwrap_or(BUDGET),
        id_keys: read_names(&fields, "idKeys").unwrap_or_else(|| ID_KEYS.map(Arc::from).into()),
        score_keys: read_names(&fields, "scoreKeys").unwrap_or_else(|| SCORE_KEYS.map(Arc::from).into()),
    };
    Some(KvManagerConfig { url: url?, ..config })
}

/// The original's mapping `app.kvmanager`; a blank URL is none, as its chart has it.
pub(super) fn read_original(node: &Node<'_>) -> Option<KvManagerConfig> {
    let fields = node.fields(&KVMANAGER)?;
    read_protocol(&fields);
    let timeout = fields.duration("timeout").unwrap_or(TIMEOUT);
    let url = fields.node("url");
    if url.is_none() {
        fields.missing("url", "give a URL such as http://cache-indexer-service, or leave out `kvmanager`");
    }
    if url?.is_blank() {
        fields.warn(format!("{}.url is empty: no KV manager is asked", fields.path()));
        return None;
    }
    Some(KvManagerConfig {
        protocol: Protocol::MatchSort,
        url: read_url(&fields, "matchPath")?,
        timeout,
        budget: BUDGET,
        id_keys: ID_KEYS.map(Arc::from).into(),
        score_keys: SCORE_KEYS.map(Arc::from).into(),
    })
}

/// There is one protocol so far, under two spellings; reading it refuses every other.
fn read_protocol(fields: &Fields<'_>) {
    fields.one_of("protocol");
}

/// The lookup's URL from `url`, `port` and the path's key; what stands in two places has to be the same.
fn read_url(fields: &Fields<'_>, path_key: &str) -> Option<Arc<str>> {
    let port = fields.count("port").and_then(|port| u16::try_from(port).ok());
    let path = read_path(fields, path_key);
    let text = fields.text("url")?;
    let address = match Address::parse(text) {
        Ok(address) => address,
        Err(refused) => return fields.node("url")?.wrong(refused.to_string()),
    };
    let url_path = Some(address.path).filter(|path| !matches!(*path, "" | "/"));
    if let Some(inside) = url_path.filter(|path| !is_path(path)) {
        return fields.node("url")?.wrong(format!("give a path such as {PATH} instead of {inside}"));
    }
    if address.port.is_some_and(|inside| port.is_some_and(|port| port != inside)) {
        fields.mistake("port", "another port than in `url`", "give the port once");
    }
    if url_path.is_some_and(|inside| path.is_some_and(|path| path != inside)) {
        fields.mistake(path_key, "another path than in `url`", "give the path once");
    }
    let port = address.port.or(port).unwrap_or(PORT);
    Some(format!("http://{}:{port}{}", address.host, url_path.or(path).unwrap_or(PATH)).into())
}

fn read_path<'a>(fields: &Fields<'a>, key: &str) -> Option<&'a str> {
    let path = fields.text(key)?;
    if !is_path(path) {
        return fields.node(key)?.wrong(format!("give a path such as {PATH}"));
    }
    Some(path)
}

fn read_names(fields: &Fields<'_>, key: &str) -> Option<Arc<[Arc<str>]>> {
    let items = fields.node(key)?.items(1, MAX_KEYS, "JSON names")?;
    let mut seen = BTreeSet::new();
    let mut names: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(name) = item.text("a JSON name") else { continue };
        if seen.insert(name) {
            names.push(name.into());
        } else {
            item.wrong::<()>("leave it out: it is in the list already");
        }
    }
    Some(names.into())
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
}
