//! Leaders, through which pairs are sent requests: admitted and passed over as any endpoint is.

use std::time::Duration;

use hermes_core::policy::{EjectionPolicy, PairDialect};

use super::{
    pairs::{policy, says},
    *,
};

/// A prefill and a decode endpoint, and then endpoints of these roles. None answers.
struct LedPair {
    exchange: Exchange,
    /// The requests that each endpoint has read, by position.
    heads: Vec<mpsc::Receiver<()>>,
}

impl LedPair {
    /// What fails is ejected for so long.
    async fn with(others: &[Role], ejected_for: Duration) -> Self {
        let (mut endpoints, mut heads) = (Vec::new(), Vec::new());
        for role in [&[Role::Prefill, Role::Decode], others].concat() {
            let (sender, read) = mpsc::channel(9);
            endpoints.push((role, says("", &sender).await));
            heads.push(read);
        }
        let mut policy = policy(PairDialect::LeaderHeaders, Duration::from_secs(30));
        policy.ejection = EjectionPolicy {
            base_time: ejected_for,
            ..policy.ejection
        };
        let exchange = Exchange::in_roles(policy, endpoints);
        Self { exchange, heads }
    }

    fn upstream(&self, position: usize) -> &Arc<Upstream> {
        &self.exchange.pool.upstreams[position]
    }

    /// The pair, and then the endpoints that serve whole requests.
    fn selection(&self) -> EndpointSelection {
        let pair = Placement::Pair {
            prefill: selected(self.upstream(0)),
            decode: selected(self.upstream(1)),
        };
        let others = self.exchange.pool.upstreams[2..].iter();
        let others = others.filter(|other| other.endpoint.role == Role::Aggregate);
        let others = others.map(|other| Placement::One(selected(other)));
        EndpointSelection {
            ranked: std::iter::once(pair).chain(others).collect(),
            ..EndpointSelection::default()
        }
    }

    /// Sends a request until this endpoint has read it. Its client leaves after `while_read`.
    async fn sent_to(&mut self, position: usize, while_read: impl FnOnce(&Upstream)) {
        let (request, mut guard) = (request(), self.exchange.guard());
        let selection = self.selection();
        let pool = Arc::clone(&self.exchange.pool);
        let sending = self
            .exchange
            .forwarder
            .forward(&request, &pool, &selection, &mut guard);
        let mut sending = Box::pin(sending);
        tokio::select! {
            _ = &mut sending => panic!("no endpoint answers"),
            read = self.heads[position].recv() => read.expect("it listens"),
        }
        while_read(&pool.upstreams[position]);
    }
}

fn is_read(heads: &mut mpsc::Receiver<()>) -> bool {
    heads.try_recv().is_ok()
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_pair_whose_leaders_are_down_is_passed_over() {
    let mut pair = LedPair::with(&[Role::Leader, Role::Aggregate], LONG).await;
    assert!(pair.upstream(2).failed(uptime(), EndpointFailure::Connect));
    pair.sent_to(3, |_| {}).await;
    assert!(!is_read(&mut pair.heads[2]), "the leader got nothing");
}

#[tokio::test]
async fn leaders_that_are_down_get_a_request_if_nothing_better_is_left() {
    let mut pair = LedPair::with(&[Role::Leader], LONG).await;
    for position in [1, 2] {
        let upstream = pair.upstream(position);
        assert!(upstream.failed(uptime(), EndpointFailure::Connect));
    }
    pair.sent_to(2, |_| {}).await;
}

#[tokio::test]
async fn a_leader_that_recovers_gets_one_request_at_a_time() {
    let mut pair = LedPair::with(&[Role::Leader, Role::Leader], Duration::ZERO).await;
    for leader in [2, 3] {
        assert!(
            pair.upstream(leader)
                .failed(uptime(), EndpointFailure::Connect)
        );
    }
    let is_on_trial = |leader: &Upstream| {
        let next = leader.admit(uptime());
        assert!(next.is_none(), "this request is its trial");
    };
    pair.sent_to(2, is_on_trial).await;
    assert!(
        pair.upstream(2).admit(uptime()).is_some(),
        "the trial is left to the next request"
    );
    pair.sent_to(3, is_on_trial).await;
}
