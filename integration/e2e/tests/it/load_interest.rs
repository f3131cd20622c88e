//! Whose load rows a proxy uses.

use hermes_testkit::replica::Replica;

use crate::proxy_context::{ProxyContext, proxy_of};

#[tokio::test]
async fn load_rows_are_wanted_of_one_replica_and_of_the_other_when_that_is_lost() {
    let context = ProxyContext::of(1).await;
    let start = |name| Replica::start(name, context.snapshot.clone());
    let (mut one, mut two) = (
        start("a").await.expect("starts"),
        start("b").await.expect("starts"),
    );
    let _proxy = proxy_of(&[&one, &two]).await;
    let (used, mut unused) = tokio::select! {
        wanted = one.load_interest() => {
            assert!(!wanted);
            (two, one)
        }
        wanted = two.load_interest() => {
            assert!(!wanted);
            (one, two)
        }
    };
    drop(used);
    assert!(unused.load_interest().await);
}
