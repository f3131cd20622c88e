//! Where a server that speaks HTTP is, as one checked value.
//!
//! ```text
//!   https://gateway.example:8443/v1-proxy
//!   scheme  host            port base path      and the name that its certificate is verified for
//! ```
//!
//! Invariants: the text of an address is normalized (lower case, the port always written, no slash
//! at the end), two spellings of one address are equal, and parsing the text of an address gives
//! the address back, but for its server name, which no URL has.

mod text;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
    sync::Arc,
};

use serde::{Serialize, Serializer, ser::SerializeStruct};

pub use self::text::{MAX_BASE_PATH, UrlParts, is_path};

/// Whether a connection is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerScheme {
    /// Plain TCP.
    #[default]
    Http,
    /// TLS, and the server's certificate is verified.
    Https,
}

/// The host of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerHost {
    /// An address, used as it is.
    Ip(IpAddr),
    /// A name, which may have several addresses.
    Name(DnsName),
}

/// A DNS name in lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DnsName(Arc<str>);

/// Where a server is and how it is spoken to. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerAddress {
    scheme: ServerScheme,
    host: ServerHost,
    port: NonZeroU16,
    base_path: Arc<str>,
    server_name: Option<DnsName>,
    /// `host:port`, written once: requests need it.
    authority: Arc<str>,
}

/// Why a text is no address; says what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.expected())]
pub enum AddressError {
    /// Another scheme, or none.
    Scheme,
    /// `user:password@`.
    Credentials,
    /// Neither a name nor an address.
    Host,
    /// No number, or one out of range.
    Port,
    /// `?` or `#`.
    Query,
    /// Characters that would have to be escaped, `.` or `..`, an empty part, or too long.
    BasePath,
    /// No DNS name.
    ServerName,
}

// === AddressError ===

impl AddressError {
    /// What would be right.
    #[must_use]
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Scheme => "expected http:// or https://, as in http://10.0.0.7:8000",
            Self::Credentials => "remove user and password",
            Self::Host => {
                "expected a DNS name, an IPv4 address or an IPv6 address in brackets as the host"
            }
            Self::Port => "expected a port from 1 to 65535, as in http://10.0.0.7:8000",
            Self::Query => "remove the query and the fragment",
            Self::BasePath => {
                "expected a path such as /proxy, of at most 1024 letters, digits and \
                 -._~!$&'()*+,;=:@, without the parts `.`, `..` and the empty one"
            }
            Self::ServerName => "expected a DNS name, such as engines.example.com",
        }
    }
}

// === ServerScheme ===

impl ServerScheme {
    /// As it stands in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL without one.
    #[must_use]
    pub const fn default_port(self) -> NonZeroU16 {
        match self {
            Self::Http => NonZeroU16::new(80).expect("not zero"),
            Self::Https => NonZeroU16::new(443).expect("not zero"),
        }
    }
}

// === ServerHost ===

impl FromStr for ServerHost {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        text::host(text).ok_or(AddressError::Host)
    }
}

impl fmt::Display for ServerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

// === DnsName ===

impl DnsName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let name = text::name(text).ok_or(AddressError::ServerName)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === ServerAddress ===

impl ServerAddress {
    /// A server without a base path, verified for its host if at all.
    #[must_use]
    pub fn new(scheme: ServerScheme, host: ServerHost, port: NonZeroU16) -> Self {
        let authority = format!("{host}:{port}").into();
        Self {
            scheme,
            host,
            port,
            base_path: Arc::from(""),
            server_name: None,
            authority,
        }
    }

    /// A server at an IP address.
    #[must_use]
    pub fn at(scheme: ServerScheme, ip: IpAddr, port: NonZeroU16) -> Self {
        Self::new(scheme, ServerHost::Ip(ip), port)
    }

    /// Reads `SCHEME://HOST[:PORT][/BASE]`. An absent port is the scheme's.
    ///
    /// # Errors
    /// The first part that is not right.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let UrlParts {
            scheme,
            host,
            port,
            path,
        } = UrlParts::parse(url)?;
        Self::new(scheme, host, port.unwrap_or(scheme.default_port())).with_base_path(path)
    }

    /// The same server with its pages below `path`; a slash at its end is dropped.
    ///
    /// # Errors
    /// When `path` is neither empty nor a path that can stand in a request line as it is.
    pub fn with_base_path(self, path: &str) -> Result<Self, AddressError> {
        let base = text::base_path(path).ok_or(AddressError::BasePath)?;
        Ok(Self {
            base_path: base.into(),
            ..self
        })
    }

    /// The same server, whose certificate is verified for `name` instead of its host. It gets the
    /// name with the handshake and with every request.
    #[must_use]
    pub fn with_server_name(self, name: DnsName) -> Self {
        Self {
            server_name: Some(name),
            ..self
        }
    }

    /// Whether connections are secured.
    #[must_use]
    pub const fn scheme(&self) -> ServerScheme {
        self.scheme
    }

    /// Whether the scheme is `https`.
    #[must_use]
    pub const fn is_secured(&self) -> bool {
        matches!(self.scheme, ServerScheme::Https)
    }

    /// The host, without brackets.
    #[must_use]
    pub const fn host(&self) -> &ServerHost {
        &self.host
    }

    /// From 1 to 65535.
    #[must_use]
    pub const fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// What stands before the path of every request: empty, or with a slash at its beginning and
    /// none at its end.
    #[must_use]
    pub const fn base_path(&self) -> &Arc<str> {
        &self.base_path
    }

    /// The name that the certificate is verified for, where it is not the host.
    #[must_use]
    pub const fn server_name(&self) -> Option<&DnsName> {
        self.server_name.as_ref()
    }

    /// `host:port`, with an IPv6 address in brackets.
    #[must_use]
    pub const fn authority(&self) -> &Arc<str> {
        &self.authority
    }

    /// The value of the header `Host`: the server name, or else the host, with the port unless it
    /// is the scheme's.
    #[must_use]
    pub fn host_header(&self) -> String {
        let name = self.server_name.as_ref();
        let host = name.map_or_else(|| self.host.to_string(), DnsName::to_string);
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The URL of a page of this server, whose `path` begins with a slash.
    #[must_use]
    pub fn page(&self, path: &str) -> String {
        format!("{self}{path}")
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        Self::parse(url)
    }
}

/// Of a socket, which has a port: plain HTTP.
impl TryFrom<SocketAddr> for ServerAddress {
    type Error = AddressError;

    fn try_from(socket: SocketAddr) -> Result<Self, AddressError> {
        let port = NonZeroU16::new(socket.port()).ok_or(AddressError::Port)?;
        Ok(Self::at(ServerScheme::Http, socket.ip(), port))
    }
}

/// The URL.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scheme,
            authority,
            base_path,
            ..
        } = self;
        write!(f, "{}://{authority}{base_path}", scheme.as_str())
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server_name {
            Some(name) => write!(f, "{self} as {name}"),
            None => write!(f, "{self}"),
        }
    }
}

/// For people: `url`, and `server_name` where there is one.
impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = usize::from(self.server_name.is_some());
        let mut fields = serializer.serialize_struct("ServerAddress", 1 + named)?;
        fields.serialize_field("url", &format_args!("{self}"))?;
        if let Some(name) = &self.server_name {
            fields.serialize_field("server_name", name)?;
        }
        fields.end()
    }
}

#[cfg(test)]
mod tests;
