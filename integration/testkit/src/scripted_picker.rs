//! An endpoint picker whose messages a test writes: for what no real one does.
//!
//! It serves `envoy.service.ext_proc.v3.ExternalProcessor` in plain text on one port. Every message
//! of a gateway is recorded, and answered as the script says.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hermes_proto::ext_proc::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption,
    HeadersResponse, HttpHeaders, HttpStatus, ImmediateResponse, Metadata, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration, StreamedBodyResponse,
    body_mutation::Mutation,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    processing_request::Request as Shown,
    processing_response::Response as Answer,
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

/// Messages that the gateway has not taken.
const UNREAD: usize = 4_096;

/// Bytes of a stream that a gateway sends before they are read: few, so that one that is not read
/// stops its gateway soon.
const STREAM_WINDOW: u32 = 8 << 10;

/// A picker that runs on a port of the loopback until it is dropped.
#[derive(Debug)]
pub struct ScriptedPicker {
    /// Where gateways connect.
    pub address: SocketAddr,
    streams: Arc<Mutex<Vec<Arc<Mutex<PickerStreamRecord>>>>>,
    _serving: AbortOnDropHandle<()>,
}

/// What a gateway showed on one stream.
#[derive(Clone, Debug, Default)]
pub struct PickerStreamRecord {
    /// Of the request, with pseudo-headers.
    pub head: Vec<(String, String)>,
    /// Of the first message.
    pub metadata: Option<Metadata>,
    /// Of the first message.
    pub modes: Option<ProtocolConfiguration>,
    /// Of the request, as far as it came.
    pub body: Vec<u8>,
    /// The request came whole.
    pub is_asked: bool,
    /// Of the answer.
    pub answer_head: Vec<(String, String)>,
    /// Of the message with that.
    pub answer_metadata: Option<Metadata>,
    /// Of the answer, as far as it came.
    pub answer_body: Vec<u8>,
    /// The answer came whole.
    pub is_answered: bool,
    /// The gateway has ended its half, and how.
    pub left: Option<StreamEnding>,
}

/// How a gateway ended its half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnding {
    /// Properly.
    Closed,
    /// By resetting the stream, or the connection.
    Reset,
}

/// What a picker does.
#[derive(Clone, Debug)]
pub enum PickerStep {
    /// Sends this message.
    Send(Box<ProcessingResponse>),
    /// Ends the stream with this status.
    End(Status),
    /// Reads and sends no more.
    Hang,
}

/// Called for each message of a gateway, with what its stream has shown so far.
type Script = dyn Fn(&PickerStreamRecord, &Shown) -> Vec<PickerStep> + Send + Sync;

struct PickerScript {
    script: Arc<Script>,
    streams: Arc<Mutex<Vec<Arc<Mutex<PickerStreamRecord>>>>>,
}

/// A stream that is open. Dropped, it has ended, by a reset if nothing else is known.
struct FollowedStream {
    record: Arc<Mutex<PickerStreamRecord>>,
    _task: AbortOnDropHandle<()>,
}

impl Drop for FollowedStream {
    fn drop(&mut self) {
        self.record.lock().left.get_or_insert(StreamEnding::Reset);
    }
}

impl ScriptedPicker {
    /// Listens on a free port, or on `port`.
    ///
    /// # Errors
    ///
    /// When the port is not free.
    pub async fn start(
        port: u16,
        script: impl Fn(&PickerStreamRecord, &Shown) -> Vec<PickerStep> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let streams = Arc::default();
        let script = PickerScript {
            script: Arc::new(script),
            streams: Arc::clone(&streams),
        };
        let service = ExternalProcessorServer::new(script);
        let serving = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.retain(|task: &AbortOnDropHandle<_>| !task.is_finished());
                let service = TowerToHyperService::new(service.clone());
                let serving = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .serve_connection(TokioIo::new(stream), service);
                connections.push(AbortOnDropHandle::new(tokio::spawn(serving)));
            }
        });
        Ok(Self {
            address,
            streams,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// What every stream has shown so far, in the order in which they were opened.
    #[must_use]
    pub fn streams(&self) -> Vec<PickerStreamRecord> {
        let streams = self.streams.lock();
        streams.iter().map(|stream| stream.lock().clone()).collect()
    }
}

impl PickerStreamRecord {
    /// The value of a header of the request.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        value(&self.head, name)
    }

    /// The value of a header of the answer.
    #[must_use]
    pub fn answer_header(&self, name: &str) -> Option<&str> {
        value(&self.answer_head, name)
    }

    fn note(&mut self, message: &ProcessingRequest) {
        match &message.request {
            Some(Shown::RequestHeaders(head)) => {
                self.head = fields(head);
                self.metadata.clone_from(&message.metadata_context);
                self.modes = message.protocol_config;
                self.is_asked = head.end_of_stream;
            }
            Some(Shown::RequestBody(piece)) => {
                self.body.extend_from_slice(&piece.body);
                self.is_asked |= piece.end_of_stream;
            }
            Some(Shown::ResponseHeaders(head)) => {
                self.answer_head = fields(head);
                self.answer_metadata.clone_from(&message.metadata_context);
                self.is_answered = head.end_of_stream;
            }
            Some(Shown::ResponseBody(piece)) => {
                self.answer_body.extend_from_slice(&piece.body);
                self.is_answered |= piece.end_of_stream;
            }
            Some(Shown::RequestTrailers(_) | Shown::ResponseTrailers(_)) | None => {}
        }
    }
}

// === PickerStep ===

impl PickerStep {
    /// Answers the head of the request with these headers.
    #[must_use]
    pub fn head(set: &[(&str, &str)]) -> Self {
        Self::of(Answer::RequestHeaders(HeadersResponse {
            response: Some(setting(set)),
        }))
    }

    /// Answers the head of the answer with these headers.
    #[must_use]
    pub fn answer_head(set: &[(&str, &str)]) -> Self {
        Self::of(Answer::ResponseHeaders(HeadersResponse {
            response: Some(setting(set)),
        }))
    }

    /// Returns a piece of the body of the request.
    #[must_use]
    pub fn body(bytes: &[u8], end_of_stream: bool) -> Self {
        let piece = StreamedBodyResponse {
            body: Bytes::copy_from_slice(bytes),
            end_of_stream,
        };
        Self::of(Answer::RequestBody(BodyResponse {
            response: Some(CommonResponse {
                body_mutation: Some(BodyMutation {
                    mutation: Some(Mutation::StreamedResponse(piece)),
                }),
                ..CommonResponse::default()
            }),
        }))
    }

    /// A piece of the body of the request stays as it is.
    #[must_use]
    pub fn unchanged() -> Self {
        Self::of(Answer::RequestBody(BodyResponse {
            response: Some(CommonResponse::default()),
        }))
    }

    /// A piece of the answer is returned as something else.
    #[must_use]
    pub fn answer_piece(bytes: &[u8]) -> Self {
        let piece = StreamedBodyResponse {
            body: Bytes::copy_from_slice(bytes),
            end_of_stream: false,
        };
        Self::of(Answer::ResponseBody(BodyResponse {
            response: Some(CommonResponse {
                body_mutation: Some(BodyMutation {
                    mutation: Some(Mutation::StreamedResponse(piece)),
                }),
                ..CommonResponse::default()
            }),
        }))
    }

    /// Answers the client.
    #[must_use]
    pub fn reply(status: i32, set: &[(&str, &str)], body: &str) -> Self {
        Self::of(Answer::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code: status }),
            headers: setting(set).header_mutation,
            body: Bytes::copy_from_slice(body.as_bytes()),
            details: String::new(),
        }))
    }

    fn of(answer: Answer) -> Self {
        Self::Send(Box::new(ProcessingResponse {
            response: Some(answer),
            ..ProcessingResponse::default()
        }))
    }
}

/// Headers that are set without an action, as pickers written in Go do.
fn setting(set: &[(&str, &str)]) -> CommonResponse {
    let set_headers = set.iter().map(|(key, value)| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*key).to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        }),
        ..HeaderValueOption::default()
    });
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: set_headers.collect(),
            remove_headers: Vec::new(),
        }),
        ..CommonResponse::default()
    }
}

fn fields(head: &HttpHeaders) -> Vec<(String, String)> {
    let fields = head.headers.iter().flat_map(|head| &head.headers);
    let fields = fields.map(|field| {
        let value = String::from_utf8_lossy(&field.raw_value).into_owned();
        (field.key.clone(), value)
    });
    fields.collect()
}

fn value<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let found = fields.iter().find(|(key, _)| key == name)?;
    Some(&found.1)
}

#[tonic::async_trait]
impl ExternalProcessor for PickerScript {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let record = Arc::<Mutex<PickerStreamRecord>>::default();
        self.streams.lock().push(Arc::clone(&record));
        let (sender, answers) = mpsc::channel(UNREAD);
        let (script, followed) = (Arc::clone(&self.script), Arc::clone(&record));
        let mut messages = request.into_inner();
        let following = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let Ok(message) = message else {
                    record.lock().left = Some(StreamEnding::Reset);
                    return;
                };
                let steps = {
                    let mut record = record.lock();
                    record.note(&message);
                    let shown = message.request.as_ref();
                    shown
                        .map(|shown| script(&record, shown))
                        .unwrap_or_default()
                };
                for step in steps {
                    let (message, is_end) = match step {
                        PickerStep::Send(message) => (Ok(*message), false),
                        PickerStep::End(status) => (Err(status), true),
                        PickerStep::Hang => std::future::pending().await,
                    };
                    if sender.send(message).await.is_err() || is_end {
                        return;
                    }
                }
            }
            record.lock().left = Some(StreamEnding::Closed);
        });
        let following = FollowedStream {
            record: followed,
            _task: AbortOnDropHandle::new(following),
        };
        let answers = ReceiverStream::new(answers).map(move |answer| {
            let _owned = &following;
            answer
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
