//! Endpoints that leave the pool between a choice and the connection: a scripted replica, a real
//! proxy, simulated engines.

use std::sync::Arc;

use hermes_bench::fleet::Plane;
use hermes_core::{
    collection::Collection,
    snapshot::{Endpoint, Pool, Snapshot, Version},
};
use hermes_data_plane::app as data;
use hermes_testkit::replica::Replica;

use crate::{
    client::{chat, eventually, metric, send},
    proxy_context::{ProxyContext, chosen_by, proxy_of, routing_state},
};

/// A pool of two engines of which the second one comes when the first one leaves.
struct Replacement {
    context: ProxyContext,
    replica: Replica,
    proxy: Plane<data::DataPlane>,
}

impl Replacement {
    async fn start() -> Self {
        let context = ProxyContext::of(2).await;
        let before = with_endpoints(&context.snapshot, 1, &[0]);
        let replica = Replica::start("a", before).await.expect("starts");
        let proxy = proxy_of(&[&replica]).await;
        Self {
            context,
            replica,
            proxy,
        }
    }

    /// The first engine is gone, and the proxy knows the second one instead.
    async fn happens(&self) {
        let [first, second] = &*self.context.snapshot.pools[0].endpoints.to_vec() else {
            panic!("two endpoints")
        };
        let engines = self.context.engines.iter();
        let leaving = engines.filter(|engine| engine.url() == first.address.to_string());
        for engine in leaving {
            engine.kill().await;
        }
        let after = with_endpoints(&self.context.snapshot, 2, &[1]);
        self.replica.publish(after);
        eventually("the proxy knows the other engine alone", || async {
            let endpoints = routing_state(&self.proxy).await["snapshot"].to_string();
            endpoints.contains(&*second.name) && !endpoints.contains(&*first.name)
        })
        .await;
    }
}

/// The snapshot with these endpoints of its pool.
fn with_endpoints(snapshot: &Snapshot, version: u64, positions: &[usize]) -> Snapshot {
    let pool = &snapshot.pools[0];
    let endpoint = |position: &usize| Arc::clone(&pool.endpoints[*position]);
    let endpoints: Vec<Arc<Endpoint>> = positions.iter().map(endpoint).collect();
    let pool = Pool {
        endpoints: endpoints.into(),
        ..(**pool).clone()
    };
    let pools: Collection<_> = vec![Arc::new(pool)].into();
    Snapshot {
        version: Version(version),
        pools,
        ..snapshot.clone()
    }
}

#[tokio::test]
async fn a_request_goes_to_an_endpoint_that_is_there_when_the_chosen_one_has_left() {
    let mut pool = Replacement::start().await;
    let request = chat(&pool.proxy.url(), true, 2);
    let answer = tokio::spawn(async move { send(request).await.status().as_u16() });
    let question = pool.replica.question().await;
    pool.happens().await;
    pool.replica.choose(question.id, pool.context.first());
    assert_eq!(answer.await.expect("answered"), 200);
    let retries = "hermes_retries_total{pool=\"chat\"}";
    assert_eq!(metric(&pool.proxy.admin_url(), retries).await, 0.0);
    assert_eq!(chosen_by(&pool.proxy, "score").await, 1.0);
}

#[tokio::test]
async fn a_request_is_served_when_its_view_has_none_of_the_endpoints_that_are_there() {
    let mut pool = Replacement::start().await;
    let request = chat(&pool.proxy.url(), false, 2);
    let answer = tokio::spawn(async move { send(request).await.status().as_u16() });
    let question = pool.replica.question().await;
    pool.happens().await;
    let second = pool.context.snapshot.pools[0].endpoints[1].id.0;
    pool.replica.choose(question.id, second);
    assert_eq!(answer.await.expect("answered"), 200);
}
