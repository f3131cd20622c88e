//! From a Secret to a certificate with its key. Pure.

use std::sync::Arc;

use hermes_core::certificate::{CertificatePem, MAX_PEM_BYTES};
use hermes_runtime::tls::NamedCertificate;
use k8s_openapi::ByteString;
use kube::core::DynamicObject;

/// The type of Secrets with a certificate.
const TYPE: &str = "kubernetes.io/tls";

/// The entries of such a Secret.
const ENTRIES: [&str; 2] = ["tls.crt", "tls.key"];

/// Why a Secret is no certificate. Nothing of what it holds is part of any.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidSecret {
    #[error("its type is not {TYPE}")]
    Type,
    #[error("it has no entry {0}")]
    Missing(&'static str),
    #[error("{0} has more than {limit} KiB", limit = MAX_PEM_BYTES >> 10)]
    TooLarge(&'static str),
    #[error("{0} {1}")]
    Content(&'static str, hermes_runtime::tls::Problem),
}

/// The certificate of a Secret, checked: the key is the certificate's.
pub(super) fn read(secret: &DynamicObject) -> Result<CertificatePem, InvalidSecret> {
    if secret.data["type"] != TYPE {
        return Err(InvalidSecret::Type);
    }
    let [chain, key] = ENTRIES.map(|entry| bytes(secret, entry));
    let (chain, key) = (chain?, key?);
    NamedCertificate::of(&chain, &key)
        .map_err(|(entry, problem)| InvalidSecret::Content(entry, problem))?;
    Ok(CertificatePem { chain, key })
}

fn bytes(secret: &DynamicObject, entry: &'static str) -> Result<Arc<[u8]>, InvalidSecret> {
    let value = secret.data["data"]
        .get(entry)
        .ok_or(InvalidSecret::Missing(entry))?;
    let decoded = serde_json::from_value::<ByteString>(value.clone());
    // The error would quote the value.
    let ByteString(bytes) = decoded.map_err(|_| InvalidSecret::Missing(entry))?;
    if bytes.is_empty() {
        return Err(InvalidSecret::Missing(entry));
    }
    if bytes.len() > MAX_PEM_BYTES {
        return Err(InvalidSecret::TooLarge(entry));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    /// A certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["a.example.com".to_owned()]).expect("a name");
        let chain = params.self_signed(&key).expect("signed").pem();
        (chain, key.serialize_pem())
    }

    fn encoded(text: &str) -> Value {
        serde_json::to_value(ByteString(text.as_bytes().to_vec())).expect("text")
    }

    fn secret(kind: &str, data: &Value) -> DynamicObject {
        let metadata = json!({"name": "a", "namespace": "ai"});
        let object = json!({"metadata": metadata, "type": kind, "data": data});
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn a_certificate_with_its_key_is_read() {
        let (chain, key) = pair();
        let data = json!({"tls.crt": encoded(&chain), "tls.key": encoded(&key), "ca.crt": 5});
        let pem = read(&secret(TYPE, &data)).expect("they fit");
        assert_eq!(*pem.chain, *chain.as_bytes());
        assert_eq!(*pem.key, *key.as_bytes());
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_of_it_is_quoted() {
        let ((chain, key), (_, other)) = (pair(), pair());
        let large = "x".repeat(MAX_PEM_BYTES + 1);
        for (kind, certificate, key, expected) in [
            ("Opaque", encoded(&chain), encoded(&key), "its type is not"),
            (TYPE, Value::Null, encoded(&key), "no entry tls.crt"),
            (TYPE, encoded(&chain), json!(7), "no entry tls.key"),
            (TYPE, encoded(&chain), json!("?%"), "no entry tls.key"),
            (TYPE, encoded(&large), encoded(&key), "more than 64 KiB"),
            (TYPE, encoded("none"), encoded(&key), "tls.crt holds no"),
            (TYPE, encoded(&chain), encoded("none"), "tls.key holds no"),
            (TYPE, encoded(&chain), encoded(&other), "tls.key is not the"),
        ] {
            let data = json!({"tls.crt": certificate, "tls.key": key});
            let error = read(&secret(kind, &data)).expect_err(expected);
            let text = format!("{error} {error:?}");
            assert!(text.contains(expected), "{expected}: {text}");
            assert!(!text.contains("BEGIN"), "{text}");
            assert!(text.len() < 200, "{text}");
        }
    }
}
