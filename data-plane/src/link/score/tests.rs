use hermes_proto::v1::score_response::Answer as WireAnswer;
use tokio_stream::StreamExt;

use super::{
    stream::{RequestBatches, deliver},
    *,
};

const SOON: Duration = Duration::from_millis(20);

fn question(id: u64) -> v1::ScoreRequest {
    v1::ScoreRequest {
        id,
        pool: "p".into(),
        may_wait: true,
        ..Default::default()
    }
}

fn chosen(id: u64) -> v1::ScoreResponse {
    let ranked = vec![v1::Candidate {
        endpoint: 9,
        ..Default::default()
    }];
    v1::ScoreResponse {
        id,
        answer: Some(WireAnswer::Chosen(v1::Chosen {
            ranked,
            ..Default::default()
        })),
    }
}

fn queued(id: u64) -> v1::ScoreResponse {
    let queued = v1::Queued {
        expected_ms: Some(700),
        limit_ms: 30_000,
        position: 3,
    };
    v1::ScoreResponse {
        id,
        answer: Some(WireAnswer::Queued(queued)),
    }
}

/// What was put on the way to the replica: questions by their id, and cancels by the negative of theirs.
fn sent(questions: &mut ScoreStream) -> Vec<i64> {
    std::iter::from_fn(|| questions.outbound.try_recv().ok())
        .map(|outbound| match outbound {
            ScoreMessage::Ask(request) => request.id as i64,
            ScoreMessage::Cancel(id) => -(id as i64),
        })
        .collect()
}

#[tokio::test]
async fn what_waits_goes_out_as_one_message() {
    let (asker, questions) = channel();
    let asked: Vec<PendingScore> = (0..5)
        .map(|id| asker.ask(question(id)).expect("room"))
        .collect();
    drop(asked);
    let mut batches = RequestBatches {
        outbound: questions.outbound,
        batch: Vec::new(),
    };
    let message = batches.next().await.expect("a message");
    assert_eq!(message.requests.len(), 5);
    assert_eq!(message.cancels, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn answers_find_their_askers_in_any_order() {
    let (asker, questions) = channel();
    let (first, second) = (
        asker.ask(question(1)).expect("room"),
        asker.ask(question(2)).expect("room"),
    );
    deliver(&questions.waiters.0, vec![chosen(2), chosen(1)]);
    for mut asked in [first, second] {
        assert!(matches!(asked.answer(SOON).await, Ok(Answer::Chosen(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_taken_back() {
    let (asker, mut questions) = channel();
    let mut asked = asker.ask(question(1)).expect("room");
    assert_eq!(asked.answer(SOON).await, Err(ScoreClientError::Late));
    drop(asked);
    assert!(questions.waiters.0.lock().by_id.is_empty());
    assert_eq!(sent(&mut questions), [1, -1]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_in_the_queue_gets_the_final_answer_as_late_as_it_comes() {
    let (asker, mut questions) = channel();
    let mut asked = asker.ask(question(1)).expect("room");
    deliver(&questions.waiters.0, vec![queued(1)]);
    let Ok(Answer::Queued(place)) = asked.answer(SOON).await else {
        panic!("the request waits")
    };
    let waiters = Arc::clone(&questions.waiters.0);
    let bind = async {
        tokio::time::sleep(Duration::from_secs(29)).await;
        deliver(&waiters, vec![chosen(1)]);
    };
    let (answer, ()) = tokio::join!(asked.answer(place.limit + SOON), bind);
    assert!(matches!(answer, Ok(Answer::Chosen(_))));
    drop(asked);
    assert_eq!(sent(&mut questions), [1], "nothing is left to take back");
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_gives_its_place_up_at_once() {
    let (asker, mut questions) = channel();
    let mut asked = asker.ask(question(1)).expect("room");
    deliver(&questions.waiters.0, vec![queued(1)]);
    assert!(matches!(asked.answer(SOON).await, Ok(Answer::Queued(_))));
    drop(asked);
    assert_eq!(sent(&mut questions), [1, -1]);
    deliver(&questions.waiters.0, vec![queued(1), chosen(1)]);
    assert!(
        questions.waiters.0.lock().by_id.is_empty(),
        "what comes too late is for nobody"
    );
}

#[tokio::test]
async fn a_broken_stream_fails_all_who_wait_at_once() {
    let (asker, questions) = channel();
    let (mut asked, mut waits) = (
        asker.ask(question(1)).expect("room"),
        asker.ask(question(2)).expect("room"),
    );
    deliver(&questions.waiters.0, vec![queued(2)]);
    assert!(matches!(waits.answer(SOON).await, Ok(Answer::Queued(_))));
    drop(questions);
    let long = Duration::from_secs(3_600);
    assert_eq!(asked.answer(long).await, Err(ScoreClientError::Broken));
    assert_eq!(waits.answer(long).await, Err(ScoreClientError::Broken));
    assert!(
        matches!(asker.ask(question(3)), Err(ScoreClientError::Broken)),
        "and nobody else begins to wait"
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_none() {
    let (asker, questions) = channel();
    let mut asked = asker.ask(question(1)).expect("room");
    deliver(
        &questions.waiters.0,
        vec![v1::ScoreResponse {
            id: 1,
            answer: None,
        }],
    );
    assert_eq!(asked.answer(SOON).await, Err(ScoreClientError::Broken));
}

#[tokio::test]
async fn a_full_queue_answers_at_once() {
    let (asker, _questions) = channel();
    let asked: Vec<_> = (0..QUEUE as u64)
        .map(|id| asker.ask(question(id)).expect("room"))
        .collect();
    assert!(matches!(
        asker.ask(question(u64::MAX)),
        Err(ScoreClientError::Full)
    ));
    assert_eq!(asker.waiters.lock().by_id.len(), asked.len());
}
