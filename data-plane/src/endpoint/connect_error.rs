//! Why no connection to an endpoint came about. Nothing was sent.

use std::{error::Error, io, sync::Arc, time::Duration};

use crate::telemetry::metrics::ConnectFailure;

/// The step that failed, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointConnectError {
    #[error("cannot resolve the name: {0}")]
    Resolve(Arc<str>),
    #[error("cannot connect: {0}")]
    Socket(#[from] io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("the TLS handshake failed: {0}")]
    Secure(io::Error),
    #[error("the handshake failed: {0}")]
    Handshake(hyper::Error),
}

impl EndpointConnectError {
    /// The reason in metrics.
    pub(crate) fn reason(&self) -> ConnectFailure {
        match self {
            Self::Resolve(_) => ConnectFailure::Resolve,
            Self::Socket(_) | Self::Handshake(_) => ConnectFailure::Connect,
            Self::Timeout(_) => ConnectFailure::Timeout,
            Self::Secure(error) if is_certificate_fault(error) => ConnectFailure::Certificate,
            Self::Secure(_) => ConnectFailure::Tls,
        }
    }
}

/// Whether the handshake failed because of the server's certificate.
fn is_certificate_fault(error: &io::Error) -> bool {
    let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    let fault = inner.and_then(<dyn Error>::downcast_ref::<rustls::Error>);
    matches!(
        fault,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}
