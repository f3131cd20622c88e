//! The syntax of an address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use super::{AddressError, ServerHost, ServerScheme};

/// Longest base path in bytes.
pub const MAX_BASE_PATH: usize = 1_024;

/// The parts of a URL as they are written: for addresses whose defaults depend on what is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlParts<'a> {
    /// Before `://`.
    pub scheme: ServerScheme,
    /// A name in lower case, or an address.
    pub host: ServerHost,
    /// `None` when the URL names no port.
    pub port: Option<NonZeroU16>,
    /// From the first `/`; empty when there is none. Its characters can stand in a request line as
    /// they are.
    pub path: &'a str,
}

impl<'a> UrlParts<'a> {
    /// Reads `SCHEME://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// The first part that is not right.
    pub fn parse(url: &'a str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => ServerScheme::Http,
            _ if scheme.eq_ignore_ascii_case("https") => ServerScheme::Https,
            _ => return Err(AddressError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(AddressError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (host_text, port) = split_port(authority)?;
        let host = host(host_text).ok_or(AddressError::Host)?;
        if !is_path_text(path) {
            return Err(AddressError::BasePath);
        }
        Ok(Self {
            scheme,
            host,
            port,
            path,
        })
    }
}

/// Whether `path` can stand in a request line as it is, and names one place only.
#[must_use]
pub fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && is_path_text(path)
        && !path.split('/').any(|part| part == "." || part == "..")
}

fn is_path_text(path: &str) -> bool {
    path.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b))
}

/// `path` without its slash at the end, if it may stand before the path of a request.
pub(super) fn base_path(path: &str) -> Option<&str> {
    let base = path.strip_suffix('/').unwrap_or(path);
    let is_right =
        base.len() <= MAX_BASE_PATH && is_path(base) && base[1..].split('/').all(|p| !p.is_empty());
    (base.is_empty() || is_right).then_some(base)
}

fn split_port(authority: &str) -> Result<(&str, Option<NonZeroU16>), AddressError> {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[host_end..].find(':') else {
        return Ok((authority, None));
    };
    let (host, port) = authority.split_at(host_end + colon);
    let digits = port[1..].bytes().all(|b| b.is_ascii_digit());
    let port = port[1..].parse().ok().filter(|_| digits);
    Ok((host, Some(port.ok_or(AddressError::Port)?)))
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn host(text: &str) -> Option<ServerHost> {
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let address: Ipv6Addr = inner.parse().ok()?;
        return Some(ServerHost::Ip(IpAddr::V6(address)));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(ServerHost::Ip(IpAddr::V4(address)));
    }
    Some(ServerHost::Name(text.parse().ok()?))
}

/// A DNS name in lower case. One that ends in a number, decimal or hexadecimal, is none: resolvers
/// read `10.1` or `0x7f000001` as an address, each its own way.
pub(super) fn name(text: &str) -> Option<String> {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let known = bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        known && (1..=63).contains(&bytes.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_name = text.len() <= 253 && !is_number(last) && text.split('.').all(label);
    is_name.then(|| text.to_ascii_lowercase())
}

/// Whether the last label of a host makes it an IPv4 address to URL parsers (WHATWG URL, "ends in a
/// number"): digits alone, or hexadecimal ones after `0x`.
fn is_number(label: &str) -> bool {
    let hexadecimal = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}
