//! Listeners.

use hermes_core::listener::{Listener, ListenerTls};

use super::{Invalid, route::hostname};
use crate::v1;

impl From<&Listener> for v1::Listener {
    fn from(listener: &Listener) -> Self {
        let Listener {
            name,
            address,
            hostname,
            tls,
            routes_only,
        } = listener;
        Self {
            name: name.to_string(),
            address: address.to_string(),
            hostname: hostname.as_ref().map(ToString::to_string),
            tls: tls.as_ref().map(|tls| v1::ListenerTls {
                certificates: tls.certificates.iter().map(ToString::to_string).collect(),
            }),
            routes_only: *routes_only,
        }
    }
}

impl TryFrom<v1::Listener> for Listener {
    type Error = Invalid;

    fn try_from(wire: v1::Listener) -> Result<Self, Invalid> {
        let v1::Listener {
            name,
            address,
            hostname: host,
            tls,
            routes_only,
        } = wire;
        if name.is_empty() {
            return Err(Invalid::new("name", "is empty; a listener needs a name"));
        }
        let address = address
            .parse()
            .map_err(|_| Invalid::new("address", "must be an IP address and a port"))?;
        Ok(Self {
            name: name.into(),
            address,
            hostname: host.map(|host| hostname(&host, "hostname")).transpose()?,
            tls: tls.map(listener_tls).transpose()?,
            routes_only,
        })
    }
}

fn listener_tls(wire: v1::ListenerTls) -> Result<ListenerTls, Invalid> {
    if wire.certificates.is_empty() {
        let problem = "is empty; a secured listener needs a certificate";
        return Err(Invalid::new("tls.certificates", problem));
    }
    Ok(ListenerTls {
        certificates: wire.certificates.into_iter().map(Into::into).collect(),
    })
}
