//! Pools of routes to Services that are no model servers that are known: any HTTP.

use std::{sync::Arc, time::Duration};

use hermes_core::{
    address::ServerScheme,
    policy::{PoolPolicy, RetryPolicy, Strategy},
};

use super::{
    collector::CollectorConfig,
    engine::EngineKind,
    origin::{ConfigOrigin, ObjectReference},
    pool::{PoolFragment, PoolParts},
    source::{EndpointSource, KubernetesSelection, PortRef},
};

/// From one question to the next whether an endpoint is up: Kubernetes knows it as well.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long an endpoint may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A port of a Service that is a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePool {
    /// The pool's name.
    pub name: Arc<str>,
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: u16,
    /// Its endpoints are spoken to over HTTP/2 without TLS.
    pub http2: bool,
}

// === ServicePool ===

impl ServicePool {
    /// The pool: least requests, nothing of inference, and no second attempts, since requests may
    /// have effects. `timeout` is that of the API server.
    #[must_use]
    pub fn fragment(&self, timeout: Duration) -> PoolFragment {
        let selection = KubernetesSelection {
            namespace: Some(Arc::clone(&self.namespace)),
            port: PortRef::Number(self.port),
            timeout,
            // What the port's `appProtocol` says.
            scheme: None,
            ..KubernetesSelection::new(ServerScheme::Http)
        };
        let engine = EngineKind::OpenAi;
        let defaults = PoolPolicy::default();
        let parts = PoolParts {
            engine,
            sources: vec![EndpointSource::Service(
                Arc::clone(&self.service),
                selection,
            )],
            collector: CollectorConfig::new(engine, INTERVAL, TIMEOUT),
            policy: PoolPolicy {
                strategy: Strategy::LeastRequest,
                retry: RetryPolicy {
                    max_attempts: 1,
                    ..defaults.retry
                },
                ..defaults
            },
            http2: self.http2,
            ..PoolParts::new(Arc::clone(&self.name))
        };
        let (pool, _) = parts.check();
        PoolFragment {
            origin: ConfigOrigin::Object(ObjectReference {
                kind: "Service",
                group: "",
                namespace: Arc::clone(&self.namespace),
                name: Arc::clone(&self.service),
            }),
            pool,
        }
    }
}
