//! Where servers are.

use std::num::NonZeroU16;

use hermes_core::address::{AddressError, ServerAddress, ServerScheme};

use super::Invalid;
use crate::v1;

impl From<&ServerAddress> for v1::ServerAddress {
    fn from(address: &ServerAddress) -> Self {
        let scheme = match address.scheme() {
            ServerScheme::Http => v1::Scheme::Http,
            ServerScheme::Https => v1::Scheme::Https,
        };
        Self {
            scheme: scheme.into(),
            host: address.host().to_string(),
            port: address.port().get().into(),
            base_path: address.base_path().to_string(),
            server_name: address.server_name().map(ToString::to_string),
        }
    }
}

impl TryFrom<v1::ServerAddress> for ServerAddress {
    type Error = Invalid;

    fn try_from(wire: v1::ServerAddress) -> Result<Self, Invalid> {
        let v1::ServerAddress {
            scheme,
            host,
            port,
            base_path,
            server_name,
        } = wire;
        let scheme = match v1::Scheme::try_from(scheme) {
            Ok(v1::Scheme::Http) => ServerScheme::Http,
            Ok(v1::Scheme::Https) => ServerScheme::Https,
            Err(_) => {
                return Err(Invalid::new("scheme", "is not one that this release knows"));
            }
        };
        let host = host.parse().map_err(|error| wrong("host", error))?;
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
        let port = port.ok_or_else(|| wrong("port", AddressError::Port))?;
        let address = Self::new(scheme, host, port)
            .with_base_path(&base_path)
            .map_err(|error| wrong("base_path", error))?;
        match server_name {
            None => Ok(address),
            Some(name) => {
                let name = name.parse().map_err(|error| wrong("server_name", error))?;
                Ok(address.with_server_name(name))
            }
        }
    }
}

fn wrong(field: &str, error: AddressError) -> Invalid {
    Invalid::new(field, error.expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(url: &str) -> v1::ServerAddress {
        v1::ServerAddress::from(&ServerAddress::parse(url).expect("an address"))
    }

    #[test]
    fn an_address_survives_the_wire() {
        for url in [
            "http://10.0.0.7:8000",
            "https://[fd00::7]:8443/v1-proxy",
            "https://engines.example",
        ] {
            let address = ServerAddress::parse(url).expect("an address");
            assert_eq!(ServerAddress::try_from(wire(url)), Ok(address.clone()));
            let named = address.with_server_name("engines".parse().expect("a name"));
            let wire = v1::ServerAddress::from(&named);
            assert_eq!(ServerAddress::try_from(wire), Ok(named));
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let right = wire("https://h:1/base");
        let with = |change: fn(&mut v1::ServerAddress)| {
            let mut wire = right.clone();
            change(&mut wire);
            ServerAddress::try_from(wire).map_err(|invalid| invalid.field)
        };
        let wrong = |field: &str| Err(field.to_owned());
        assert_eq!(with(|wire| wire.scheme = 7), wrong("scheme"));
        assert_eq!(with(|wire| wire.host.clear()), wrong("host"));
        assert_eq!(with(|wire| wire.port = 0), wrong("port"));
        assert_eq!(with(|wire| wire.port = 70_000), wrong("port"));
        assert_eq!(
            with(|wire| wire.base_path.push_str("/..")),
            wrong("base_path")
        );
        assert_eq!(
            with(|wire| wire.server_name = Some("10.0.0.7".to_owned())),
            wrong("server_name")
        );
    }
}
