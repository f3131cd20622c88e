//! The header `Host` that endpoints get.

use hermes_core::address::{ServerAddress, ServerHost};
use http::HeaderValue;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum LegHost {
    /// Its own address.
    #[default]
    Endpoints,
    /// What the client asked, if the endpoint is known by an IP address, as a pod is. One that is
    /// known by a name may serve several hosts, and gets its own.
    OfAddresses(HeaderValue),
    /// This.
    Always(HeaderValue),
}

impl LegHost {
    /// The host that is stated for other endpoints than those with one of their own.
    pub(crate) fn stated(&self) -> Option<&str> {
        match self {
            Self::Endpoints => None,
            Self::OfAddresses(host) | Self::Always(host) => host.to_str().ok(),
        }
    }

    /// The header for the endpoint at `address`, which is `own` there.
    pub(crate) fn at<'h>(
        &'h self,
        address: &ServerAddress,
        own: &'h HeaderValue,
    ) -> &'h HeaderValue {
        match self {
            Self::Endpoints => own,
            Self::Always(host) => host,
            Self::OfAddresses(host) => match (address.host(), address.server_name()) {
                (ServerHost::Ip(_), None) => host,
                _ => own,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_known_by_a_name_gets_its_own() {
        let own = HeaderValue::from_static("own");
        let asked = HeaderValue::from_static("asked");
        let at = |host: &LegHost, url: &str| {
            let address: ServerAddress = url.parse().expect("an address");
            host.at(&address, &own).clone()
        };
        let (pod, named) = ("http://10.0.0.7:8000", "https://engines.example");
        let host = LegHost::OfAddresses(asked.clone());
        assert_eq!(
            (at(&host, pod), at(&host, named)),
            (asked.clone(), own.clone())
        );
        let host = LegHost::Always(asked.clone());
        assert_eq!((at(&host, pod), at(&host, named)), (asked.clone(), asked));
        assert_eq!(at(&LegHost::Endpoints, pod), own);
    }
}
