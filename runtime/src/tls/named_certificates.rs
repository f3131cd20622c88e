//! Certificates of servers by name: below one folder, a folder for each, with `tls.crt` and
//! `tls.key`; or as they were sent.
//!
//! The layout is that of Secrets of the type `kubernetes.io/tls`, each mounted as a folder. Which
//! names are wanted changes while the process runs; the folders of those are read again and again.
//! What is in a folder is what the operator of this process has put there: it is used, and one of
//! the same name that was sent is not.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use tokio::task;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{
    CERTIFICATE, KEY, Problem, TlsError, folder::read_file, identity::own_certificate,
    parties::provider,
};

/// A certificate with its key.
pub struct NamedCertificate {
    key: Arc<CertifiedKey>,
    /// The DNS names that it has, in lower case.
    hosts: Vec<String>,
}

/// What handshakes choose from. Clones share what is newest.
#[derive(Clone, Default)]
pub struct CertificateStore(Arc<ArcSwap<BTreeMap<Arc<str>, Arc<NamedCertificate>>>>);

/// A certificate that is wanted.
#[derive(Clone, Debug)]
pub struct WantedCertificate {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is one that is sent: no folder of its name is missing then.
    pub is_sent: bool,
    /// What was sent under its name.
    pub sent: Option<Arc<NamedCertificate>>,
}

/// The folder, and what was last read of it.
pub struct CertificateFolders {
    /// `None`: there is no certificate.
    folder: Option<PathBuf>,
    seen: BTreeMap<Arc<str>, Result<NamedCertificateFiles, String>>,
    /// The last good ones of the folder.
    good: BTreeMap<Arc<str>, Arc<NamedCertificate>>,
    store: CertificateStore,
}

/// What a folder holds, byte by byte. Has no `Debug`: one of them is a key.
#[derive(PartialEq, Eq)]
struct NamedCertificateFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

// === NamedCertificate ===

impl NamedCertificate {
    /// What a handshake shows.
    #[must_use]
    pub const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether one of its names is that of `host`, which is in lower case; a star is one label (RFC
    /// 9525, 6.3).
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let below = host.split_once('.').map(|(_, below)| below);
        let mut names = self.hosts.iter();
        names.any(|name| {
            name == host
                || name
                    .strip_prefix("*.")
                    .is_some_and(|name| below == Some(name))
        })
    }

    /// A certificate, with what leads to an authority, and its key, both in PEM.
    ///
    /// # Errors
    /// Which of the two is wrong, by the name that it has in a Secret, and how: one is not what it
    /// should be, or the key is another certificate's.
    pub fn of(chain: &[u8], key: &[u8]) -> Result<Self, (&'static str, Problem)> {
        let (key, _) = own_certificate(chain, key, &provider())?;
        let own = key.cert.first();
        let hosts = own.map(|own| hosts_of(own)).unwrap_or_default();
        Ok(Self { key, hosts })
    }

    fn read(folder: &Path, files: &NamedCertificateFiles) -> Result<Self, TlsError> {
        let named = |(file, problem)| TlsError::Content {
            folder: folder.to_owned(),
            file,
            problem,
        };
        Self::of(&files.certificate, &files.key).map_err(named)
    }
}

/// The DNS names of a certificate.
fn hosts_of(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

impl fmt::Debug for NamedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NamedCertificate");
        shown.field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

// === CertificateStore ===

impl CertificateStore {
    /// The certificate of this name, if it could be read.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<NamedCertificate>> {
        self.0.load().get(name).map(Arc::clone)
    }

    fn replace(&self, newest: BTreeMap<Arc<str>, Arc<NamedCertificate>>) {
        let before = self.0.load();
        let is_same = before.len() == newest.len()
            && (newest.iter().zip(before.iter()))
                .all(|(new, old)| new.0 == old.0 && Arc::ptr_eq(new.1, old.1));
        if !is_same {
            self.0.store(Arc::new(newest));
        }
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().keys()).finish()
    }
}

// === CertificateFolders ===

impl CertificateFolders {
    /// Certificates below `folder`. Nothing is read yet.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self {
            folder,
            seen: BTreeMap::new(),
            good: BTreeMap::new(),
            store: CertificateStore::default(),
        }
    }

    /// Where handshakes find them.
    #[must_use]
    pub fn store(&self) -> CertificateStore {
        self.store.clone()
    }

    /// Why the certificate of this name is not there, or not the newest one, as it was last read.
    #[must_use]
    pub fn problem(&self, name: &str) -> Option<&str> {
        let seen = self.seen.get(name)?;
        seen.as_ref().err().map(String::as_str)
    }

    /// Whether the folder of this name has a certificate, as it was last read.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        matches!(self.seen.get(name), Some(Ok(_)))
    }

    /// Reads the certificates that are wanted, and forgets the others. What changed is logged: of
    /// one that is refused the last good one stays, unless another one was sent.
    pub async fn read(&mut self, wanted: Vec<WantedCertificate>) {
        let is_wanted = |name: &Arc<str>| wanted.iter().any(|wanted| wanted.name == *name);
        self.seen.retain(|name, _| is_wanted(name));
        self.good.retain(|name, _| is_wanted(name));
        let mut newest = BTreeMap::new();
        for WantedCertificate {
            name,
            is_sent,
            sent,
        } in wanted
        {
            self.read_one(&name, is_sent).await;
            let good = self.good.get(&name);
            let is_current = matches!(self.seen.get(&name), Some(Ok(_)));
            let used = good.filter(|_| is_current).or(sent.as_ref()).or(good);
            if let Some(used) = used {
                newest.insert(name, Arc::clone(used));
            }
        }
        self.store.replace(newest);
    }

    /// Reads the folder of one certificate, which need not be there if it `is_sent`.
    async fn read_one(&mut self, name: &Arc<str>, is_sent: bool) {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join(&**name)) else {
            if !is_sent {
                let problem = "no folder of certificates is named (--listener-certificates)";
                self.refuse(name, problem.to_owned());
            }
            return;
        };
        let files = match read_files(folder.clone()).await {
            Ok(files) => files,
            Err(error) if is_sent && error.is_absent() => {
                self.seen.remove(name);
                self.good.remove(name);
                return;
            }
            Err(error) => return self.refuse(name, error.to_string()),
        };
        if matches!(self.seen.get(name), Some(Ok(seen)) if *seen == files) {
            return;
        }
        match NamedCertificate::read(&folder, &files) {
            Ok(certificate) => {
                tracing::info!(
                    certificate = &**name,
                    ?certificate,
                    "a certificate is in use"
                );
                self.good.insert(Arc::clone(name), Arc::new(certificate));
                self.seen.insert(Arc::clone(name), Ok(files));
            }
            Err(error) => self.refuse(name, error.to_string()),
        }
    }

    fn refuse(&mut self, name: &Arc<str>, problem: String) {
        let is_known = matches!(self.seen.get(name), Some(Err(known)) if *known == problem);
        if !is_known {
            tracing::warn!(certificate = &**name, %problem, "a certificate is refused, the last good one stays");
            self.seen.insert(Arc::clone(name), Err(problem));
        }
    }
}

impl fmt::Debug for CertificateFolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CertificateFolders");
        shown.field("folder", &self.folder).finish_non_exhaustive()
    }
}

async fn read_files(folder: PathBuf) -> Result<NamedCertificateFiles, TlsError> {
    let path = folder.clone();
    let read = task::spawn_blocking(move || {
        Ok(NamedCertificateFiles {
            certificate: read_file(folder.join(CERTIFICATE))?,
            key: read_file(folder.join(KEY))?,
        })
    });
    read.await.unwrap_or_else(|error| {
        Err(TlsError::Read {
            path,
            source: io::Error::other(error),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    fn write(folder: &Path, name: &str, hosts: &[&str]) {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(hosts).expect("names");
        let certificate = params.self_signed(&key).expect("signed").pem();
        fs::write(folder.join(CERTIFICATE), certificate).expect("written");
        fs::write(folder.join(KEY), key.serialize_pem()).expect("written");
    }

    /// Certificates that are not sent.
    fn names(names: &[&str]) -> Vec<WantedCertificate> {
        let wanted = |name: &&str| wanted(name, false, None);
        names.iter().map(wanted).collect()
    }

    fn wanted(
        name: &str,
        is_sent: bool,
        sent: Option<&Arc<NamedCertificate>>,
    ) -> WantedCertificate {
        WantedCertificate {
            name: name.into(),
            is_sent,
            sent: sent.cloned(),
        }
    }

    fn made(host: &str) -> Arc<NamedCertificate> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let chain = params.self_signed(&key).expect("signed").pem();
        let made = NamedCertificate::of(chain.as_bytes(), key.serialize_pem().as_bytes());
        Arc::new(made.expect("they fit"))
    }

    #[tokio::test]
    async fn wanted_certificates_are_read_and_a_broken_one_leaves_the_last_good_one() {
        let root = TempDir::new().expect("a folder");
        write(root.path(), "a", &["A.example.com", "*.b.com"]);
        let mut folders = CertificateFolders::new(Some(root.path().to_owned()));
        let store = folders.store();
        folders.read(names(&["a", "absent"])).await;
        let first = store.find("a").expect("it is there");
        for (host, expected) in [
            ("a.example.com", true),
            ("x.b.com", true),
            ("b.com", false),
            ("y.x.b.com", false),
        ] {
            assert_eq!(first.is_for(host), expected, "{host}");
        }
        assert!(store.find("absent").is_none());
        let problem = folders.problem("absent").expect("it is known why");
        assert!(problem.contains("tls.crt"), "{problem}");

        fs::write(root.path().join("a").join(KEY), "no key").expect("written");
        folders.read(names(&["a"])).await;
        assert!(Arc::ptr_eq(
            &first,
            &store.find("a").expect("the last good one")
        ));
        assert!(
            folders
                .problem("a")
                .is_some_and(|problem| problem.contains("tls.key"))
        );

        write(root.path(), "a", &["c.com"]);
        folders.read(names(&["a"])).await;
        assert!(store.find("a").expect("the new one").is_for("c.com"));
        assert_eq!(folders.problem("a"), None);
        folders.read(names(&[])).await;
        assert!(store.find("a").is_none(), "it is not wanted any more");
    }

    #[tokio::test]
    async fn without_a_folder_every_certificate_is_missing() {
        let mut folders = CertificateFolders::new(None);
        folders.read(names(&["a"])).await;
        assert!(
            folders
                .problem("a")
                .is_some_and(|problem| problem.contains("--listener-certificates"))
        );
    }

    #[tokio::test]
    async fn a_folder_comes_before_what_was_sent_and_after_it_when_it_is_broken() {
        let root = TempDir::new().expect("a folder");
        let mut folders = CertificateFolders::new(Some(root.path().to_owned()));
        let (store, sent) = (folders.store(), made("sent.com"));
        let is_for = |host| store.find("ai/a").is_some_and(|found| found.is_for(host));
        folders.read(vec![wanted("ai/a", true, None)]).await;
        assert!(store.find("ai/a").is_none());
        assert_eq!(folders.problem("ai/a"), None, "no folder is missing");
        folders.read(vec![wanted("ai/a", true, Some(&sent))]).await;
        assert!(is_for("sent.com"));
        write(root.path(), "ai/a", &["folder.com"]);
        folders.read(vec![wanted("ai/a", true, Some(&sent))]).await;
        assert!(is_for("folder.com"));
        fs::write(root.path().join("ai/a").join(KEY), "no key").expect("written");
        folders.read(vec![wanted("ai/a", true, Some(&sent))]).await;
        assert!(is_for("sent.com"));
        folders.read(vec![wanted("ai/a", true, None)]).await;
        assert!(is_for("folder.com"), "the last good one");
        fs::remove_dir_all(root.path().join("ai")).expect("removed");
        folders.read(vec![wanted("ai/a", true, None)]).await;
        assert!(store.find("ai/a").is_none(), "it was taken away");
    }
}
