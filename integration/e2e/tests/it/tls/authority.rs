//! Certificates made on the spot, in folders as Kubernetes mounts them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A mounted Secret: the files are links into `..data`, which is a link that kubelet swaps.
pub(crate) struct Mounted {
    folder: TempDir,
    swaps: AtomicU64,
}

// === Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Signs for these hosts, until the end of this year.
    pub(crate) fn sign(&self, hosts: &[&str], year: i32) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Signed {
            certificate,
            key: key.serialize_pem(),
        }
    }

    /// For planes on the loopback.
    pub(crate) fn local(&self) -> Signed {
        self.sign(&["localhost", "127.0.0.1"], 2090)
    }
}

// === Mounted ===

impl Mounted {
    pub(crate) fn new(authorities: &[&Authority], own: &Signed) -> Self {
        let mounted = Self {
            folder: TempDir::new().expect("a folder"),
            swaps: AtomicU64::new(0),
        };
        mounted.swap(authorities, own);
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), mounted.path().join(file)).expect("a link");
        }
        mounted
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Changes all files at once, as kubelet does.
    pub(crate) fn swap(&self, authorities: &[&Authority], own: &Signed) {
        let name = format!("..{}", self.swaps.fetch_add(1, Ordering::Relaxed));
        let folder = self.path().join(&name);
        fs::create_dir(&folder).expect("a folder");
        let authorities: String = authorities
            .iter()
            .map(|authority| authority.pem.as_str())
            .collect();
        for (file, text) in [
            ("ca.crt", &authorities),
            ("tls.crt", &own.certificate),
            ("tls.key", &own.key),
        ] {
            fs::write(folder.join(file), text).expect("written");
        }
        symlink(&name, self.path().join("..new")).expect("a link");
        fs::rename(self.path().join("..new"), self.path().join("..data")).expect("swapped");
    }

    /// Writes one file in place, not atomically as Kubernetes does.
    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path().join(file), text).expect("written");
    }
}
