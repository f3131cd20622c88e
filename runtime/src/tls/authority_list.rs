//! A list of authorities that is read to be published: certificates, and nothing else.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;

use super::{NoAuthority, Problem, ServerTrust, identity::certificates};

/// What begins a section of PEM (RFC 7468).
const BEGIN: &str = "-----BEGIN ";
/// What follows it before a certificate.
const LABEL: &str = "CERTIFICATE-----";
/// Characters of a line within a section.
const LINE: usize = 64;

/// Certificates of authorities. Displays them as PEM (RFC 7468): one section for each, and nothing
/// else of the text that it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityList(Vec<CertificateDer<'static>>);

impl AuthorityList {
    /// Reads PEM in which every section is the certificate of an authority. Text between sections
    /// is ignored.
    ///
    /// # Errors
    /// When there is no section, or one that is something else: a private key beside a certificate
    /// is a mistake, and the list is about to be published.
    pub fn parse(pem: &str) -> Result<Self, NoAuthority> {
        let is_other = |line: &str| {
            let label = line.strip_prefix(BEGIN);
            label.is_some_and(|label| label.trim_end() != LABEL)
        };
        if pem.split(['\n', '\r']).any(is_other) {
            return Err(NoAuthority::List(Problem::OtherSection));
        }
        ServerTrust::of(pem.as_bytes())?;
        certificates(pem.as_bytes())
            .map(Self)
            .map_err(NoAuthority::List)
    }
}

impl fmt::Display for AuthorityList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for certificate in &self.0 {
            writeln!(f, "{BEGIN}{LABEL}")?;
            let mut rest = &*BASE64_STANDARD.encode(certificate);
            while !rest.is_empty() {
                let (line, next) = rest.split_at(rest.len().min(LINE));
                writeln!(f, "{line}")?;
                rest = next;
            }
            writeln!(f, "-----END {LABEL}")?;
        }
        Ok(())
    }
}

/// The number of certificates: their text fills a screen.
impl fmt::Debug for AuthorityList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityList({} certificates)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["authority".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signed").pem();
        (certificate, key.serialize_pem())
    }

    #[test]
    fn certificates_alone_are_displayed_whatever_stands_between_them() {
        let ((first, _), (second, _)) = (pair(), pair());
        let text = format!(
            "subject: a\n{}\r\nsecret words\n{second}",
            first.replace('\n', "\r\n")
        );
        let list = AuthorityList::parse(&text).expect("two certificates");
        assert_eq!(list.to_string(), format!("{first}{second}"));
        assert_eq!(AuthorityList::parse(&list.to_string()), Ok(list));
    }

    #[test]
    fn any_section_that_is_no_certificate_is_refused() {
        let (certificate, key) = pair();
        let labels = [
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "X509 CRL",
            "CERTIFICATE REQUEST",
        ];
        let sections = labels.map(|label| key.replace("PRIVATE KEY", label));
        for other in sections.iter().chain([&key]) {
            // Also one that is cut off, and one whose lines end as on old machines.
            let half = &other[..other.len() / 2];
            for text in [
                format!("{certificate}{other}"),
                format!("{other}{certificate}"),
                format!("{certificate}{half}"),
                format!("{certificate}{other}").replace('\n', "\r"),
            ] {
                let error = AuthorityList::parse(&text).expect_err("a section of another kind");
                assert_eq!(error, NoAuthority::List(Problem::OtherSection), "{text}");
            }
        }
    }

    #[test]
    fn a_list_without_certificates_and_a_broken_one_are_refused() {
        let (certificate, _) = pair();
        let half = &certificate[..certificate.len() / 2];
        for (text, problem) in [("", Problem::NoCertificate), (half, Problem::BrokenPem)] {
            assert_eq!(
                AuthorityList::parse(text),
                Err(NoAuthority::List(problem)),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_refuse(text: String, at in 0usize..400, odd: char) {
            let (mut certificate, _) = pair();
            certificate.insert(at, odd);
            let _ = AuthorityList::parse(&text);
            let _ = AuthorityList::parse(&certificate);
        }
    }
}
