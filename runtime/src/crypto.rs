//! The one TLS provider of the process.
//!
//! rustls panics at the first handshake when it cannot determine which provider to use, and HTTP
//! clients that are built without one fail in the same way, so each binary calls
//! [`install_default_crypto`] before it builds anything.

/// Makes ring the process-wide provider of rustls. Later calls, and calls after another provider
/// was installed, change nothing.
pub fn install_default_crypto() {
    // The error carries the provider that was there first: either ours, or one that an embedder
    // chose on purpose.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::CryptoProvider;

    #[test]
    fn installing_twice_keeps_the_first_provider() {
        install_default_crypto();
        let first = CryptoProvider::get_default().expect("a provider is installed");
        install_default_crypto();
        let second = CryptoProvider::get_default().expect("a provider is installed");
        assert!(std::sync::Arc::ptr_eq(first, second));
    }
}
