//! The health of the door, as gateways and kubelets ask for it over gRPC.

use hermes_proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};
use hermes_runtime::readiness::Readiness;
use tonic::{Request, Response, Status, codegen::tokio_stream::Empty};

/// Services of which the health is that of the whole process: it serves while it has a snapshot and
/// does not drain.
const READINESS: [&str; 4] = [
    "",
    "readiness",
    "inference-extension",
    "envoy.service.ext_proc.v3.ExternalProcessor",
];

/// The service that serves as long as anything answers.
const LIVENESS: &str = "liveness";

/// Answers by the readiness of the process.
#[derive(Debug)]
pub(super) struct DoorHealth(pub(super) Readiness);

impl DoorHealth {
    /// The status of a service; `None` for one that is not known.
    fn of(&self, service: &str) -> Option<ServingStatus> {
        if service == LIVENESS {
            return Some(ServingStatus::Serving);
        }
        let status = if self.0.is_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        READINESS.contains(&service).then_some(status)
    }
}

#[tonic::async_trait]
impl Health for DoorHealth {
    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let unknown = || Status::not_found(format!("no service is called {service:?}"));
        let status = self.of(service).ok_or_else(unknown)?;
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    /// Not served: a client that gets this asks no further, as the protocol of health checks says.
    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_serves_while_the_process_is_ready_and_lives_before_and_after() {
        let readiness = Readiness::default();
        let (health, gate) = (DoorHealth(readiness.clone()), readiness.gate("snapshot"));
        let all = |status| {
            READINESS
                .iter()
                .all(|service| health.of(service) == Some(status))
        };
        assert!(all(ServingStatus::NotServing));
        gate.open();
        assert!(all(ServingStatus::Serving));
        gate.close("shutting down");
        assert!(all(ServingStatus::NotServing));
        assert_eq!(health.of(LIVENESS), Some(ServingStatus::Serving));
        assert_eq!(health.of("other"), None);
    }
}
