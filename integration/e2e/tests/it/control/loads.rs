//! Load rows, as a proxy receives them.

use super::*;

/// Long enough for an update that is due.
const UPDATES: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_proxy_gets_load_rows_while_it_uses_them_and_all_when_it_begins_to() {
    let replica = Replica::of(2).await;
    let (mut proxy, mut other) = (replica.proxy(1).await, replica.proxy(2).await);
    let endpoint = endpoints(proxy.snapshot().await)[0].id.0;
    assert_eq!(proxy.load().await.loads.len(), 2);
    proxy.set_load_interest(false).await;
    other.snapshot().await;
    other.report(1, started(endpoint)).await;
    other
        .load_where(|load| load.endpoint == endpoint && load.in_flight == 1)
        .await;
    let update = timeout(UPDATES, proxy.load()).await;
    assert!(update.is_err(), "{update:?}");
    proxy.set_load_interest(true).await;
    let update = timeout(SOON, proxy.load()).await.expect("an update");
    assert_eq!(update.loads.len(), 2);
}

#[tokio::test]
async fn every_proxy_gets_its_own_part_of_the_figures_that_all_share() {
    let replica = Replica::of(1).await;
    let (mut one, mut two) = (replica.proxy(1).await, replica.proxy(2).await);
    let endpoint = endpoints(one.snapshot().await)[0].id.0;
    two.snapshot().await;
    for (proxy, requests) in [(&one, 3), (&two, 2)] {
        for request in 0..requests {
            proxy.report(request, started(endpoint)).await;
        }
    }
    for (proxy, own) in [(&mut one, 3), (&mut two, 2)] {
        proxy
            .load_where(|load| load.in_flight == 5 && load.own_in_flight == own)
            .await;
    }
    one.report(0, finished(endpoint)).await;
    for (proxy, own) in [(&mut one, 2), (&mut two, 2)] {
        proxy
            .load_where(|load| load.in_flight == 4 && load.own_in_flight == own)
            .await;
    }
}
