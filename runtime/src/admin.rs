//! The admin server: probes, metrics and debug routes, on a port of its own.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process works, 503 and the reason when only a restart helps |
//! | `/readyz` | 200 when traffic may come, 503 and one line per gate that is shut; notes in both cases |
//! | `/metrics` | OpenMetrics or Prometheus text, as `Accept` says |
//! | `/` | the paths that there are |
//!
//! A plane adds its debug routes. The port is for operators and probes, not for clients: it has no
//! authentication, so nothing that it answers may be secret. It is bounded in every direction
//! (connections, header and body size, time), so that a scraper that hangs cannot hurt the process,
//! and it shares no limit with users' traffic.

mod query;
mod response;
mod routes;
mod server;

pub use query::AdminQuery;
pub use response::AdminResponse;
pub use server::{BindError, BoundAdmin};

use crate::readiness::{Liveness, Readiness};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use routes::Routes;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What the admin server will answer.
pub struct Admin {
    routes: Routes,
}

impl Admin {
    /// The built-in routes. A process that supervises tasks adds [`Admin::with_liveness`].
    #[must_use]
    pub fn new(readiness: Readiness, registry: impl Into<Arc<Registry>>) -> Self {
        Self {
            routes: Routes::new(readiness, registry.into()),
        }
    }

    /// Makes `/healthz` report a failure of `liveness`.
    #[must_use]
    pub fn with_liveness(mut self, liveness: Liveness) -> Self {
        self.routes.set_liveness(liveness);
        self
    }

    /// Adds a route for `GET`, which the handler gets without a body, and `POST`, with its body of
    /// at most 1 MiB. A handler has 10 s. A handler that wants one of the two methods only refuses
    /// the other by [`AdminResponse::method_not_allowed`]. The built-in paths cannot be replaced.
    #[must_use]
    pub fn route<H, F>(mut self, path: &'static str, handler: H) -> Self
    where
        H: Fn(AdminQuery, Option<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = AdminResponse> + Send + 'static,
    {
        self.routes
            .add(path, move |query, body| Box::pin(handler(query, body)));
        self
    }

    /// Takes the port. Connections wait in the kernel until [`BoundAdmin::serve`].
    ///
    /// # Errors
    ///
    /// When the address cannot be taken. `flag` is the setting that the message names, such as
    /// `--admin`.
    pub async fn bind(
        self,
        address: SocketAddr,
        flag: &'static str,
    ) -> Result<BoundAdmin, BindError> {
        let failed = |source| BindError {
            address,
            flag,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok(BoundAdmin::new(listener, bound, Arc::new(self.routes)))
    }
}
