//! Streams of a gateway that a test writes, message by message. No endpoint is there: a gateway
//! would send to it.

mod gateway;

use std::{collections::HashMap, time::Duration};

use hermes_proto::{
    Kind as ValueKind, Struct, Value,
    ext_proc::{
        HttpTrailers, Metadata, ProtocolConfiguration, body_mutation::Mutation,
        processing_response::Response as Answer,
    },
};
use proptest::{prelude::*, sample::Index};

use self::gateway::{Context, Gateway, answer_head, body, destination, head, mutation};
use super::*;

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"kv_transfer_params":{"do_remote_decode":true}}"#;
const CLEANED: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

/// Sends the whole request and reads what the gateway would send on.
async fn placed(gateway: &mut Gateway) -> String {
    gateway.open(None);
    gateway.send(Kind::RequestBody(body(BODY.as_bytes(), true)));
    let first = gateway.next().await;
    assert!(first.dynamic_metadata.is_some());
    let destination = destination(&first).expect("a destination");
    loop {
        let Some(Mutation::StreamedResponse(piece)) = mutation(gateway.next().await) else {
            panic!("the body goes back in pieces")
        };
        if piece.end_of_stream {
            break;
        }
    }
    destination
}

#[tokio::test]
async fn a_request_is_counted_from_its_destination_to_the_last_byte_of_its_answer() {
    let mut context = Context::open();
    let mut gateway = context.stream();
    let destination = placed(&mut gateway).await;
    assert!(destination.starts_with("10.0.0.") && destination.ends_with(":8000"));
    assert_eq!(context.in_flight(), 1);
    assert_eq!(context.events(), ["started"]);

    gateway.send(answer_head("200", false));
    let Some(Answer::ResponseHeaders(_)) = gateway.next().await.response else {
        panic!("the head passes")
    };
    let answer = br#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    gateway.send(Kind::ResponseBody(body(answer, true)));
    let Some(Mutation::StreamedResponse(piece)) = mutation(gateway.next().await) else {
        panic!("the answer passes")
    };
    assert_eq!((&piece.body[..], piece.end_of_stream), (&answer[..], true));
    assert!(gateway.answers.next().await.is_none());
    assert_eq!(context.events(), ["first byte", "finished"]);
    assert_eq!(
        (context.in_flight(), context.ended(PickerStreamEnd::Served)),
        (0, 1)
    );
}

#[tokio::test]
async fn a_gateway_that_leaves_at_any_point_leaves_nothing_behind() {
    for stage in 0..4 {
        let mut context = Context::open();
        let mut gateway = context.stream();
        match stage {
            0 => {}
            1 => {
                gateway.open(None);
                gateway.send(Kind::RequestBody(body(b"{\"model\":", false)));
                let waiting = timeout(Duration::from_millis(20), gateway.next()).await;
                assert!(waiting.is_err(), "the body is not complete");
            }
            _ => drop(placed(&mut gateway).await),
        }
        if stage == 3 {
            gateway.send(answer_head("200", false));
            gateway.next().await;
        }
        drop(gateway);
        assert_eq!(context.in_flight(), 0, "stage {stage}");
        assert_eq!(
            context.door.metrics.picker.streams.get(),
            0,
            "stage {stage}"
        );
        let expected = u64::from(stage > 0);
        assert_eq!(
            context.ended(PickerStreamEnd::Left),
            expected,
            "stage {stage}"
        );
        let ended = context.events().last() == Some(&"finished");
        assert_eq!(ended, stage > 1, "stage {stage}");
    }
}

#[tokio::test]
async fn an_answer_of_which_only_the_head_is_shown_ends_with_its_stream() {
    let mut context = Context::open();
    let mut gateway = context.stream();
    gateway.send_message(ProcessingRequest {
        request: Some(head("POST", "/v1/chat/completions", false)),
        protocol_config: Some(ProtocolConfiguration {
            request_body_mode: BodySendMode::FullDuplexStreamed.into(),
            response_body_mode: BodySendMode::None.into(),
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    });
    gateway.send(Kind::RequestBody(body(CLEANED.as_bytes(), true)));
    assert!(destination(&gateway.next().await).is_some());
    gateway.next().await;
    gateway.send(answer_head("200", false));
    gateway.next().await;
    assert_eq!(context.in_flight(), 1, "the answer goes on");
    drop(gateway);
    assert_eq!((context.in_flight(), context.served()), (0, 1));
    assert_eq!(context.events(), ["started", "first byte", "finished"]);
}

#[tokio::test]
async fn what_no_endpoint_can_serve_is_answered_for_the_client() {
    let context = Context::open();
    let cases = [
        (
            head("POST", "/v1/chat/completions", false),
            "[",
            400,
            "invalid_body",
        ),
        (head("POST", "/nowhere", false), "{}", 404, "unknown_url"),
        (
            head("GET", "/v1/chat/completions", true),
            "",
            405,
            "method_not_allowed",
        ),
        (
            head("GET", "/v1/models", true),
            "",
            200,
            "answered_by_the_router",
        ),
    ];
    for (head, sent, status, details) in cases {
        let mut gateway = context.stream();
        gateway.send(head);
        if !sent.is_empty() {
            gateway.send(Kind::RequestBody(body(sent.as_bytes(), true)));
        }
        assert_eq!(gateway.immediate().await, (status, details.to_owned()));
        assert!(gateway.answers.next().await.is_none(), "the stream ends");
    }
    assert_eq!(context.ended(PickerStreamEnd::Replied), 4);
}

fn hint(addresses: &str) -> Metadata {
    let value = Value {
        kind: Some(ValueKind::StringValue(addresses.to_owned())),
    };
    let key = "x-gateway-destination-endpoint-subset".to_owned();
    let fields = [(key, value)].into_iter().collect();
    Metadata {
        filter_metadata: HashMap::from([("envoy.lb.subset_hint".to_owned(), Struct { fields })]),
    }
}

#[tokio::test]
async fn only_endpoints_that_the_gateway_names_are_chosen() {
    let context = Context::open();
    for _ in 0..4 {
        let mut gateway = context.stream();
        gateway.send_message(ProcessingRequest {
            request: Some(head("POST", "/v1/chat/completions", false)),
            metadata_context: Some(hint("10.0.0.2")),
            ..ProcessingRequest::default()
        });
        gateway.send(Kind::RequestBody(body(BODY.as_bytes(), true)));
        assert_eq!(
            destination(&gateway.next().await).as_deref(),
            Some("10.0.0.2:8000")
        );
    }
    let mut gateway = context.stream();
    gateway.send_message(ProcessingRequest {
        request: Some(head("POST", "/v1/chat/completions", false)),
        metadata_context: Some(hint("10.9.9.9:1")),
        ..ProcessingRequest::default()
    });
    gateway.send(Kind::RequestBody(body(BODY.as_bytes(), true)));
    assert_eq!(
        gateway.immediate().await,
        (503, "no_healthy_upstream".to_owned())
    );
}

#[tokio::test]
async fn a_gateway_that_shows_bodies_too_late_or_never_gets_the_setting_that_is_right() {
    let context = Context::open();
    let mut hidden = context.stream();
    hidden.open(Some((BodySendMode::None, false)));
    assert_eq!(
        hidden.immediate().await,
        (500, "gateway_misconfigured".to_owned())
    );

    let mut late = context.stream();
    late.open(Some((BodySendMode::Streamed, false)));
    let asked = late.next().await.mode_override.expect("another mode");
    assert_eq!(asked.request_body_mode(), BodySendMode::Buffered);
    late.send(Kind::RequestBody(body(b"{", false)));
    late.send(Kind::RequestBody(body(b"}", true)));
    assert_eq!(
        late.immediate().await,
        (500, "gateway_misconfigured".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_silent_ends_the_stream_and_not_the_clients_request() {
    let mut context = Context::open();
    let mut gateway = context.stream();
    placed(&mut gateway).await;
    assert!(gateway.answers.next().await.is_none(), "without an error");
    assert_eq!(context.ended(PickerStreamEnd::TimedOut), 1);
    assert_eq!(context.in_flight(), 0);
    assert_eq!(context.events().last(), Some(&"finished"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_message_and_a_body_that_stalls_are_ended() {
    let context = Context::open();
    let mut silent = context.stream();
    let error = silent
        .answers
        .next()
        .await
        .expect("an end")
        .expect_err("late");
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);

    let mut stalled = context.stream();
    stalled.open(None);
    stalled.send(Kind::RequestBody(body(b"{\"model\":", false)));
    assert_eq!(
        stalled.immediate().await,
        (408, "request_timeout".to_owned())
    );
}

#[tokio::test]
async fn a_gateway_that_breaks_the_protocol_gets_an_error() {
    let context = Context::open();
    let mut gateway = context.stream();
    gateway.send(Kind::RequestBody(body(b"{}", true)));
    let error = gateway
        .answers
        .next()
        .await
        .expect("an end")
        .expect_err("no head");
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert_eq!(context.ended(PickerStreamEnd::Failed), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_a_body_is_cut_the_endpoint_gets_it_once_and_cleaned(
        cuts in proptest::collection::vec(any::<Index>(), 0..8),
        mode in 0..3usize,
        has_trailers: bool,
    ) {
        let modes = [
            None,
            Some((BodySendMode::Streamed, true)),
            Some((BodySendMode::Buffered, false)),
        ][mode];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let sent = runtime.expect("a runtime").block_on(async {
            let context = Context::open();
            let mut gateway = context.stream();
            gateway.open(modes);
            let mut pieces = cut(BODY.as_bytes(), &cuts);
            if mode == 2 {
                let answered = gateway.next().await;
                assert!(destination(&answered).is_none(), "the body is to come");
                pieces = vec![BODY.as_bytes()];
            }
            let last = pieces.len();
            for (at, piece) in pieces.into_iter().enumerate() {
                let ends = at + 1 == last && !has_trailers;
                gateway.send(Kind::RequestBody(body(piece, ends)));
            }
            if has_trailers {
                gateway.send(Kind::RequestTrailers(HttpTrailers::default()));
            }
            let mut sent = Vec::new();
            let mut destinations = 0;
            loop {
                let message = gateway.next().await;
                destinations += usize::from(destination(&message).is_some());
                if matches!(message.response, Some(Answer::RequestTrailers(_))) {
                    break;
                }
                match mutation(message) {
                    Some(Mutation::StreamedResponse(piece)) => {
                        sent.extend_from_slice(&piece.body);
                        if piece.end_of_stream { break; }
                    }
                    Some(Mutation::Body(body)) => {
                        sent.extend_from_slice(&body);
                        if !has_trailers { break; }
                    }
                    Some(Mutation::ClearBody(_)) | None => {}
                }
            }
            assert_eq!(destinations, 1);
            sent
        });
        prop_assert_eq!(String::from_utf8_lossy(&sent), CLEANED);
    }
}

fn cut<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut begin = 0;
    let pieces = cuts.into_iter().map(|end| {
        let piece = &bytes[begin..end];
        begin = end;
        piece
    });
    pieces.collect()
}
