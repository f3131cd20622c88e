//! What is found by the host of a request, the most specific first.

use std::{collections::HashMap, sync::Arc};

use crate::route::HostPattern;

/// Longest name of a host (RFC 1035, 2.3.4), in bytes.
const LONGEST: usize = 253;

/// Values by hostname.
#[derive(Debug)]
pub(super) struct HostIndex<T> {
    exact: HashMap<Arc<str>, T>,
    /// By the name after `*.`.
    below: HashMap<Arc<str>, T>,
    any: Option<T>,
}

/// Where a host is written in lower case if it is not.
#[derive(Debug)]
pub(super) struct HostBuffer([u8; LONGEST]);

// === HostIndex ===

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            any: None,
        }
    }
}

impl<T: Default> HostIndex<T> {
    /// The value of this hostname; `None`: of any host.
    pub(super) fn entry(&mut self, hostname: Option<&HostPattern>) -> &mut T {
        match hostname {
            None => self.any.get_or_insert_default(),
            Some(pattern @ HostPattern::Exact(_)) => {
                self.exact.entry(pattern.name().into()).or_default()
            }
            Some(pattern @ HostPattern::Below(_)) => {
                self.below.entry(pattern.name().into()).or_default()
            }
        }
    }
}

impl<T> HostIndex<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_none()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let named = self.exact.values_mut().chain(self.below.values_mut());
        named.chain(&mut self.any)
    }

    /// The values for a host, which is in lower case and may be empty; the most specific first.
    pub(super) fn matching<'s>(&'s self, host: &str) -> impl Iterator<Item = &'s T> {
        let exact = self.exact.get(host);
        let has_any_below = !self.below.is_empty();
        let suffixes = host
            .match_indices('.')
            .filter(move |(at, _)| has_any_below && *at > 0)
            .filter_map(|(at, _)| self.below.get(&host[at + 1..]));
        exact.into_iter().chain(suffixes).chain(&self.any)
    }
}

// === HostBuffer ===

impl Default for HostBuffer {
    fn default() -> Self {
        Self([0; LONGEST])
    }
}

impl HostBuffer {
    /// The host of an authority (`host`, `host:port`), in lower case and without a dot at its end.
    /// Empty if it cannot be the name of one.
    pub(super) fn host_of<'s>(&'s mut self, authority: &'s str) -> &'s str {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.len() > LONGEST {
            return "";
        }
        if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return host;
        }
        let lower = &mut self.0[..host.len()];
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        str::from_utf8(lower).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_without_port_case_and_final_dot() {
        for (authority, host) in [
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com", "example.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(
                HostBuffer::default().host_of(authority),
                host,
                "{authority}"
            );
        }
        assert_eq!(HostBuffer::default().host_of(&"a.".repeat(200)), "");
    }

    #[test]
    fn the_most_specific_hostname_is_first() {
        let mut index = HostIndex::<&str>::default();
        for text in ["*.com", "*.example.com", "a.example.com", "*.a.example.com"] {
            *index.entry(Some(&text.parse().expect("a hostname"))) = text;
        }
        *index.entry(None) = "any";
        let found = |host| index.matching(host).copied().collect::<Vec<_>>();
        assert_eq!(
            found("a.example.com"),
            ["a.example.com", "*.example.com", "*.com", "any"]
        );
        assert_eq!(
            found("b.a.example.com"),
            ["*.a.example.com", "*.example.com", "*.com", "any"]
        );
        assert_eq!(found("example.com"), ["*.com", "any"]);
        assert_eq!(found(".example.com"), ["*.com", "any"]);
        assert_eq!(found(""), ["any"]);
    }
}
