use hermes_proto::v1::score_response::Answer as WireAnswer;
use tokio_stream::StreamExt;

use hermes_proto::Message;

use super::{
    stream::{BATCH_BYTES, RequestBatches, deliver},
    *,
};

const SOON: Duration = Duration::from_millis(20);

fn request(id: u64) -> v1::ScoreRequest {
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
        answer: Some(WireAnswer::Selected(v1::Selected {
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

/// Messages sent to the replica: requests as their id, cancels as the negative id.
fn sent(stream: &mut ScoreStream) -> Vec<i64> {
    std::iter::from_fn(|| stream.outbound.try_recv().ok())
        .map(|outbound| match outbound {
            ScoreMessage::Ask(request) => request.id as i64,
            ScoreMessage::Cancel(id) => -(id as i64),
        })
        .collect()
}

#[tokio::test]
async fn queued_requests_are_sent_as_one_message() {
    let (client, stream) = channel();
    let pending_score: Vec<PendingScore> = (0..5)
        .map(|id| client.ask(request(id)).expect("room"))
        .collect();
    drop(pending_score);
    let mut batches = RequestBatches::of(stream.outbound);
    let message = batches.next().await.expect("a message");
    assert_eq!(message.requests.len(), 5);
    assert_eq!(message.cancels, [0, 1, 2, 3, 4]);
}

/// A request with a prompt of `bytes` bytes.
fn with_prompt(id: u64, bytes: usize) -> v1::ScoreRequest {
    let prompt = v1::PromptText {
        json: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    v1::ScoreRequest {
        lookup: Some(prompt),
        ..request(id)
    }
}

#[tokio::test]
async fn a_burst_of_long_prompts_becomes_many_messages() {
    let (client, stream) = channel();
    let sizes = [10, 100 << 10, 100 << 10, 100 << 10, 1 << 20, 1 << 20, 10];
    let asked: Vec<PendingScore> = (0..)
        .zip(sizes)
        .map(|(id, bytes)| client.ask(with_prompt(id, bytes)).expect("room"))
        .collect();
    let mut batches = RequestBatches::of(stream.outbound);
    let mut sent = Vec::new();
    while sent.iter().map(Vec::len).sum::<usize>() < asked.len() {
        let message = batches.next().await.expect("a message");
        let is_single = message.requests.len() == 1;
        assert!(is_single || message.encoded_len() <= BATCH_BYTES);
        let ids = message.requests.iter().map(|request| request.id);
        sent.push(ids.collect::<Vec<_>>());
    }
    assert_eq!(sent, [vec![0, 1, 2], vec![3], vec![4], vec![5], vec![6]]);
}

#[tokio::test]
async fn answers_are_delivered_in_any_order() {
    let (client, stream) = channel();
    let (first, second) = (
        client.ask(request(1)).expect("room"),
        client.ask(request(2)).expect("room"),
    );
    deliver(&stream.pending.0, vec![chosen(2), chosen(1)]);
    for mut pending_score in [first, second] {
        assert!(matches!(
            pending_score.answer(SOON).await,
            Ok(Answer::Chosen(_))
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_timed_out_is_cancelled() {
    let (client, mut stream) = channel();
    let mut pending_score = client.ask(request(1)).expect("room");
    assert_eq!(
        pending_score.answer(SOON).await,
        Err(ScoreClientError::Late)
    );
    drop(pending_score);
    assert!(stream.pending.0.lock().by_id.is_empty());
    assert_eq!(sent(&mut stream), [1, -1]);
}

#[tokio::test(start_paused = true)]
async fn a_queued_request_gets_its_final_answer_however_late() {
    let (client, mut stream) = channel();
    let mut pending_score = client.ask(request(1)).expect("room");
    deliver(&stream.pending.0, vec![queued(1)]);
    let Ok(Answer::Queued(place)) = pending_score.answer(SOON).await else {
        panic!("the request waits")
    };
    let pending = Arc::clone(&stream.pending.0);
    let bind = async {
        tokio::time::sleep(Duration::from_secs(29)).await;
        deliver(&pending, vec![chosen(1)]);
    };
    let (answer, ()) = tokio::join!(pending_score.answer(place.limit + SOON), bind);
    assert!(matches!(answer, Ok(Answer::Chosen(_))));
    drop(pending_score);
    assert_eq!(sent(&mut stream), [1], "nothing is left to cancel");
}

#[tokio::test]
async fn dropping_a_queued_request_cancels_it_at_once() {
    let (client, mut stream) = channel();
    let mut pending_score = client.ask(request(1)).expect("room");
    deliver(&stream.pending.0, vec![queued(1)]);
    assert!(matches!(
        pending_score.answer(SOON).await,
        Ok(Answer::Queued(_))
    ));
    drop(pending_score);
    assert_eq!(sent(&mut stream), [1, -1]);
    deliver(&stream.pending.0, vec![queued(1), chosen(1)]);
    assert!(
        stream.pending.0.lock().by_id.is_empty(),
        "a late answer has no receiver"
    );
}

#[tokio::test]
async fn a_broken_stream_fails_all_pending_requests_at_once() {
    let (client, stream) = channel();
    let (mut pending_score, mut waits) = (
        client.ask(request(1)).expect("room"),
        client.ask(request(2)).expect("room"),
    );
    deliver(&stream.pending.0, vec![queued(2)]);
    assert!(matches!(waits.answer(SOON).await, Ok(Answer::Queued(_))));
    drop(stream);
    let long = Duration::from_secs(3_600);
    assert_eq!(
        pending_score.answer(long).await,
        Err(ScoreClientError::Broken)
    );
    assert_eq!(waits.answer(long).await, Err(ScoreClientError::Broken));
    assert!(
        matches!(client.ask(request(3)), Err(ScoreClientError::Broken)),
        "and no other request begins to wait"
    );
}

#[tokio::test]
async fn an_invalid_answer_fails_its_request() {
    let (client, stream) = channel();
    let mut pending_score = client.ask(request(1)).expect("room");
    deliver(
        &stream.pending.0,
        vec![v1::ScoreResponse {
            id: 1,
            answer: None,
        }],
    );
    assert_eq!(
        pending_score.answer(SOON).await,
        Err(ScoreClientError::Broken)
    );
}

#[tokio::test]
async fn a_full_queue_rejects_at_once() {
    let (client, _questions) = channel();
    let pending_score: Vec<_> = (0..QUEUE as u64)
        .map(|id| client.ask(request(id)).expect("room"))
        .collect();
    assert!(matches!(
        client.ask(request(u64::MAX)),
        Err(ScoreClientError::Full)
    ));
    assert_eq!(client.pending.lock().by_id.len(), pending_score.len());
}
