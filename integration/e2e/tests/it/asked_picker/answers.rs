//! What a picker is shown of answers, and what it may change of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hermes_engine_sim::Fault;
use hermes_proto::ext_proc::processing_request::Request as Shown;
use hermes_testkit::{
    http2_server::{Http2Answer, Http2Server},
    scripted_picker::{PickerStep, PickerStreamRecord, ScriptedPicker, StreamEnding},
};

use super::{ORDER, asked, fleet, questions, usual};
use crate::{
    client::{chat, eventually, pieces, send},
    recorder::Front,
};

#[tokio::test]
async fn the_picker_is_shown_who_answered_and_every_piece_and_edits_the_head() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let fleet = fleet(&picker, 2, "").await;
    let order = fleet.engines[1].addr().to_string();
    for stream in [false, true] {
        let answer = send(chat(&fleet.url(), stream, 20).header(ORDER, &order)).await;
        assert_eq!(answer.headers()["x-served"], order.as_str());
        let lengths = answer.headers().get_all("content-length").iter().count();
        assert!(lengths <= 1, "what is set again is there once");
        let (read, is_whole) = pieces(answer).await;
        assert!(is_whole);
        let last = || picker.streams().pop().expect("one");
        eventually("the picker has seen it to its end", || async {
            last().is_answered && last().left == Some(StreamEnding::Closed)
        })
        .await;
        assert_eq!(last().answer_header(":status"), Some("200"));
        assert_eq!(String::from_utf8_lossy(&last().answer_body), read.concat());
    }
}

#[tokio::test]
async fn what_the_picker_returns_of_an_answers_body_is_not_used() {
    let meddling = |record: &PickerStreamRecord, shown: &Shown| match shown {
        Shown::ResponseBody(_) => vec![PickerStep::answer_piece(b"data: {\"other\":1}\n\n")],
        _ => usual(record, shown),
    };
    let picker = ScriptedPicker::start(0, meddling).await.expect("a port");
    let fleet = fleet(&picker, 1, "").await;
    let order = fleet.engines[0].addr().to_string();
    let (read, is_whole) =
        pieces(send(chat(&fleet.url(), true, 50).header(ORDER, &order)).await).await;
    assert!(is_whole && !read.concat().contains("other"));
    assert!(read.concat().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_picker_that_breaks_off_or_hangs_after_its_choice_breaks_no_answer() {
    let ending = |record: &PickerStreamRecord, shown: &Shown| match shown {
        Shown::ResponseHeaders(_) => vec![PickerStep::End(tonic::Status::internal("it broke"))],
        _ => usual(record, shown),
    };
    let hanging = |record: &PickerStreamRecord, shown: &Shown| match shown {
        Shown::ResponseHeaders(_) => Vec::new(),
        _ => usual(record, shown),
    };
    let ending = ScriptedPicker::start(0, ending).await.expect("a port");
    let hanging = ScriptedPicker::start(0, hanging).await.expect("a port");
    for picker in [&ending, &hanging] {
        let fleet = fleet(picker, 1, "").await;
        let order = fleet.engines[0].addr().to_string();
        let answer = send(chat(&fleet.url(), true, 20).header(ORDER, &order)).await;
        assert_eq!(answer.status(), 200);
        let (read, is_whole) = pieces(answer).await;
        assert!(is_whole && read.concat().ends_with("data: [DONE]\n\n"));
        assert!((questions(&fleet, "picked").await - 1.0).abs() < f64::EPSILON);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_pickers_stream() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let fleet = fleet(&picker, 1, "").await;
    let engine = &fleet.engines[0];
    engine.faults().set(Fault::StallBeforeHeaders);
    let order = engine.addr().to_string();
    let request = chat(&fleet.url(), true, 50).header(ORDER, &order);
    let leaving = tokio::spawn(request.send());
    eventually("the engine has the request", || async {
        asked(engine).len() == 1
    })
    .await;
    leaving.abort();
    eventually("the picker sees that it ended", || async {
        picker
            .streams()
            .pop()
            .is_some_and(|stream| stream.left.is_some())
    })
    .await;
}

#[tokio::test]
async fn a_picker_that_reads_no_more_delays_no_answer_and_loses_its_stream() {
    let stopping = |record: &PickerStreamRecord, shown: &Shown| {
        let mut steps = usual(record, shown);
        if matches!(shown, Shown::ResponseHeaders(_)) {
            steps.push(PickerStep::Hang);
        }
        steps
    };
    let picker = ScriptedPicker::start(0, stopping).await.expect("a port");
    let fleet = fleet(&picker, 1, "").await;
    let order = fleet.engines[0].addr().to_string();
    // A short one, of which all is taken from the client, and one that is longer than what may wait.
    for (tokens, number) in [(1_000, 1), (10_000, 2)] {
        let answer = send(chat(&fleet.url(), true, tokens).header(ORDER, &order)).await;
        let (read, is_whole) = pieces(answer).await;
        assert!(is_whole && read.concat().ends_with("data: [DONE]\n\n"));
        let length = read.concat().len();
        assert!(
            length > 64 << 10 && (number == 1 || length > 9 << 17),
            "{length}"
        );
    }
    for number in [0, 1] {
        eventually("the stream is ended from this side", || async {
            picker.streams()[number].left == Some(StreamEnding::Reset)
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_shown_as_its_head_alone() {
    let pieces = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pieces);
    let counting = move |record: &PickerStreamRecord, shown: &Shown| {
        if matches!(shown, Shown::ResponseBody(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        usual(record, shown)
    };
    let picker = ScriptedPicker::start(0, counting).await.expect("a port");
    let empty = Http2Server::start(|_, _| Http2Answer::Empty)
        .await
        .expect("a port");
    let front = Front::start(&format!(
        "pools: [{{name: chat, strategy: round-robin, http2: true, endpoints: ['http://{}'],\n  \
         askPicker: {{address: '{}', tls: false}}}}]\n\
         routes: [{{name: all, rules: [{{backends: [{{pool: chat}}]}}]}}]\n",
        empty.address, picker.address
    ))
    .await;
    let request = chat(&front.url(), false, 1).header(ORDER, empty.address.to_string());
    assert_eq!(send(request).await.status(), 200);
    eventually("the picker has seen it to its end", || async {
        picker.streams()[0].left == Some(StreamEnding::Closed)
    })
    .await;
    assert!(picker.streams()[0].is_answered);
    assert_eq!(pieces.load(Ordering::Relaxed), 0);
}
