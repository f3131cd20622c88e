//! Lists of models: when they are asked for, and what a missing one means.

use super::*;

#[tokio::test]
async fn a_server_that_knows_no_page_lists_no_model() {
    let server = Server::start(&[]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    assert_eq!(next(&mut observations).await.models, Some(Vec::new()));
}

#[tokio::test]
async fn after_a_failure_the_models_are_asked_for_again() {
    let server = Server::start(&[("/metrics", ok(PAGE)), ("/v1/models", ok(MODELS))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    assert!(next(&mut observations).await.models.is_some());

    server.script("/metrics", Reply::Answer(503, String::new()));
    next_where(&mut observations, |observation| {
        observation.outcome.is_err()
    })
    .await;
    server.script("/metrics", ok(PAGE));
    let back = next_where(&mut observations, |observation| observation.outcome.is_ok()).await;
    assert!(back.models.is_some());
}

#[tokio::test]
async fn a_list_that_was_read_is_gone_only_after_three_turns_without_a_page() {
    let server = Server::start(&[("/metrics", ok(PAGE)), ("/v1/models", ok(MODELS))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    assert!(next(&mut observations).await.models.is_some());
    // The list is due as soon as the failure has passed.
    server.script("/metrics", Reply::Answer(503, String::new()));
    let failed = |observation: &ProbeResult| observation.outcome.is_err();
    next_where(&mut observations, failed).await;
    server.script.lock().clear();

    let answers = |observation: &ProbeResult| observation.outcome.is_ok();
    let mut lists = Vec::new();
    for _ in 0..3 {
        lists.push(next_where(&mut observations, answers).await.models);
    }
    assert_eq!(lists, [None, None, Some(Vec::new())]);

    server.script("/v1/models", ok(MODELS));
    let listed = |observation: &ProbeResult| {
        let models = observation.models.as_ref();
        models.is_some_and(|models| !models.is_empty())
    };
    next_where(&mut observations, listed).await;
}
