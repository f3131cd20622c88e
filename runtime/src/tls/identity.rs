//! From the three files' bytes to checked certificates.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::parse_x509_certificate;

use super::{AUTHORITY, CERTIFICATE, KEY, Problem};

/// What the folder holds, byte by byte. Has no `Debug`: one of them is a key.
#[derive(PartialEq, Eq)]
pub(super) struct Content {
    pub(super) authority: Vec<u8>,
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// This process's certificate, and the authority that it trusts.
pub(super) struct Identity {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) authority: Arc<RootCertStore>,
    /// When the own certificate ends, as Unix time in seconds.
    pub(super) expires: i64,
    /// When the last of the authority's certificates ends, as Unix time in seconds.
    pub(super) authority_expires: i64,
}

/// Which file is wrong, and how.
pub(super) type Mistake = (&'static str, Problem);

// === Identity ===

impl Identity {
    /// Checks everything that can be known without a peer: that each file holds what it should, and
    /// that the key is the certificate's. A certificate that has ended is not refused: the peer
    /// rejects it, and the metric shows it.
    pub(super) fn read(content: &Content, provider: &CryptoProvider) -> Result<Self, Mistake> {
        let authorities =
            certificates(&content.authority).map_err(|problem| (AUTHORITY, problem))?;
        let (own, expires) = own_certificate(&content.certificate, &content.key, provider)?;
        let authority_expires = authorities
            .iter()
            .map(end_of)
            .try_fold(i64::MIN, |last, end| Ok(last.max(end?)));
        let authority_expires = authority_expires.map_err(|problem| (AUTHORITY, problem))?;

        let mut authority = RootCertStore::empty();
        for certificate in authorities {
            authority
                .add(certificate)
                .map_err(|_| (AUTHORITY, Problem::BrokenCertificate))?;
        }
        Ok(Self {
            own,
            authority: Arc::new(authority),
            expires,
            authority_expires,
        })
    }
}

/// The certificate of a process, with its key, and when it ends, as Unix time in seconds. Both are
/// PEM.
pub(super) fn own_certificate(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, i64), Mistake> {
    let chain = certificates(certificate).map_err(|problem| (CERTIFICATE, problem))?;
    let own = chain.first().ok_or((CERTIFICATE, Problem::NoCertificate))?;
    let expires = end_of(own).map_err(|problem| (CERTIFICATE, problem))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| (KEY, Problem::NoKey))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| (KEY, Problem::NoKey))?;
    let own = CertifiedKey::new(chain, key);
    own.keys_match().map_err(|_| (KEY, Problem::OtherKey))?;
    Ok((Arc::new(own), expires))
}

/// Every certificate of a PEM file, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|_| Problem::BrokenPem)?;
    if certificates.is_empty() {
        Err(Problem::NoCertificate)
    } else {
        Ok(certificates)
    }
}

/// When a certificate ends, as Unix time in seconds.
fn end_of(certificate: &CertificateDer<'_>) -> Result<i64, Problem> {
    let (_rest, certificate) =
        parse_x509_certificate(certificate).map_err(|_| Problem::BrokenCertificate)?;
    Ok(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::ring::default_provider;

    use super::*;

    /// A self-signed certificate that ends with this year, and its key.
    fn pair(year: i32) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(vec!["hermes".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        (
            certificate.pem().into_bytes(),
            key.serialize_pem().into_bytes(),
        )
    }

    fn read(content: &Content) -> Result<Identity, Mistake> {
        Identity::read(content, &default_provider())
    }

    #[test]
    fn the_ends_of_certificates_are_read() {
        let (certificate, key) = pair(2040);
        let (other, _) = pair(2050);
        let authority = [certificate.clone(), other].concat();
        let identity = read(&Content {
            authority,
            certificate,
            key,
        })
        .expect("good");
        assert_eq!(
            identity.authority.len(),
            2,
            "a new authority beside the old one"
        );
        assert_eq!(
            (identity.expires, identity.authority_expires),
            (2_240_524_800, 2_556_057_600)
        );
    }

    #[test]
    fn each_file_that_holds_something_else_is_named() {
        let (certificate, key) = pair(2040);
        let (_, other_key) = pair(2040);
        let content = |authority: &[u8], certificate: &[u8], key: &[u8]| {
            let [authority, certificate, key] = [authority, certificate, key].map(<[u8]>::to_vec);
            read(&Content {
                authority,
                certificate,
                key,
            })
            .err()
        };
        assert_eq!(
            content(b"", &certificate, &key),
            Some((AUTHORITY, Problem::NoCertificate))
        );
        assert_eq!(
            content(&certificate, &key, &key),
            Some((CERTIFICATE, Problem::NoCertificate))
        );
        assert_eq!(
            content(&certificate, &certificate, &certificate),
            Some((KEY, Problem::NoKey))
        );
        assert_eq!(
            content(&certificate, &certificate, &other_key),
            Some((KEY, Problem::OtherKey))
        );
        let half = &certificate[..certificate.len() / 2];
        assert_eq!(
            content(&certificate, half, &key),
            Some((CERTIFICATE, Problem::BrokenPem))
        );
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(
            content(empty, &certificate, &key),
            Some((AUTHORITY, Problem::BrokenCertificate))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_to_refuse(bytes: Vec<u8>, cut in 0_usize..2_000, flip: u8) {
            let (mut certificate, key) = pair(2040);
            let at = cut % certificate.len();
            certificate[at] = flip;
            let _ = read(&Content { authority: certificate.clone(), certificate, key });
            let _ = read(&Content { authority: bytes.clone(), certificate: bytes.clone(), key: bytes });
        }
    }
}
