//! Requests with several legs, as a proxy reports them.

use super::*;

/// A pool beside `chat`.
const OTHER: &str = "- name: other\n  strategy: least-request\n  models: [n]\n  endpoints:\n  - http://127.0.0.1:1\n";

/// A replica of two pools, a proxy, and the endpoint of each pool.
async fn two_pools() -> (Replica, Proxy, [u64; 2]) {
    let config = pool(std::iter::once(1)) + OTHER;
    let config = Config::parse(&config).expect("a configuration of this test");
    let replica = Replica::start(ConfigSource::Value(config)).await;
    let mut proxy = replica.proxy(1).await;
    let snapshot = Snapshot::try_from(proxy.snapshot().await).expect("a proxy can use it");
    let endpoints = [0, 1].map(|pool: usize| snapshot.pools[pool].endpoints[0].id.0);
    (replica, proxy, endpoints)
}

#[tokio::test]
async fn each_leg_is_counted_at_its_endpoint_until_it_ends() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    let endpoints = endpoints(proxy.snapshot().await);
    let (prefill, decode) = (endpoints[0].id.0, endpoints[1].id.0);
    proxy.report_leg(7, 1, started(prefill)).await;
    proxy
        .load_where(|load| load.endpoint == prefill && load.in_flight == 1)
        .await;
    proxy.report_leg(7, 0, started(decode)).await;
    proxy
        .load_where(|load| load.endpoint == decode && load.in_flight == 1)
        .await;
    let first_byte = Event::FirstByte(v1::FirstByte { ttft_us: 5 });
    proxy.report_leg(7, 1, first_byte).await;
    let load = proxy
        .load_where(|load| load.endpoint == prefill && load.pending_tokens == 0)
        .await;
    assert_eq!(load.in_flight, 1, "the prefill has answered, and goes on");
    proxy.report_leg(7, 1, finished(prefill)).await;
    proxy
        .load_where(|load| load.endpoint == prefill && load.in_flight == 0)
        .await;
    assert_eq!(proxy.booked().await, 1, "the decode leg goes on");
    proxy.report_leg(7, 0, finished(decode)).await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn the_end_of_a_request_releases_the_legs_that_are_left() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    let endpoints = endpoints(proxy.snapshot().await);
    proxy.report_leg(7, 1, started(endpoints[0].id.0)).await;
    proxy.report_leg(7, 0, started(endpoints[1].id.0)).await;
    proxy.await_booked(2).await;
    proxy.report_leg(7, 0, finished(endpoints[1].id.0)).await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn the_list_of_open_requests_has_an_item_for_each_leg() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    let endpoints = endpoints(proxy.snapshot().await);
    proxy.report_leg(7, 1, started(endpoints[0].id.0)).await;
    proxy.report_leg(7, 2, started(endpoints[0].id.0)).await;
    proxy.await_booked(2).await;
    let open = |leg, endpoint| v1::OpenRequest {
        request: 7,
        leg,
        endpoint,
        uncached_tokens: 5,
        answered: false,
    };
    // The last is of no request: it is ignored, and the others count.
    let requests = vec![
        open(0, endpoints[1].id.0),
        open(1, endpoints[0].id.0),
        open(3, endpoints[0].id.0),
        open(4, endpoints[0].id.0),
    ];
    proxy.send(Up::Open(v1::OpenRequests { requests })).await;
    proxy.await_booked(3).await;
    proxy.report_leg(7, 0, finished(endpoints[1].id.0)).await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn other_legs_stay_when_the_main_leg_goes_on_in_another_pool() {
    let (_replica, mut proxy, [first, second]) = two_pools().await;
    proxy.report(7, started(first)).await;
    proxy.report_leg(7, 1, started(first)).await;
    proxy.await_booked(2).await;
    proxy.report(7, started(second)).await;
    proxy
        .load_where(|load| load.endpoint == second && load.in_flight == 1)
        .await;
    assert_eq!(proxy.booked().await, 1, "the other leg stays in `chat`");
    proxy.report(7, finished(second)).await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn a_leg_that_goes_on_in_another_pool_is_released_where_it_was() {
    let (_replica, mut proxy, [first, second]) = two_pools().await;
    proxy.report(7, started(first)).await;
    proxy.await_booked(1).await;
    proxy.report(7, started(second)).await;
    proxy.await_booked(0).await;
    proxy
        .load_where(|load| load.endpoint == second && load.in_flight == 1)
        .await;
}
