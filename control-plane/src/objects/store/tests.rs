use std::collections::VecDeque;

use futures::stream;
use kube::{core::Status, runtime::watcher};
use tokio::time::timeout;

use super::*;
use crate::{
    discovery::{Pace, follow},
    objects::catalog::tests::{object, pool_spec},
};

type Item = watcher::Result<Event<DeserializeGuard<DynamicObject>>>;

const PACE: Pace = Pace {
    list: Duration::from_secs(10),
    resync: Duration::from_secs(300),
};

fn watch() -> WatchKey {
    (ObjectKind::Pool, Some("ai".into()))
}

fn store() -> ObjectStore {
    let metrics = ObjectMetrics::register(&mut prometheus_client::registry::Registry::default());
    ObjectStore::new(&[watch()], metrics)
}

/// The failure of a list with this status.
fn refused(code: u16) -> Vec<Item> {
    let status = Status::failure("no", "Refused").with_code(code);
    let error = kube::Error::Api(status.boxed());
    vec![Err(watcher::Error::InitialListFailed(error))]
}

fn listed(names: &[&str]) -> Vec<Item> {
    let objects = names.iter().map(|name| {
        let pool = DeserializeGuard(Ok(object(name, 1, pool_spec())));
        Ok(Event::InitApply(pool))
    });
    let (begin, end) = ([Ok(Event::Init)], [Ok(Event::InitDone)]);
    begin.into_iter().chain(objects).chain(end).collect()
}

/// Follows for `period` watches that report these, one after the other; the last one holds.
async fn follow_for(store: &ObjectStore, period: Duration, reports: Vec<Vec<Item>>) {
    let sink = KindSink {
        store,
        watch: watch(),
    };
    let mut reports = VecDeque::from(reports);
    let open = || {
        let report = reports.pop_front().unwrap_or_default();
        let holds = !matches!(report.last(), Some(Err(_)));
        stream::iter(report).chain_if(holds)
    };
    let ended = timeout(period, follow(&sink, "inferencepools", PACE, open)).await;
    assert!(ended.is_err(), "following never ends");
}

/// A stream that does not end, if it holds.
trait ChainIf: futures::Stream + Sized {
    fn chain_if(self, holds: bool) -> impl futures::Stream<Item = Self::Item> {
        use futures::StreamExt;
        self.chain(stream::pending().take_until(async move {
            if holds {
                std::future::pending::<()>().await;
            }
        }))
    }
}

impl<S: futures::Stream> ChainIf for S {}

fn count(store: &ObjectStore) -> Result<usize, String> {
    store.read(|catalog| catalog.iter().count())
}

#[tokio::test(start_paused = true)]
async fn nothing_can_be_read_before_the_first_list_and_the_reason_is_known() {
    let store = store();
    assert!(count(&store).is_err());
    follow_for(&store, Duration::from_secs(1), vec![refused(403)]).await;
    let missing = count(&store).expect_err("it is forbidden");
    assert!(
        missing.contains("inferencepools.inference.networking.k8s.io"),
        "{missing}"
    );
    follow_for(&store, Duration::from_secs(1), vec![listed(&["a"])]).await;
    assert_eq!(count(&store), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_definition_may_be_absent_and_be_installed_later() {
    let store = store();
    let period = Duration::from_secs(1);
    follow_for(&store, period, vec![refused(404)]).await;
    assert_eq!(count(&store), Ok(0), "no kind, no objects");
    let later = vec![refused(404), listed(&["a", "b"])];
    follow_for(&store, ABSENT + period, later).await;
    assert_eq!(count(&store), Ok(2));
}

#[tokio::test(start_paused = true)]
async fn objects_stay_through_failures_and_leave_with_their_definition() {
    let store = store();
    let period = Duration::from_secs(1);
    follow_for(&store, period, vec![listed(&["a"])]).await;
    follow_for(&store, period, vec![refused(500)]).await;
    assert_eq!(count(&store), Ok(1), "the API server is broken");
    follow_for(&store, period, vec![refused(404)]).await;
    assert_eq!(count(&store), Ok(1), "an API server that only starts");
    follow_for(&store, period, vec![refused(404)]).await;
    assert_eq!(count(&store), Ok(0));
}
