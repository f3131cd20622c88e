//! A gateway, as Envoy is one with full-duplex bodies: it asks the picker, sends the request to the
//! endpoint that is named, and shows the answer while it passes it on.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use hermes_proto::ext_proc::{
    HeaderMap as WireHeaders, HeaderMutation, HeaderValue as WireHeader, HttpBody, HttpHeaders,
    ImmediateResponse, Metadata, ProcessingRequest, ProcessingResponse, body_mutation::Mutation,
    external_processor_client::ExternalProcessorClient, processing_request::Request as Kind,
    processing_response::Response as Answer,
};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::client::client;

/// No step of these tests takes longer, unless something hangs.
const LONG: Duration = Duration::from_secs(20);

/// Messages that wait for the picker.
const WAITING: usize = 16;

/// The longest piece of a body that is shown at once.
const PIECE: usize = 64 << 10;

/// A gateway with a connection to one picker.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) picker: ExternalProcessorClient<Channel>,
}

/// One request of a client at the gateway.
pub(super) struct GatewayStream {
    sent: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

/// What the picker answered to a request.
#[derive(Debug)]
pub(super) enum Picked {
    Endpoint(Destination),
    Answer(ImmediateResponse),
}

/// Where a request goes, and what is sent there.
#[derive(Debug)]
pub(super) struct Destination {
    /// Best first.
    pub(super) endpoints: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) head: HeaderMutation,
}

impl Gateway {
    pub(super) async fn connect(picker: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{picker}")).expect("an address");
        let channel = endpoint.connect().await.expect("the picker listens");
        Self::over(channel)
    }

    pub(super) fn over(channel: Channel) -> Self {
        let picker = ExternalProcessorClient::new(channel);
        Self {
            picker: picker.max_decoding_message_size(usize::MAX),
        }
    }

    /// Begins a request with this head; the body, if there is one, follows.
    pub(super) async fn begin(&self, method: &str, path: &str, has_body: bool) -> GatewayStream {
        self.begin_within(method, path, has_body, None).await
    }

    /// The same, with metadata of the gateway.
    pub(super) async fn begin_within(
        &self,
        method: &str,
        path: &str,
        has_body: bool,
        metadata: Option<Metadata>,
    ) -> GatewayStream {
        let (sent, messages) = mpsc::channel(WAITING);
        let head = head(&[
            (":method", method),
            (":path", path),
            (":authority", "models.example"),
            ("content-type", "application/json"),
        ]);
        let opening = ProcessingRequest {
            request: Some(Kind::RequestHeaders(HttpHeaders {
                headers: Some(head),
                end_of_stream: !has_body,
            })),
            metadata_context: metadata,
            ..ProcessingRequest::default()
        };
        sent.try_send(opening).expect("there is room");
        let mut picker = self.picker.clone();
        let answers = picker.process(ReceiverStream::new(messages)).await;
        GatewayStream {
            sent,
            answers: answers.expect("a stream").into_inner(),
        }
    }

    /// Asks where this chat goes.
    pub(super) async fn ask(&self, body: &Value) -> (GatewayStream, Picked) {
        let mut stream = self.begin("POST", "/v1/chat/completions", true).await;
        stream.show_body(body.to_string().as_bytes()).await;
        let picked = stream.picked().await;
        (stream, picked)
    }

    /// Asks, sends the request where the picker says, and returns what its client gets.
    pub(super) async fn serve(&self, body: &Value) -> (u16, String) {
        let (mut stream, picked) = self.ask(body).await;
        let destination = match picked {
            Picked::Endpoint(destination) => destination,
            Picked::Answer(answer) => return (status(&answer), text(&answer.body)),
        };
        let answer = destination.send(0).await;
        let status = answer.status().as_u16();
        let passed = stream.pass(answer, None).await;
        (status, passed)
    }
}

impl GatewayStream {
    pub(super) async fn send(&self, request: Kind) {
        self.send_within(request, None).await;
    }

    pub(super) async fn send_within(&self, request: Kind, metadata: Option<Metadata>) {
        let message = ProcessingRequest {
            request: Some(request),
            metadata_context: metadata,
            ..ProcessingRequest::default()
        };
        // The picker may have ended the stream.
        let _sent = timeout(LONG, self.sent.send(message))
            .await
            .expect("in time");
    }

    /// Shows the whole body.
    pub(super) async fn show_body(&self, bytes: &[u8]) {
        let pieces = bytes.chunks(PIECE).count();
        for (at, piece) in bytes.chunks(PIECE).enumerate() {
            self.send(Kind::RequestBody(HttpBody {
                body: Bytes::copy_from_slice(piece),
                end_of_stream: at + 1 == pieces,
            }))
            .await;
        }
    }

    /// The next message of the picker; `None` when it has ended the stream.
    pub(super) async fn next(&mut self) -> Option<Result<Answer, Status>> {
        let message = timeout(LONG, self.answers.next()).await.expect("in time")?;
        Some(message.map(|message| message.response.expect("a response")))
    }

    /// The picker's answer to a request that was shown as a whole.
    pub(super) async fn picked(&mut self) -> Picked {
        let head = match self.next().await.expect("an answer").expect("no error") {
            Answer::ImmediateResponse(answer) => return Picked::Answer(answer),
            Answer::RequestHeaders(head) => head.response.and_then(|head| head.header_mutation),
            other => panic!("{other:?}"),
        };
        let head = head.expect("a destination");
        let mut body = Vec::new();
        loop {
            let answer = self.next().await.expect("the body").expect("no error");
            let Answer::RequestBody(piece) = answer else {
                panic!("{answer:?}")
            };
            let Some(Mutation::StreamedResponse(piece)) = piece
                .response
                .and_then(|response| response.body_mutation?.mutation)
            else {
                panic!("no piece")
            };
            body.extend_from_slice(&piece.body);
            if piece.end_of_stream {
                break;
            }
        }
        let endpoints = value(&head, "x-gateway-destination-endpoint").expect("a destination");
        Picked::Endpoint(Destination {
            endpoints: endpoints.split(',').map(str::to_owned).collect(),
            body,
            head,
        })
    }

    /// Shows the head of an answer, and waits until it may pass.
    pub(super) async fn show_head(&mut self, answer: &Response, metadata: Option<Metadata>) {
        let code = answer.status().as_u16().to_string();
        let mut fields = vec![(":status".to_owned(), code)];
        for (name, value) in answer.headers() {
            let value = value.to_str().expect("text");
            fields.push((name.to_string(), value.to_owned()));
        }
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let shown = Kind::ResponseHeaders(HttpHeaders {
            headers: Some(head(&fields)),
            end_of_stream: false,
        });
        self.send_within(shown, metadata).await;
        let passed = self.next().await.expect("an answer").expect("no error");
        assert!(matches!(passed, Answer::ResponseHeaders(_)), "{passed:?}");
    }

    /// Shows a piece of an answer; returns what the client gets of it.
    pub(super) async fn show_piece(&mut self, piece: Bytes, end_of_stream: bool) -> Bytes {
        self.send(Kind::ResponseBody(HttpBody {
            body: piece,
            end_of_stream,
        }))
        .await;
        let answer = self.next().await.expect("an answer").expect("no error");
        let Answer::ResponseBody(piece) = answer else {
            panic!("{answer:?}")
        };
        match piece
            .response
            .and_then(|response| response.body_mutation?.mutation)
        {
            Some(Mutation::StreamedResponse(piece)) => piece.body,
            other => panic!("{other:?}"),
        }
    }

    /// Passes a whole answer on; returns what the client gets.
    pub(super) async fn pass(&mut self, answer: Response, metadata: Option<Metadata>) -> String {
        self.show_head(&answer, metadata).await;
        let mut passed = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(piece) = timeout(LONG, body.next()).await.expect("in time") {
            let piece = piece.expect("a whole answer");
            passed.extend_from_slice(&self.show_piece(piece, false).await);
        }
        passed.extend_from_slice(&self.show_piece(Bytes::new(), true).await);
        assert!(
            self.next().await.is_none(),
            "the stream ends with the answer"
        );
        text(&passed)
    }
}

impl Destination {
    /// Sends the request to one of the endpoints.
    pub(super) async fn send(&self, endpoint: usize) -> Response {
        let url = format!("http://{}/v1/chat/completions", self.endpoints[endpoint]);
        let request = client()
            .post(url)
            .header("content-type", "application/json");
        let sent = request.body(self.body.clone()).send();
        timeout(LONG, sent)
            .await
            .expect("in time")
            .expect("an answer")
    }
}

impl Picked {
    pub(super) fn endpoint(self) -> Destination {
        match self {
            Self::Endpoint(destination) => destination,
            Self::Answer(answer) => panic!("{answer:?}"),
        }
    }

    /// The status, the body, and the value of a header of the answer.
    pub(super) fn answer(self, header: &str) -> (u16, Value, Option<String>) {
        match self {
            Self::Endpoint(destination) => panic!("{destination:?}"),
            Self::Answer(answer) => {
                let headers = answer.headers.clone().unwrap_or_default();
                let body = serde_json::from_slice(&answer.body).expect("JSON");
                (status(&answer), body, value(&headers, header))
            }
        }
    }
}

/// A chat with this number of output tokens.
pub(super) fn chat(stream: bool, tokens: u32) -> Value {
    json!({
        "model": "sim", "stream": stream, "max_tokens": tokens,
        "messages": [{"role": "user", "content": "what does a router do all day?"}],
    })
}

/// The value of a header that is set.
pub(super) fn value(mutation: &HeaderMutation, name: &str) -> Option<String> {
    let headers = mutation.set_headers.iter();
    let mut headers = headers.filter_map(|set| set.header.as_ref());
    let header = headers.find(|header| header.key == name)?;
    Some(text(&header.raw_value))
}

fn status(answer: &ImmediateResponse) -> u16 {
    let code = answer.status.as_ref().expect("a status").code;
    u16::try_from(code).expect("a status")
}

fn head(fields: &[(&str, &str)]) -> WireHeaders {
    let field = |(key, value): &(&str, &str)| WireHeader {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    WireHeaders {
        headers: fields.iter().map(field).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
