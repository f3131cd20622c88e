//! The fixture of the discovery tests: an API server, one pool that is discovered from it, and
//! objects.

use std::{collections::BTreeMap, time::Duration};

use hermes_control_plane::discovery::{
    DiscoveredEndpoint, DiscoveryStatus, KubernetesDiscovery, KubernetesSource, Selection, client,
};
use hermes_testkit::apiserver::ApiServer;
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition, PodStatus, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

pub(crate) const NAMESPACE: &str = "ai";

/// How long a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pool under discovery.
pub(crate) struct Pool {
    /// `None` until the first set came.
    sets: watch::Receiver<Option<Vec<DiscoveredEndpoint>>>,
    status: watch::Receiver<DiscoveryStatus>,
    _running: JoinSet<()>,
}

impl Pool {
    /// Discovers Services labeled `app=vllm` on their port 80.
    pub(crate) fn of_services(api: &ApiServer) -> Self {
        Self::start(api, source(Selection::Services(labels("vllm")), "80"))
    }

    /// Discovers pods labeled `app=vllm` on port 8000.
    pub(crate) fn of_pods(api: &ApiServer) -> Self {
        Self::start(api, pods())
    }

    pub(crate) fn start(api: &ApiServer, source: KubernetesSource) -> Self {
        Self::continuing(api, source, &[])
    }

    /// Replaces a discovery that found these endpoints.
    pub(crate) fn continuing(
        api: &ApiServer,
        source: KubernetesSource,
        in_use: &[DiscoveredEndpoint],
    ) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let url = api.url().parse().expect("an address is a URL");
        let client =
            client::connect(kube::Config::new(url)).expect("plain HTTP needs no credentials");
        let (discovery, status) = KubernetesDiscovery::new(source);
        let discovery = discovery.continuing(in_use);
        let (sink, sets) = watch::channel(None);
        let mut running = JoinSet::new();
        running.spawn(discovery.run(client, move |set| {
            sink.send_replace(Some(set.endpoints));
            std::future::ready(())
        }));
        Self {
            sets,
            status,
            _running: running,
        }
    }

    /// Waits until the set is exactly these URLs; gives back how long it took.
    #[track_caller]
    pub(crate) fn await_endpoints(&mut self, urls: &[&str]) -> impl Future<Output = Duration> {
        let mut expected: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
        expected.sort();
        let place = std::panic::Location::caller();
        async move {
            let began = Instant::now();
            let is_so = self
                .sets
                .wait_for(|set| set.as_deref().map(urls_of).as_ref() == Some(&expected));
            let in_time = timeout(PATIENCE, is_so).await.is_ok();
            let (set, status) = (self.urls(), self.status());
            assert!(
                in_time,
                "{place}: expected {expected:?}, have {set:?} with {status:?}"
            );
            began.elapsed()
        }
    }

    /// Waits until this many endpoints are there.
    pub(crate) async fn counts(&mut self, count: usize) {
        let is_so = self
            .sets
            .wait_for(|set| set.as_ref().is_some_and(|set| set.len() == count));
        let in_time = timeout(PATIENCE, is_so).await.is_ok();
        assert!(
            in_time,
            "expected {count} endpoints, have {}",
            self.urls().len()
        );
    }

    /// Waits until the status is as `expected` says.
    pub(crate) async fn reports(
        &mut self,
        what: &str,
        expected: impl FnMut(&DiscoveryStatus) -> bool,
    ) {
        let in_time = timeout(PATIENCE, self.status.wait_for(expected))
            .await
            .is_ok();
        assert!(in_time, "expected {what}, have {:?}", self.status());
    }

    pub(crate) fn status(&self) -> DiscoveryStatus {
        self.status.borrow().clone()
    }

    /// The current set; empty when none came yet.
    pub(crate) fn endpoints(&self) -> Vec<DiscoveredEndpoint> {
        self.sets.borrow().clone().unwrap_or_default()
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        urls_of(&self.endpoints())
    }
}

/// What `selection` selects, on `port`.
pub(crate) fn source(selection: Selection, port: &str) -> KubernetesSource {
    KubernetesSource::new(NAMESPACE, selection, port.parse().expect("a port"))
}

/// Pods labeled `app=vllm` on port 8000.
pub(crate) fn pods() -> KubernetesSource {
    source(Selection::Pods(labels("vllm")), "8000")
}

fn urls_of(set: &[DiscoveredEndpoint]) -> Vec<String> {
    set.iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

pub(crate) fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

fn metadata(name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// A ready pod labeled `app=vllm`.
pub(crate) fn pod(name: &str, ip: &str) -> Pod {
    let ready = PodCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    let status = PodStatus {
        phase: Some("Running".to_owned()),
        pod_ip: Some(ip.to_owned()),
        conditions: Some(vec![ready]),
        ..PodStatus::default()
    };
    Pod {
        metadata: metadata(name, labels("vllm")),
        spec: None,
        status: Some(status),
    }
}

/// The same pod after its readiness probe failed.
pub(crate) fn not_ready(mut pod: Pod) -> Pod {
    for condition in pod
        .status
        .iter_mut()
        .flat_map(|status| status.conditions.iter_mut().flatten())
    {
        condition.status = "False".to_owned();
    }
    pod
}

/// A Service labeled `app=vllm` with port 80.
pub(crate) fn service(name: &str) -> Service {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    Service {
        metadata: metadata(name, labels("vllm")),
        spec: Some(spec),
        status: None,
    }
}

/// A slice of `service` whose pods are ready and listen on 8000.
pub(crate) fn slice(name: &str, service: &str, ips: &[&str]) -> EndpointSlice {
    let conditions = EndpointConditions {
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
    };
    let endpoint = |ip: &&str| Endpoint {
        addresses: vec![(*ip).to_owned()],
        conditions: Some(conditions.clone()),
        ..Endpoint::default()
    };
    let port = EndpointPort {
        name: Some("http".to_owned()),
        port: Some(8000),
        ..EndpointPort::default()
    };
    let owner = BTreeMap::from([("kubernetes.io/service-name".to_owned(), service.to_owned())]);
    EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: ips.iter().map(endpoint).collect(),
        metadata: metadata(name, owner),
        ports: Some(vec![port]),
    }
}
