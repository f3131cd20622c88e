//! Pairs of which one endpoint fails, and clients that leave: no request hangs, and nothing that
//! was handed over is used twice.

use hermes_engine_sim::Fault;

use super::*;

pub(super) const BUSY: Fault = Fault::Status {
    code: 503,
    retry_after: None,
};

pub(super) const BROKEN: Fault = Fault::Status {
    code: 500,
    retry_after: None,
};

/// Engines slow enough for a client to leave while they compute: a prompt takes some seconds.
fn slow() -> EngineConfig {
    EngineConfig {
        prefill_rate: 300.0,
        step_budget: 64,
        ..EngineConfig::default()
    }
}

#[tokio::test]
async fn a_refusal_of_the_prefill_engine_is_the_answer_and_is_not_repeated() {
    let fleet = PairedScene::nixl(2, 1).start().await;
    let refused = Fault::Status {
        code: 400,
        retry_after: None,
    };
    let faults = fleet.prefills.iter().map(EngineHandle::faults);
    faults.for_each(|faults| faults.set(refused.clone()));
    let response = send(ask(&fleet.url(), &long_chat("refused", true))).await;
    assert_eq!(response.status(), 400);
    assert_eq!(count(&fleet.prefills).iter().sum::<usize>(), 1);
    assert_eq!(count(&fleet.decodes), [0]);
}

#[tokio::test]
async fn another_prefill_engine_computes_what_one_does_not() {
    for fault in [
        BUSY,
        BROKEN,
        Fault::CloseBeforeHeaders,
        Fault::RefuseConnections,
    ] {
        let fleet = three_answered_beside(fault.clone(), PairedScene::nixl(2, 1), false).await;
        assert_eq!(fleet.network.taken(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn without_a_prefill_engine_the_decode_engine_computes_the_prompt_itself() {
    let fleet = PairedScene::nixl(1, 1).start().await;
    fleet.prefills[0].faults().set(BUSY);
    text_of(&fleet.url(), &long_chat("alone", true)).await;
    let decoded = sent(&fleet.decodes[0]);
    assert!(decoded[0].json()["kv_transfer_params"].is_null());
    assert_eq!(fleet.pairs("prefill_failed").await, 1.0);
}

#[tokio::test]
async fn a_pair_that_fails_is_the_answer_where_that_is_configured() {
    let fleet = PairedScene::nixl(2, 1)
        .keys("onFailure: fail")
        .start()
        .await;
    let faults = fleet.prefills.iter().map(EngineHandle::faults);
    faults.for_each(|faults| faults.set(BROKEN));
    let response = send(ask(&fleet.url(), &long_chat("fails", false))).await;
    assert_eq!(response.status(), 500);
    assert_eq!(count(&fleet.decodes), [0]);
}

#[tokio::test]
async fn a_handoff_is_not_used_again_when_the_decode_engine_refuses() {
    let fleet = PairedScene::nixl(1, 2).start().await;
    fleet.decodes[0].faults().set(BUSY);
    for name in ["a", "b", "c", "d"] {
        text_of(&fleet.url(), &long_chat(name, true)).await;
    }
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!(sent(&fleet.decodes[1]).len(), 4);
}

#[tokio::test]
async fn a_request_is_prefilled_again_when_its_decode_engine_fails() {
    let fleet = answered_after_a_failed_decode(PairedScene::nixl(2, 1)).await;
    assert_eq!(count(&fleet.prefills), [1, 1]);
}

#[tokio::test]
async fn a_request_whose_prefill_engine_dies_before_the_transfer_is_prefilled_elsewhere() {
    // The five seconds for which a decode engine tries are 50 ms here.
    let engine = EngineConfig {
        time_scale: 0.01,
        ..EngineConfig::default()
    };
    // Each prefill engine gets one of two requests first.
    let scene = PairedScene::nixl(2, 1)
        .strategy("round-robin")
        .engine(engine);
    let fleet = scene.first(FirstPrefill::DeadSideChannel).start().await;
    for name in ["a", "b"] {
        text_of(&fleet.url(), &long_chat(name, true)).await;
    }
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!(fleet.network.taken(), 2);
    assert!(fleet.pairs("decode_failed").await >= 1.0);
}

#[tokio::test]
async fn a_prefill_engine_that_hands_nothing_over_costs_its_work_and_no_request() {
    let scene = PairedScene::nixl(1, 1).first(FirstPrefill::NoConnector);
    let fleet = scene.start().await;
    text_of(&fleet.url(), &long_chat("no connector", false)).await;
    let decoded = sent(&fleet.decodes[0]);
    assert!(decoded[0].json()["kv_transfer_params"].is_null());
    assert_eq!(
        (count(&fleet.prefills), fleet.network.taken()),
        (vec![1], 0)
    );
}

#[tokio::test]
async fn a_client_that_leaves_during_the_prefill_cancels_it_and_no_decode_leg_follows() {
    left_during_the_prefill(PairedScene::nixl(1, 1)).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_both_legs_of_sglang() {
    left_during_both_legs(PairedScene::sglang(1, 1)).await;
}

#[tokio::test]
async fn the_failure_of_an_sglang_prefill_ends_the_decode_leg_and_another_pair_answers() {
    three_answered_beside(BROKEN, PairedScene::sglang(2, 1), true).await;
}

#[tokio::test]
async fn both_endpoints_of_a_pair_are_booked_once_and_released() {
    let fleet = PairedScene::nixl(1, 1).engine(slow()).start().await;
    let asking = tokio::spawn(send(ask(&fleet.url(), &long_chat("booked", false))));
    eventually("both legs are booked", || async {
        bookings(&fleet).await == 2.0
    })
    .await;
    asking.abort();
    eventually("nothing is booked", || async {
        bookings(&fleet).await == 0.0
    })
    .await;
}

/// Three requests to pairs whose first prefill engine always fails so: all are answered.
pub(super) async fn three_answered_beside(
    fault: Fault,
    scene: PairedScene,
    stream: bool,
) -> PairedFleet {
    let fleet = scene.start().await;
    fleet.prefills[0].faults().set(fault);
    for name in ["a", "b", "c"] {
        text_of(&fleet.url(), &long_chat(name, stream)).await;
    }
    fleet.nothing_is_left().await;
    fleet
}

/// A request whose first decode leg fails is answered, with one KV cache taken over.
pub(super) async fn answered_after_a_failed_decode(scene: PairedScene) -> PairedFleet {
    let fleet = scene.start().await;
    fleet.decodes[0].faults().set_for(1, BROKEN);
    text_of(&fleet.url(), &long_chat("again", true)).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!(fleet.network.taken(), 1);
    assert_eq!(fleet.pairs("decode_failed").await, 1.0);
    fleet
}

/// A client leaves while its prompt is computed, before anything is sent to a decode engine.
pub(super) async fn left_during_the_prefill(scene: PairedScene) {
    let fleet = scene.engine(slow()).start().await;
    leave_while(&fleet, "the prefill engine computes", |fleet| {
        fleet.prefills[0].stats().running == 1
    })
    .await;
    eventually("the prompt is given up", || async {
        fleet.prefills[0].stats().aborted == 1
    })
    .await;
    assert_eq!((count(&fleet.decodes), fleet.network.kept()), (vec![0], 0));
    fleet.is_clean().await;
}

/// A client leaves while its prompt is computed and the decode leg waits for it.
pub(super) async fn left_during_both_legs(scene: PairedScene) {
    let fleet = scene.engine(slow()).start().await;
    leave_while(&fleet, "the decode leg waits for its prefill", |fleet| {
        fleet.prefills[0].stats().running == 1 && fleet.network.waiting() == 1
    })
    .await;
    eventually("both legs have ended", || async {
        fleet.prefills[0].stats().aborted == 1 && fleet.network.waiting() == 0
    })
    .await;
    fleet.is_clean().await;
}

/// A client sends a request and leaves as soon as `is_time`.
async fn leave_while(
    fleet: &PairedFleet,
    what: &'static str,
    is_time: impl Fn(&PairedFleet) -> bool,
) {
    let asking = tokio::spawn(send(ask(&fleet.url(), &long_chat("leaves", true))));
    let is_time = &is_time;
    eventually(what, || async move { is_time(fleet) }).await;
    asking.abort();
    let _cancelled = asking.await;
}
