//! How endpoints at `https` addresses are verified.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use hermes_core::{address::DnsName, policy::EndpointTrust};
use hermes_runtime::tls::ServerTrust;

use super::{Config, error::ConfigError, error::ConfigErrors, section::Section};

/// The mapping `tls` of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointTlsConfig {
    /// A file with the certificates of the authorities; those of the system if absent.
    pub ca_file: Option<Arc<Path>>,
    /// The name that every endpoint's certificate has; the host of each if absent.
    pub server_name: Option<DnsName>,
}

/// The files of authorities that a configuration names, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityFiles(BTreeMap<Arc<Path>, Result<Arc<str>, String>>);

/// The mapping `tls` of a pool.
pub(super) fn read(section: &mut Section<'_>) -> EndpointTlsConfig {
    EndpointTlsConfig {
        ca_file: section
            .text(
                "caFile",
                "a file with CA certificates in PEM",
                "CA certificates in PEM, at most 64 KiB: the authorities that sign the endpoints' certificates. \
                 Read by the control plane, which sends them to the proxies, and reloaded when it changes.",
            )
            .or_unset("the CA certificates of the machine")
            .map(|path| Arc::from(Path::new(&*path))),
        server_name: section
            .text_where(
                "serverName",
                "a DNS name, such as engines.example.com",
                |name| name.parse::<DnsName>().is_ok(),
                "Name that the endpoints' certificates are verified for; sent in the handshake (SNI) and in `Host`.",
            )
            .or_unset("the host of each endpoint")
            .and_then(|name| name.parse().ok()),
    }
}

// === EndpointTlsConfig ===

impl EndpointTlsConfig {
    /// Whose signature counts, before the file is read: of no authority if there is a file.
    pub(super) fn trust(&self) -> EndpointTrust {
        match self.ca_file {
            Some(_) => EndpointTrust::Authorities("".into()),
            None => EndpointTrust::System,
        }
    }
}

// === AuthorityFiles ===

impl AuthorityFiles {
    /// Reads the files that `config` names. Blocks.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let paths = config
            .pools
            .iter()
            .filter_map(|pool| pool.tls.ca_file.clone());
        Self::read(paths)
    }

    /// Reads the same files again. Blocks.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::read(self.0.keys().cloned())
    }

    fn read(paths: impl Iterator<Item = Arc<Path>>) -> Self {
        let content = |path: Arc<Path>| {
            let pem = read_pem(&path).map_err(|error| error.to_string());
            (path, pem.map(Arc::from))
        };
        Self(paths.map(content).collect())
    }

    /// `config` with the content of its files.
    ///
    /// # Errors
    /// Every file that cannot be read or holds something else.
    pub fn complete(&self, mut config: Config) -> Result<Config, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        for pool in &mut config.pools {
            let Some(path) = &pool.tls.ca_file else {
                continue;
            };
            let read = self.0.get(path).cloned();
            let pem = read.unwrap_or_else(|| Err("it was not read".to_owned()));
            let good = pem.and_then(|pem| match ServerTrust::of(pem.as_bytes()) {
                Ok(_) => Ok(pem),
                Err(error) => Err(error.to_string()),
            });
            match good {
                Ok(pem) => pool.policy.trust = EndpointTrust::Authorities(pem),
                Err(problem) => errors.push(ConfigError {
                    path: format!("pool {}: tls.caFile", pool.name),
                    found: format!("{}: {problem}", path.display()),
                    fix: "expected a file with CA certificates in PEM, of at most 64 KiB"
                        .to_owned(),
                }),
            }
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(errors)
        }
    }
}

fn read_pem(path: &Path) -> io::Result<String> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(invalid("not a file"));
    }
    let (mut pem, limit) = (String::new(), EndpointTrust::MAX_BYTES);
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_string(&mut pem)?;
    if pem.len() > limit {
        return Err(invalid("larger than 64 KiB"));
    }
    Ok(pem)
}
