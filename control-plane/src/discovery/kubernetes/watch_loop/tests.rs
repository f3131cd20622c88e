use std::{cell::RefCell, collections::VecDeque};

use futures::stream;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::discovery::{
    DiscoveryStatus,
    kubernetes::{index::ObjectIndex, state::SourceIndex},
};

const KIND: &str = "configmaps";
const PACE: Pace = Pace {
    list: Duration::from_secs(10),
    resync: Duration::from_secs(300),
};

type Item = watcher::Result<Event<DeserializeGuard<ConfigMap>>>;

/// Everything is news to it.
#[derive(Debug)]
struct Names;

impl ObjectIndex<ConfigMap> for Names {
    fn apply(&mut self, _: ConfigMap) -> bool {
        true
    }

    fn delete(&mut self, _: &str) -> bool {
        true
    }
}

/// Follows for `period` watches that come from `open`; gives back the seconds at which each began,
/// and the status.
async fn begun<S>(period: Duration, mut open: impl FnMut() -> S) -> (Vec<f32>, DiscoveryStatus)
where
    S: Stream<Item = Item>,
{
    let (status, view) = watch::channel(DiscoveryStatus::new(&[KIND]));
    let state = SourceIndex::new(Names, status);
    let start = Instant::now();
    let began = RefCell::new(Vec::new());
    let counted = || {
        began.borrow_mut().push(start.elapsed().as_secs_f32());
        open()
    };
    let ended = timeout(period, follow(&state, KIND, PACE, counted)).await;
    assert!(ended.is_err(), "following never ends");
    let status = view.borrow().clone();
    (began.into_inner(), status)
}

fn failure() -> Item {
    Err(watcher::Error::NoResourceVersion)
}

fn listed() -> [Item; 2] {
    [Ok(Event::Init), Ok(Event::InitDone)]
}

#[tokio::test(start_paused = true)]
async fn failures_are_spaced_out_up_to_three_seconds() {
    // The watcher says `Init` before it asks the server, which must not count as success.
    let refused = || stream::iter([Ok(Event::Init), failure()]);
    let (began, status) = begun(Duration::from_secs(60), refused).await;
    let gaps: Vec<f32> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((0.1..=0.2).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 3.01), "{gaps:?}");
    assert!(gaps[6..].iter().all(|gap| *gap >= 1.5), "{gaps:?}");
    let failing = status
        .failure()
        .map(|(kind, failure)| (kind, failure.since.elapsed()));
    let (kind, lasts) = failing.unwrap();
    assert_eq!(kind, KIND);
    assert!(
        lasts >= Duration::from_secs(59),
        "since the first failure, not the last: {lasts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lists_well_and_breaks_every_watch_is_not_hammered() {
    let breaks = || stream::iter(listed().into_iter().chain([failure()]));
    let (began, status) = begun(Duration::from_secs(60), breaks).await;
    assert!(began.len() < 50, "{} lists in a minute", began.len());
    assert!(status.synced());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_held_for_a_while_is_taken_up_again_quickly() {
    let holds = || {
        let breaks = stream::once(async {
            sleep(Duration::from_secs(20)).await;
            failure()
        });
        stream::iter(listed()).chain(breaks)
    };
    let (began, _) = begun(Duration::from_secs(200), holds).await;
    let gaps = began.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.clone().count() >= 8);
    assert!(
        gaps.clone().all(|gap| gap < 20.5),
        "{:?}",
        gaps.collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_without_progress_is_given_up_and_restarted() {
    let silent = || stream::iter([Ok(Event::Init)]).chain(stream::pending());
    let (began, status) = begun(Duration::from_secs(25), silent).await;
    assert_eq!(began.len(), 3, "{began:?}");
    let (_, failure) = status.failure().unwrap();
    assert_eq!(&*failure.error, "no progress listing configmaps within 10s");
    assert!(!status.synced());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_is_left_alone_until_the_resync() {
    let quiet = || stream::iter(listed()).chain(stream::pending());
    let (began, status) = begun(Duration::from_secs(301), quiet).await;
    assert_eq!(began.len(), 2, "{began:?}");
    assert_eq!(began[1].round(), 300.0);
    assert_eq!(status.failure(), None);
}

#[tokio::test(start_paused = true)]
async fn the_failure_is_over_once_a_list_is_complete() {
    let mut lives = VecDeque::from([vec![failure()], Vec::from(listed())]);
    let script = || stream::iter(lives.pop_front().unwrap_or_default()).chain(stream::pending());
    let (_, status) = begun(Duration::from_secs(1), script).await;
    assert_eq!(status.failure(), None);
    assert_eq!(status.watches[0].failures, 1);
}
