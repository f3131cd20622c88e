//! Objects of the Gateway API as listeners and routes of the proxies, and what their status should be.
//! Pure: nothing here watches or writes.
//!
//! ```text
//!   GatewayClass ─┐                                  ┌─▶ listeners, routes
//!   Gateway ──────┤                                  ├─▶ backends that routes use: Services, pools
//!   HTTPRoute ────┼─▶ GatewayObjects ──▶ compile ────┼─▶ ports that Gateways need, Secrets
//!   ReferenceGrant┤       ▲                          └─▶ status of all of them
//!   Namespace ────┤       │ ports, addresses and certificates, as far as they are known
//!   Service ──────┤
//!   InferencePool ┘
//! ```
//!
//! | object | becomes |
//! |---|---|
//! | listener of a `Gateway` | a listener `namespace/gateway/listener` |
//! | `HTTPRoute` | a route `namespace/name` |
//! | `InferencePool` that a route names | the pool `namespace/name` |
//! | port of a `Service` that a route names | the pool `namespace/service:port` |
//!
//! Invariants:
//! * a reference to another namespace is followed only where that permits it;
//! * a filter is never skipped: a rule with one that cannot be applied answers 500;
//! * whatever an object says, the others are served as they are;
//! * entries of other controllers in a status are kept as they are.

mod attachment;
mod backend;
mod compile;
mod condition;
mod filters;
mod gateway;
mod gateway_draft;
mod http_route;
mod listeners;
mod name;
mod parent_list;
mod reference_grant;
mod references;
mod room;
mod route_draft;
mod rule;
mod rule_fault;
mod scene;
mod status;

pub(crate) use self::{
    backend::{BackendPool, BackendService, OtherPicker},
    compile::{CompiledGateways, GatewayContext, ParentEntries, PortDemand, compile},
    condition::ConditionList,
    gateway::{GATEWAY_GROUP, GatewayClassSpec, GatewaySpec, LabelMap},
    gateway_draft::AssignedGateway,
    http_route::HttpRouteSpec,
    listeners::CertificateFacts,
    name::NamespacedName,
    parent_list::{ParentForm, ParentList},
    reference_grant::ReferenceGrantSpec,
    references::{picker_service, service_pool_name},
    room::GatewayRoom,
    scene::{GatewayObjects, Versioned},
    status::{AssignedAddress, GatewayApiStatus},
};
