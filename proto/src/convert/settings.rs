//! Settings that apply before a pool is known.

use std::time::Duration;

use hermes_core::policy::ProxySettings;

use super::{Invalid, policy::millis};
use crate::v1;

impl From<&ProxySettings> for v1::Settings {
    fn from(settings: &ProxySettings) -> Self {
        let ProxySettings {
            max_body_bytes,
            max_concurrent,
            client_timeout,
            send_timeout,
            keep_alive_timeout,
            expose_endpoint,
            extra_paths,
            cors_origins,
        } = settings;
        Self {
            max_body_bytes: *max_body_bytes,
            max_concurrent: *max_concurrent,
            client_timeout_ms: millis(*client_timeout),
            expose_endpoint: *expose_endpoint,
            extra_paths: extra_paths.iter().map(ToString::to_string).collect(),
            send_timeout_ms: millis(*send_timeout),
            keep_alive_timeout_ms: millis(*keep_alive_timeout),
            cors_origins: cors_origins.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Settings> for ProxySettings {
    type Error = Invalid;

    fn try_from(wire: v1::Settings) -> Result<Self, Invalid> {
        let v1::Settings {
            max_body_bytes,
            max_concurrent,
            client_timeout_ms,
            expose_endpoint,
            extra_paths,
            send_timeout_ms,
            keep_alive_timeout_ms,
            cors_origins,
        } = wire;
        if let Some(index) = extra_paths.iter().position(|path| !path.starts_with('/')) {
            return Err(Invalid::new(
                &format!("extra_paths[{index}]"),
                "must begin with /",
            ));
        }
        let defaults = Self::default();
        Ok(Self {
            max_body_bytes,
            max_concurrent,
            client_timeout: Duration::from_millis(client_timeout_ms),
            send_timeout: or_default(send_timeout_ms, defaults.send_timeout),
            keep_alive_timeout: or_default(keep_alive_timeout_ms, defaults.keep_alive_timeout),
            expose_endpoint,
            extra_paths: extra_paths.into_iter().map(Into::into).collect(),
            cors_origins: cors_origins.into_iter().map(Into::into).collect(),
        })
    }
}

/// A time that control planes of an older release do not send.
const fn or_default(millis: u64, default: Duration) -> Duration {
    match millis {
        0 => default,
        _ => Duration::from_millis(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_older_control_plane_have_the_default_times() {
        let current = v1::Settings::from(&ProxySettings::default());
        let older = v1::Settings {
            send_timeout_ms: 0,
            keep_alive_timeout_ms: 0,
            ..current
        };
        assert_eq!(older.try_into(), Ok(ProxySettings::default()));
    }
}
