use std::{cell::RefCell, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{core::DeserializeGuard, runtime::watcher::Event};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::discovery::kubernetes::{
    DiscoveredEndpoint,
    index::{FoundEndpoints, ObjectIndex},
    relist::RelistDiff,
    status::DiscoveryStatus,
};

const KIND: &str = "configmaps";

/// Every object is an endpoint; it is ready if its name is in lower case.
#[derive(Default)]
struct Names(Vec<String>);

impl ObjectIndex<ConfigMap> for Names {
    fn apply(&mut self, object: ConfigMap) -> bool {
        self.0.extend(object.metadata.name);
        true
    }

    fn delete(&mut self, name: &str) -> bool {
        self.0.retain(|known| known != name);
        true
    }
}

impl Endpoints for Names {
    fn endpoints(&self) -> FoundEndpoints {
        let endpoint = |name: &String| DiscoveredEndpoint {
            address: format!("http://pod-{name}").parse().expect("an address"),
            uid: String::new(),
            name: name.clone(),
            role: None,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
            kv_events: None,
        };
        let is_ready = |name: &&String| !name.contains(char::is_uppercase);
        let (ready, unready): (Vec<_>, Vec<_>) = self.0.iter().partition(is_ready);
        FoundEndpoints {
            endpoints: ready.into_iter().map(endpoint).collect(),
            unready: unready.into_iter().map(endpoint).collect(),
            left_out: 0,
        }
    }
}

fn state() -> (SourceIndex<Names>, watch::Receiver<DiscoveryStatus>) {
    let (status, view) = watch::channel(DiscoveryStatus::new(&[KIND]));
    (SourceIndex::new(Names::default(), status), view)
}

fn object(name: &str) -> DeserializeGuard<ConfigMap> {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    DeserializeGuard(Ok(object))
}

/// Runs `scenario` beside the publisher; returns when each set came and its size.
async fn published(
    state: &SourceIndex<Names>,
    scenario: impl Future<Output = ()>,
) -> Vec<(u128, usize)> {
    let sets = sets_of(state, scenario, Duration::from_secs(5)).await;
    let sizes = sets
        .into_iter()
        .map(|(at, set)| (at.as_millis(), set.endpoints.len()));
    sizes.collect()
}

/// As [`published`], for `length`, with the sets.
async fn sets_of(
    state: &SourceIndex<Names>,
    scenario: impl Future<Output = ()>,
    length: Duration,
) -> Vec<(Duration, DiscoveredSet)> {
    let began = Instant::now();
    let sets = RefCell::new(Vec::new());
    let sink = |set: DiscoveredSet| {
        sets.borrow_mut().push((began.elapsed(), set));
        async {}
    };
    let both = futures::future::join(publish(state, PeerReadiness::default(), sink), scenario);
    let forever = timeout(length, both).await;
    assert!(forever.is_err(), "the publisher never ends");
    sets.into_inner()
}

#[tokio::test(start_paused = true)]
async fn the_first_change_goes_out_at_once_and_a_burst_as_one() {
    let (state, view) = state();
    let mut relist = RelistDiff::default();
    let sets = published(&state, async {
        state.fold(KIND, &mut relist, Event::Init);
        state.fold(KIND, &mut relist, Event::InitDone);
        sleep(Duration::from_secs(1)).await;
        for n in 0..1000 {
            state.fold(KIND, &mut relist, Event::Apply(object(&n.to_string())));
            if n == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
    });
    assert_eq!(sets.await, [(0, 0), (1000, 1), (1050, 1000)]);
    assert_eq!(view.borrow().endpoints, Some(1000));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_first_list_is_complete() {
    let (state, view) = state();
    let mut relist = RelistDiff::default();
    let sets = published(&state, async {
        state.fold(KIND, &mut relist, Event::Init);
        state.fold(KIND, &mut relist, Event::InitApply(object("a")));
        state.failed(KIND, "refused");
    });
    assert!(sets.await.is_empty());
    assert_eq!(view.borrow().endpoints, None);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_finds_the_same_set_publishes_nothing() {
    let (state, _view) = state();
    let mut relist = RelistDiff::default();
    let sets = published(&state, async {
        for _ in 0..3 {
            state.fold(KIND, &mut relist, Event::Init);
            state.fold(KIND, &mut relist, Event::InitDone);
            sleep(Duration::from_millis(500)).await;
        }
    });
    assert_eq!(sets.await, [(0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_in_doubt_is_published_again_when_the_doubt_ends() {
    let (state, _view) = state();
    let mut relist = RelistDiff::default();
    let scenario = async {
        state.fold(KIND, &mut relist, Event::Init);
        state.fold(KIND, &mut relist, Event::InitApply(object("UNREADY")));
        state.fold(KIND, &mut relist, Event::InitDone);
    };
    let sets = sets_of(&state, scenario, DOUBT * 2).await;
    let doubts: Vec<_> = sets
        .iter()
        .map(|(at, set)| (at.as_secs(), set.is_doubtful))
        .collect();
    assert_eq!(doubts, [(0, true), (DOUBT.as_secs(), false)]);
}
