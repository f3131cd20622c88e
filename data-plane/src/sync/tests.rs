//! Which replicas are followed.

use std::{future::ready, iter};

use super::*;

fn socket(last: u8) -> SocketAddr {
    ([127, 0, 0, last], 1).into()
}

fn target(name: &str) -> ControlPlaneTarget {
    ControlPlaneTarget::try_from(format!("{name}:7070")).expect("an address")
}

fn sockets(addresses: &[ReplicaAddress]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| address.socket).collect()
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_keeps_its_addresses() {
    let mut names = TargetNames::of(vec![target("a"), target("b")]);
    let mut resolve = async |a: io::Result<Vec<SocketAddr>>, b: io::Result<Vec<SocketAddr>>| {
        let answers = std::cell::RefCell::new(
            [("b:7070", b), ("a:7070", a)]
                .into_iter()
                .collect::<HashMap<_, _>>(),
        );
        let lookup = |name: String| {
            let answer = answers.borrow_mut().remove(&*name).expect("asked once");
            ready(answer.map(Vec::into_iter))
        };
        sockets(&names.resolve(lookup).await)
    };
    let fails = || Err(io::Error::other("SERVFAIL"));
    assert_eq!(resolve(fails(), Ok(vec![socket(2)])).await, [socket(2)]);
    let both = [socket(1), socket(2)];
    assert_eq!(resolve(Ok(vec![socket(1)]), fails()).await, both);
    assert_eq!(resolve(fails(), fails()).await, both);
    assert_eq!(
        resolve(Ok(Vec::new()), Ok(vec![socket(3)])).await,
        [socket(1), socket(3)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_lookup_hangs_keeps_its_addresses() {
    let mut names = TargetNames::of(vec![target("a")]);
    let found = |_| ready(Ok(iter::once(socket(1))));
    assert_eq!(sockets(&names.resolve(found).await), [socket(1)]);
    let hangs = |_| std::future::pending::<io::Result<iter::Once<SocketAddr>>>();
    assert_eq!(sockets(&names.resolve(hangs).await), [socket(1)]);
}

#[tokio::test]
async fn a_replica_that_left_is_reported_lost_however_many_events_wait() {
    let (events, mut inbox) = mpsc::channel(1);
    let (reporter, _reports) = Reporter::new();
    let mut followed = ReplicaTasks {
        events: events.clone(),
        outbox: ReportOutbox::default(),
        dialer: Dialer { tls: None },
        identity: ProxyIdentity::new("test".to_owned()),
        reporter: Arc::new(reporter),
        workers: Vec::new().into(),
        by_address: HashMap::new(),
    };
    events.try_send(ReplicaEvent::Rejected).expect("room");
    let name = target("a").name;
    let address = ReplicaAddress {
        socket: socket(1),
        name,
    };
    followed.follow(vec![address]).await;
    let leaving = tokio::spawn(async move { followed.follow(Vec::new()).await });
    let mut event = async || {
        let event = timeout(Duration::from_secs(10), inbox.recv()).await;
        event.expect("in time")
    };
    assert!(matches!(event().await, Some(ReplicaEvent::Rejected)));
    let lost = event().await;
    assert!(matches!(lost, Some(ReplicaEvent::Lost { from }) if from == socket(1)));
    leaving.await.expect("no panic");
}
