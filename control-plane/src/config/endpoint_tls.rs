//! How endpoints at `https` addresses are verified.

use std::{collections::BTreeMap, fmt, io, path::Path, sync::Arc};

use hermes_core::{address::DnsName, policy::EndpointTrust};
use hermes_runtime::{regular_file, tls::AuthorityList};

use super::{Config, error::ConfigError, error::ConfigErrors, section::Section};

/// The mapping `tls` of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointTlsConfig {
    /// A file with the certificates of the authorities; those of the system if absent.
    pub ca_file: Option<Arc<Path>>,
    /// The name that every endpoint's certificate has; the host of each if absent.
    pub server_name: Option<DnsName>,
}

/// The files of authorities that a configuration names: their certificates in PEM, or why there are
/// none. What else a file holds is not kept: the certificates are sent to every proxy.
#[derive(Clone, Default, PartialEq, Eq)]
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
        let of_pools = config.pools.iter().map(|pool| pool.tls.ca_file.as_ref());
        let of_objects = config.inference_pools.iter().map(|pools| pools.ca_file());
        Self::read(of_pools.chain(of_objects).flatten().cloned())
    }

    /// Reads the same files again. Blocks.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::read(self.0.keys().cloned())
    }

    fn read(paths: impl Iterator<Item = Arc<Path>>) -> Self {
        let content = |path: Arc<Path>| {
            let certificates = read_certificates(&path);
            (path, certificates.map(Arc::from))
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
            match self.authorities(path, format!("pool {}: tls.caFile", pool.name)) {
                Ok(trust) => pool.policy.trust = trust,
                Err(error) => errors.push(error),
            }
        }
        if let Some(pools) = &mut config.inference_pools
            && let Some(path) = pools.ca_file()
        {
            match self.authorities(path, "inferencePools.policy.tls.caFile".to_owned()) {
                Ok(trust) => pools.trust = trust,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(errors)
        }
    }

    /// The authorities of the file that a key names.
    fn authorities(&self, file: &Path, key: String) -> Result<EndpointTrust, ConfigError> {
        let read = self.0.get(file).cloned();
        match read.unwrap_or_else(|| Err("it was not read".to_owned())) {
            Ok(pem) => Ok(EndpointTrust::Authorities(pem)),
            Err(problem) => Err(ConfigError {
                path: key,
                found: format!("{}: {problem}", file.display()),
                fix: "expected a file with CA certificates in PEM and no other sections, of at most 64 KiB"
                    .to_owned(),
            }),
        }
    }
}

/// The paths, and what was read in words: the text would fill screens.
impl fmt::Debug for AuthorityFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |read: &Result<Arc<str>, String>| match read {
            Ok(pem) => format!("{} bytes of certificates", pem.len()),
            Err(problem) => problem.clone(),
        };
        let files = self.0.iter().map(|(path, content)| (path, read(content)));
        f.debug_map().entries(files).finish()
    }
}

/// The certificates of a file in PEM, and nothing else that it holds.
fn read_certificates(path: &Path) -> Result<String, String> {
    let text = read_pem(path).map_err(|error| error.to_string())?;
    let list = AuthorityList::parse(&text).map_err(|error| error.to_string())?;
    let pem = list.to_string();
    // Lines break where they did not in the file.
    if pem.len() > EndpointTrust::MAX_BYTES {
        return Err("larger than 64 KiB".to_owned());
    }
    Ok(pem)
}

fn read_pem(path: &Path) -> io::Result<String> {
    let invalid = |problem: &str| io::Error::new(io::ErrorKind::InvalidData, problem);
    let pem = regular_file::read(path, EndpointTrust::MAX_BYTES)?;
    if pem.len() > EndpointTrust::MAX_BYTES {
        return Err(invalid("larger than 64 KiB"));
    }
    String::from_utf8(pem).map_err(|_| invalid("stream did not contain valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// A pool whose file of authorities holds `content`, completed; and what its debug format is.
    fn completed(content: &str) -> (Result<Config, ConfigErrors>, String) {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("authorities.pem");
        fs::write(&path, content).expect("written");
        let text = format!(
            "pools: [{{name: a, endpoints: ['https://10.0.0.7'], tls: {{caFile: {}}}}}]",
            path.display()
        );
        let config = Config::parse(&text).expect("a good configuration");
        let files = AuthorityFiles::of(&config);
        (files.complete(config), format!("{files:?}"))
    }

    /// A certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("no names");
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn proxies_get_the_certificates_of_the_file_and_nothing_else() {
        let (certificate, _) = pair();
        let (config, debug) = completed(&format!("# password: x\n{certificate}# end"));
        let config = config.expect("a list of one");
        let trust = EndpointTrust::Authorities(certificate.as_str().into());
        assert_eq!(config.pools[0].policy.trust, trust);
        assert!(debug.contains("bytes of certificates"), "{debug}");
    }

    #[test]
    fn a_private_key_in_the_file_is_refused_and_reaches_no_error_and_no_debug_format() {
        let (certificate, key) = pair();
        for content in [format!("{certificate}{key}"), format!("{key}{certificate}")] {
            let (config, debug) = completed(&content);
            let error = config.expect_err("a private key").to_string();
            for part in ["pool a: tls.caFile", "authorities.pem", "a private key"] {
                assert!(error.contains(part), "{part}: {error}");
            }
            let mut secret = key.lines().filter(|line| !line.starts_with('-'));
            assert!(secret.all(|line| !error.contains(line) && !debug.contains(line)));
        }
    }
}
