//! One bounded `GET` to an engine.
//!
//! A client is shared by all endpoints and keeps one connection to each. It ignores proxies of the
//! environment, never leaves the host that it was sent to, and reads no more than its limit.

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use reqwest::{Client, StatusCode, Url, header, redirect};
use rustix::io::Errno;
use tokio::time::timeout;

use super::{EngineClients, EngineKey};
use crate::bounded_body::{BodyFault, read_body};

/// Engines close idle connections after five seconds (uvicorn), so ours are closed before.
const IDLE: Duration = Duration::from_secs(4);

/// Redirects that are followed: FastAPI answers `/metrics` with one to `/metrics/` in some
/// releases.
const MAX_REDIRECTS: usize = 2;

/// Why there is no answer, or none that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// No connection: the port is closed, or its host is away.
    #[error("connection refused or unreachable")]
    Refused,
    /// No connection, for a reason on this side: no file descriptor, port, memory or route. It says
    /// nothing about the endpoint.
    #[error("no connection can be opened from here")]
    NotConnected,
    /// The answer was not complete in time.
    #[error("no complete answer in time")]
    Timeout,
    /// The connection ended before the answer did.
    #[error("connection lost before the answer was complete")]
    Broken,
    /// An answer other than 200.
    #[error("status {0}, where 200 was expected")]
    Status(u16),
    /// An answer in another format.
    #[error("answer in a format that is not understood")]
    Garbage,
    /// An answer over the limit.
    #[error("answer over the size limit")]
    TooLarge,
}

/// Clients for any number of endpoints.
///
/// # Errors
/// When the TLS configuration of the process is unusable.
pub(crate) fn clients() -> Result<EngineClients, reqwest::Error> {
    EngineClients::new(|| {
        Client::builder()
            .no_proxy()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .http1_only()
            .redirect(redirect::Policy::custom(same_host))
    })
}

/// The body of a 200 answer, if it is complete within `limit` and no longer than `max_bytes`.
/// `key`: what the engine wants of those who ask.
pub(crate) async fn get(
    client: &Client,
    url: &Url,
    key: Option<&EngineKey>,
    limit: Duration,
    max_bytes: usize,
) -> Result<Bytes, ProbeFailure> {
    let answered = timeout(limit, async {
        let mut request = client.get(url.clone()).header(header::ACCEPT, "*/*");
        if let Some(key) = key
            && let Some(key) = key.header().await
        {
            request = request.header(header::AUTHORIZATION, key);
        }
        let response = request
            .send()
            .await
            .map_err(|error| ProbeFailure::of(&error))?;
        if response.status() != StatusCode::OK {
            return Err(ProbeFailure::Status(response.status().as_u16()));
        }
        Ok(read_body(response, max_bytes).await?)
    });
    answered.await.unwrap_or(Err(ProbeFailure::Timeout))
}

/// An engine must not send the control plane to other hosts.
fn same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let Some(from) = attempt.previous().last() else {
        return attempt.stop();
    };
    if attempt.previous().len() > MAX_REDIRECTS || from.origin() != attempt.url().origin() {
        return attempt.stop();
    }
    attempt.follow()
}

// === ProbeFailure ===

impl ProbeFailure {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "connect_failed",
            Self::NotConnected => "not_connected",
            Self::Timeout => "timeout",
            Self::Broken => "connection_broken",
            Self::Status(_) => "status",
            Self::Garbage => "invalid_response",
            Self::TooLarge => "too_large",
        }
    }

    /// Whose failure the operating system reports of a connection attempt.
    fn of_connect(cause: Errno) -> Self {
        match cause {
            Errno::CONNREFUSED
            | Errno::CONNRESET
            | Errno::CONNABORTED
            | Errno::HOSTUNREACH
            | Errno::HOSTDOWN
            | Errno::TIMEDOUT
            | Errno::PIPE => Self::Refused,
            _ => Self::NotConnected,
        }
    }

    fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.is_connect() {
            let cause = io_error(error).and_then(Errno::from_io_error);
            return cause.map_or(Self::Refused, Self::of_connect);
        }
        if io_error(error).is_some() || error.is_body() {
            return Self::Broken;
        }
        // The server spoke, and it was not HTTP.
        if error.is_decode() {
            Self::Garbage
        } else {
            Self::Broken
        }
    }
}

impl From<BodyFault> for ProbeFailure {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken(error) => Self::of(&error),
            BodyFault::TooLarge => Self::TooLarge,
        }
    }
}

/// The operating system's error at the root of `error`, if that is what it is.
fn io_error(error: &reqwest::Error) -> Option<&io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_on_this_side_is_no_refusal_of_the_endpoint() {
        let own = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::NETUNREACH,
            Errno::NETDOWN,
            Errno::ACCESS,
            Errno::PERM,
        ];
        for cause in own {
            assert_eq!(ProbeFailure::of_connect(cause), ProbeFailure::NotConnected);
        }
        for cause in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::CONNRESET] {
            assert_eq!(ProbeFailure::of_connect(cause), ProbeFailure::Refused);
        }
    }
}
