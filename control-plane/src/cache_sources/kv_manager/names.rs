//! What a manager may call each endpoint.

use std::{collections::HashMap, sync::Arc};

use super::LookupCandidate;

/// Names of candidates, each with the candidate's position. A name that fits two of them fits none.
pub(super) struct InstanceNames<'a>(HashMap<&'a str, Option<usize>>);

// === InstanceNames ===

impl<'a> InstanceNames<'a> {
    /// Authority, host, `namespace/pod` and pod of every candidate.
    pub(super) fn of(candidates: &'a [LookupCandidate]) -> Self {
        let mut names = HashMap::with_capacity(candidates.len() * 4);
        for (
            position,
            LookupCandidate {
                authority, name, ..
            },
        ) in candidates.iter().enumerate()
        {
            let pod = name.rsplit('/').next().unwrap_or_default();
            let mut own = [&**authority, host(authority), &**name, pod];
            own.sort_unstable();
            for (at, alias) in own.iter().enumerate() {
                if alias.is_empty() || own[..at].contains(alias) {
                    continue;
                }
                names
                    .entry(*alias)
                    .and_modify(|owner| *owner = None)
                    .or_insert(Some(position));
            }
        }
        Self(names)
    }

    /// Adds names that were configured, each with the authority of its endpoint.
    pub(super) fn with(mut self, aliases: &'a [(Arc<str>, Arc<str>)]) -> Self {
        for (alias, authority) in aliases {
            if let Some(position) = self.find(authority) {
                self.0.insert(alias, Some(position));
            }
        }
        self
    }

    /// Whose name this is: as it stands, or what is left of a URL.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        if let Some(position) = self.0.get(id) {
            return *position;
        }
        let bare = id
            .split_once("://")
            .map_or(id, |(_, rest)| rest.split('/').next().unwrap_or_default());
        self.0.get(bare).copied().flatten()
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(super) fn host(authority: &str) -> &str {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use hermes_core::snapshot::EndpointId;

    use super::*;

    fn candidates() -> Vec<LookupCandidate> {
        let names = [
            ("10.0.0.7:8000", "ai/chat-0"),
            ("127.0.0.1:9001", ""),
            ("127.0.0.1:9002", ""),
            ("[fd00::1]:8000", ""),
        ];
        let candidate = |(id, (authority, name)): (u64, (&str, &str))| LookupCandidate {
            endpoint: EndpointId(id),
            authority: authority.into(),
            name: name.into(),
        };
        (0..).zip(names).map(candidate).collect()
    }

    #[test]
    fn an_endpoint_is_known_by_address_host_and_pod() {
        let candidates = candidates();
        let names = InstanceNames::of(&candidates);
        for name in [
            "10.0.0.7:8000",
            "10.0.0.7",
            "ai/chat-0",
            "chat-0",
            "http://10.0.0.7:8000/v1",
        ] {
            assert_eq!(names.find(name), Some(0), "{name}");
        }
        assert_eq!(
            (names.find("fd00::1"), names.find("127.0.0.1:9002")),
            (Some(3), Some(2))
        );
        assert_eq!(names.find("127.0.0.1"), None, "two share it");
    }

    #[test]
    fn a_configured_name_counts_if_its_endpoint_is_there() {
        let aliases = [
            ("prefill-0".into(), "127.0.0.1:9001".into()),
            ("prefill-1".into(), "10.9.9.9:1".into()),
        ];
        let candidates = candidates();
        let names = InstanceNames::of(&candidates).with(&aliases);
        assert_eq!(
            (names.find("prefill-0"), names.find("prefill-1")),
            (Some(1), None)
        );
    }
}
