//! URLs of servers inside the cluster: `http://host:port`, and where allowed a path.

use std::net::Ipv6Addr;

/// The parts of a URL, checked; the host is in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerUrl<'a> {
    /// A DNS name, an IPv4 address, or an IPv6 address in brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// From the first `/`; empty when there is none.
    pub(super) path: &'a str,
}

/// Why a URL is rejected; the text says what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    #[error(
        "expected http:// (https is not supported: engines are reached inside the cluster, over plain http)"
    )]
    Https,
    #[error("expected http://, as in http://10.0.0.7:8000")]
    Scheme,
    #[error("remove user and password")]
    Credentials,
    #[error("expected a DNS name, an IPv4 address or an IPv6 address in brackets as the host")]
    Host,
    #[error("expected a port from 1 to 65535, as in http://10.0.0.7:8000")]
    Port,
    #[error("remove the query and the fragment")]
    Query,
}

impl<'a> ServerUrl<'a> {
    pub(super) fn parse(url: &'a str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(UrlError::Https);
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(UrlError::Scheme);
        }
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = split_port(authority)?;
        if !is_host(host) || !is_path_text(path) {
            return Err(UrlError::Host);
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            path,
        })
    }
}

/// Whether `path` can stand in a request line as it is, and names one place only.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && is_path_text(path)
        && !path.split('/').any(|part| part == "." || part == "..")
}

fn is_path_text(path: &str) -> bool {
    path.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b))
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), UrlError> {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[host_end..].find(':') else {
        return Ok((authority, None));
    };
    let (host, port) = authority.split_at(host_end + colon);
    let digits = port[1..].bytes().all(|b| b.is_ascii_digit());
    let port = port[1..]
        .parse()
        .ok()
        .filter(|port| digits && *port > 0)
        .ok_or(UrlError::Port)?;
    Ok((host, Some(port)))
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let known = bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        known && (1..=63).contains(&bytes.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_in_lower_case() {
        let parts =
            |url| ServerUrl::parse(url).map(|address| (address.host, address.port, address.path));
        assert_eq!(
            parts("http://10.0.0.7:8000"),
            Ok(("10.0.0.7".to_owned(), Some(8000), ""))
        );
        assert_eq!(
            parts("HTTP://Mooncake.AI/match"),
            Ok(("mooncake.ai".to_owned(), None, "/match"))
        );
        assert_eq!(
            parts("http://[fd00::7]:80/"),
            Ok(("[fd00::7]".to_owned(), Some(80), "/"))
        );
    }

    #[test]
    fn each_kind_of_wrong_url_has_its_error() {
        let cases = [
            ("https://a:1", UrlError::Https),
            ("a:1", UrlError::Scheme),
            ("ftp://a:1", UrlError::Scheme),
            ("http://user:secret@a:1", UrlError::Credentials),
            ("http://:1", UrlError::Host),
            ("http://a..b:1", UrlError::Host),
            ("http://[::g]:1", UrlError::Host),
            ("http://a b:1", UrlError::Host),
            ("http://a:0", UrlError::Port),
            ("http://a:65536", UrlError::Port),
            ("http://a:+1", UrlError::Port),
            ("http://a:1/?q", UrlError::Query),
        ];
        for (url, reason) in cases {
            assert_eq!(ServerUrl::parse(url), Err(reason), "{url}");
        }
    }

    #[test]
    fn a_path_names_one_place() {
        assert!(is_path("/v2/embed") && is_path("/"));
        for path in ["", "v2", "/a/../b", "/a b", "/a?b", "/%2e"] {
            assert!(!is_path(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "(http://)?\\PC{0,40}|http://[a-z0-9:@/\\[\\].?#-]{0,30}") {
            let _ = ServerUrl::parse(&text);
        }
    }
}
