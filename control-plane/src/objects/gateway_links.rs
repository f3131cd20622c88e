//! What the watch of Gateways and the tasks that serve them exchange: which ports and Secrets
//! Gateways need, and which of them they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch;

use super::gateways::GatewayFacts;
use crate::{
    config::Config,
    gateway_api::{AssignedAddress, AssignedGateway, NamespacedName, PortDemand},
    gateway_ports::{
        GatewayAddress, GatewayName, GatewayProblem, GatewayService, GatewayServices,
        NewestWantedGateways, WantedGateway, WantedGateways,
    },
    listener_certificates::{AllowedSecrets, SecretName, SecretState, SecretStates},
    news::send_news,
};

/// The channels to the tasks that serve Gateways.
#[derive(Clone, Debug)]
pub(crate) struct GatewayLinks {
    /// The Gateways that need a Service.
    pub(crate) wanted: Arc<watch::Sender<NewestWantedGateways>>,
    /// What became of them.
    pub(crate) services: watch::Receiver<GatewayServices>,
    /// The last that was known of them: while Services are listed again, ports stay open.
    pub(crate) last_services: GatewayServices,
    /// The Secrets that listeners may use.
    pub(crate) allowed: Arc<watch::Sender<AllowedSecrets>>,
    /// What is known of them.
    pub(crate) secrets: watch::Receiver<SecretStates>,
}

/// What Gateways need of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GatewayNeeds {
    /// Ports of the proxies.
    pub(super) gateways: BTreeMap<NamespacedName, PortDemand>,
    /// Secrets with certificates.
    pub(super) certificates: BTreeSet<NamespacedName>,
}

// === GatewayLinks ===

impl GatewayLinks {
    /// Waits until something of it changed.
    pub(super) async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.services.changed() => changed,
            changed = self.secrets.changed() => changed,
        };
        if changed.is_err() {
            // The tasks end with the process.
            std::future::pending::<()>().await;
        }
    }

    /// What is known of Gateways.
    pub(super) fn facts(&mut self) -> GatewayFacts {
        let services = self.services.borrow_and_update().clone();
        let secrets = Arc::clone(&self.secrets.borrow_and_update());
        if services.as_deref().is_some_and(are_listed) {
            self.last_services = services;
        }
        let services = self.last_services.iter();
        let services = services.flat_map(|services| services.iter());
        let service = |(name, service): (&GatewayName, &GatewayService)| {
            let GatewayName { namespace, name } = name;
            (NamespacedName::new(namespace, name), assigned(service))
        };
        let secret = |(name, state): (&SecretName, &SecretState)| {
            let SecretName { namespace, name } = name;
            let usable = match state {
                SecretState::Usable => Ok(()),
                SecretState::Absent => Err("it does not exist".to_owned()),
                SecretState::Invalid(why) | SecretState::Unknown(why) => Err(why.to_string()),
            };
            (NamespacedName::new(namespace, name), usable)
        };
        GatewayFacts {
            assigned: services.map(service).collect(),
            certificates: secrets.iter().map(secret).collect(),
        }
    }

    /// Passes on what Gateways need; nothing if there are none to serve.
    pub(super) fn want(&self, config: &Config, needs: Option<&GatewayNeeds>) {
        let wanted = config.gateway_api.as_ref().zip(needs);
        let gateways = wanted.map(|(config, needs)| {
            let gateways = needs.gateways.iter().map(|(name, demand)| {
                let PortDemand {
                    created,
                    ports,
                    labels,
                    annotations,
                } = demand.clone();
                let name = GatewayName {
                    namespace: Arc::clone(&name.namespace),
                    name: Arc::clone(&name.name),
                };
                let wanted = WantedGateway {
                    created,
                    ports,
                    labels,
                    annotations,
                };
                (name, wanted)
            });
            Arc::new(WantedGateways {
                controller: Arc::clone(&config.controller),
                service: config.service.clone(),
                gateways: gateways.collect(),
            })
        });
        let secrets = needs.into_iter().flat_map(|needs| &needs.certificates);
        let secrets = secrets.map(|secret| SecretName {
            namespace: Arc::clone(&secret.namespace),
            name: Arc::clone(&secret.name),
        });
        send_news(&self.wanted, gateways);
        let secrets: BTreeSet<SecretName> = secrets.collect();
        let allowed = needs.map(|_| Arc::new(secrets));
        send_news(&self.allowed, allowed);
    }

    /// Whether it is known of each Gateway that needs ports which it has, and of each Secret what is
    /// in it.
    pub(super) fn are_known(&self) -> bool {
        let wanted = self.wanted.borrow();
        let services = self.services.borrow();
        let mut names = wanted.iter().flat_map(|wanted| wanted.gateways.keys());
        let known = services.as_deref().filter(|services| are_listed(services));
        let allowed = self.allowed.borrow();
        let secrets = self.secrets.borrow();
        let mut named = allowed.iter().flat_map(|allowed| allowed.iter());
        names.all(|name| known.is_some_and(|known| known.contains_key(name)))
            && named.all(|secret| secrets.contains_key(secret))
    }
}

/// Whether the Services of Gateways could be listed.
fn are_listed(services: &BTreeMap<GatewayName, GatewayService>) -> bool {
    let is_listed =
        |service: &GatewayService| !matches!(service.problem, Some(GatewayProblem::NotListed(_)));
    services.values().all(is_listed)
}

fn assigned(service: &GatewayService) -> AssignedGateway {
    let GatewayService {
        ports,
        addresses,
        problem,
    } = service;
    let address = |address: &GatewayAddress| match address {
        GatewayAddress::Ip(ip) => AssignedAddress {
            form: "IPAddress",
            value: Arc::clone(ip),
        },
        GatewayAddress::Hostname(name) => AssignedAddress {
            form: "Hostname",
            value: Arc::clone(name),
        },
    };
    let addresses: Vec<AssignedAddress> = addresses.iter().map(address).collect();
    let problem = problem.as_ref().map(ToString::to_string);
    let problem = problem.unwrap_or_else(|| "its Service has no address yet".to_owned());
    AssignedGateway {
        ports: ports.clone(),
        addresses: Some(addresses)
            .filter(|addresses| !addresses.is_empty())
            .ok_or(problem),
    }
}
