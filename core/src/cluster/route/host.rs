//! Hostnames of routes and listeners: a name, or all names below one.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::address::{AddressError, DnsName};

/// Which hosts are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This one.
    Exact(DnsName),
    /// Those that have this name after one or more labels: `*.example.com`.
    Below(DnsName),
}

impl HostPattern {
    /// The name, without `*.`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Exact(name) | Self::Below(name) => name.as_str(),
        }
    }

    /// How specific it is for a host, which is in lower case; `None` if that is not meant. Of two
    /// patterns for one host the greater one is the more specific.
    #[must_use]
    pub fn specificity(&self, host: &str) -> Option<(bool, usize)> {
        let is_meant = match self {
            Self::Exact(name) => name.as_str() == host,
            Self::Below(name) => {
                let labels = host.strip_suffix(name.as_str());
                labels.is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
        };
        is_meant.then(|| (matches!(self, Self::Exact(_)), self.name().len()))
    }
}

impl FromStr for HostPattern {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("*.") {
            Some(name) => name.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_more_specific_than_a_star_and_a_long_name_than_a_short_one() {
        let of = |text: &str, host| {
            let pattern: HostPattern = text.parse().expect("a hostname");
            pattern.specificity(host)
        };
        let host = "a.example.com";
        assert!(of("a.example.com", host) > of("*.example.com", host));
        assert!(of("*.example.com", host) > of("*.com", host));
        for (pattern, other) in [
            ("*.example.com", "example.com"),
            ("*.example.com", ".example.com"),
            ("*.example.com", "badexample.com"),
            ("a.example.com", "b.example.com"),
        ] {
            assert_eq!(of(pattern, other), None, "{pattern} for {other}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_a_star_before_one() {
        for text in ["example.com", "*.example.com", "*.com"] {
            let pattern: HostPattern = text.parse().expect("a hostname");
            assert_eq!(pattern.to_string(), text);
        }
        assert_eq!(
            "*.Example.COM"
                .parse::<HostPattern>()
                .expect("a name")
                .name(),
            "example.com"
        );
        for text in [
            "", "*", "*.", "a.*.com", "10.0.0.7", "[::1]", "a:80", "a..b", "*.*.com",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
