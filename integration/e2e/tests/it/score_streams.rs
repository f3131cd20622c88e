//! Score streams that break while the Sync stream is well.

use hermes_testkit::replica::Replica;

use crate::{
    client::{chat, eventually, send},
    proxy_context::{ProxyContext, await_connected, chosen_by, proxy_of},
};

/// As many requests as leave no doubt that each worker got one.
const MANY: usize = 12;

#[tokio::test]
async fn a_score_stream_that_breaks_is_opened_again_and_the_replica_is_not_lost() {
    let context = ProxyContext::of(1).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    replica.break_scores();
    let (url, first) = (proxy.url(), context.first());
    let scored = || async {
        let before = chosen_by(&proxy, "score").await;
        for _ in 0..MANY {
            assert_eq!(send(chat(&url, false, 1)).await.status(), 200);
        }
        chosen_by(&proxy, "score").await == before + MANY as f64
    };
    let answering = async {
        loop {
            let question = replica.question().await;
            replica.choose(question.id, first);
        }
    };
    tokio::select! {
        () = answering => {}
        () = eventually("every worker asks the replica again", scored) => {}
    }
    await_connected(&proxy, 1.0).await;
    assert_eq!(replica.sync_streams(), 1, "it was followed all the time");
}
