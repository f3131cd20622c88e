//! A scripted proxy: it sends only what a test makes it send.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use hermes_proto::{
    Message,
    v1::{
        Delta, EndpointLoad, Explanation, FromControlPlane, FromDataPlane, Hello, LoadInterest,
        LoadUpdate, Report, Reports, ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses,
        Snapshot, from_control_plane::Message as Down, from_data_plane::Message as Up,
        report::Event, router_client::RouterClient, score_response::Answer,
    },
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// How long any answer may take.
const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Proxy {
    id: u64,
    client: RouterClient<Channel>,
    up: mpsc::Sender<FromDataPlane>,
    down: Streaming<FromControlPlane>,
    asks: mpsc::Sender<ScoreRequests>,
    answers: Streaming<ScoreResponses>,
}

impl Proxy {
    /// A proxy that has sent its hello.
    pub(crate) async fn connect(replica: SocketAddr, id: u64) -> Self {
        let proxy = Self::silent(replica, id).await;
        proxy
            .send(Up::Hello(Hello {
                proxy: id,
                name: format!("proxy-{id}"),
                release: "test".into(),
            }))
            .await;
        proxy
    }

    /// A proxy with both streams open that has sent nothing.
    pub(crate) async fn silent(replica: SocketAddr, id: u64) -> Self {
        let mut client = RouterClient::connect(format!("http://{replica}"))
            .await
            .expect("the replica listens");
        let ((up, said), (asks, asked)) = (mpsc::channel(16), mpsc::channel(16));
        let down = client
            .sync(ReceiverStream::new(said))
            .await
            .expect("a subscription")
            .into_inner();
        let answers = client
            .score(ReceiverStream::new(asked))
            .await
            .expect("a score stream")
            .into_inner();
        Self {
            id,
            client,
            up,
            down,
            asks,
            answers,
        }
    }

    pub(crate) async fn send(&self, message: Up) {
        self.up
            .send(FromDataPlane {
                message: Some(message),
            })
            .await
            .expect("the stream is open");
    }

    /// Reports on the only leg of a request.
    pub(crate) async fn report(&self, request: u64, event: Event) {
        self.report_leg(request, 0, event).await;
    }

    pub(crate) async fn report_leg(&self, request: u64, leg: u32, event: Event) {
        self.send(Up::Reports(Reports {
            reports: vec![Report {
                request,
                leg,
                event: Some(event),
            }],
        }))
        .await;
    }

    /// The next message, whatever it is.
    pub(crate) async fn down(&mut self) -> Result<Option<FromControlPlane>, Status> {
        self.down.message().await
    }

    /// The next whole snapshot; loads before it are passed over.
    pub(crate) async fn snapshot(&mut self) -> Snapshot {
        loop {
            match self.next_message().await {
                Down::Snapshot(bytes) => return Snapshot::decode(bytes).expect("a snapshot"),
                Down::Load(_) => {}
                Down::Delta(delta) => panic!("a delta where a snapshot should come: {delta:?}"),
            }
        }
    }

    /// The next delta; loads before it are passed over.
    pub(crate) async fn delta(&mut self) -> Delta {
        loop {
            match self.next_message().await {
                Down::Delta(bytes) => return Delta::decode(bytes).expect("a delta"),
                Down::Load(_) => {}
                Down::Snapshot(snapshot) => {
                    panic!("a snapshot where a delta should come: {snapshot:?}")
                }
            }
        }
    }

    /// The next loads.
    pub(crate) async fn load(&mut self) -> LoadUpdate {
        match self.next_message().await {
            Down::Load(bytes) => LoadUpdate::decode(bytes).expect("loads"),
            other => panic!("not a load: {other:?}"),
        }
    }

    /// Whether it uses the loads of this replica.
    pub(crate) async fn set_load_interest(&self, wanted: bool) {
        self.send(Up::LoadInterest(LoadInterest { wanted })).await;
    }

    /// Waits for a row like this; of two rows of one endpoint in one update the latter counts.
    pub(crate) async fn load_where(
        &mut self,
        wanted: impl Fn(&EndpointLoad) -> bool,
    ) -> EndpointLoad {
        loop {
            let rows = self.load().await.loads;
            let latest: BTreeMap<u64, EndpointLoad> =
                rows.into_iter().map(|row| (row.endpoint, row)).collect();
            if let Some(found) = latest.into_values().find(&wanted) {
                return found;
            }
        }
    }

    pub(crate) async fn ask_all(&mut self, requests: Vec<ScoreRequest>) -> Vec<ScoreResponse> {
        let requests = requests
            .into_iter()
            .map(|request| ScoreRequest {
                proxy: self.id,
                ..request
            })
            .collect();
        self.asks
            .send(ScoreRequests {
                requests,
                cancels: Vec::new(),
            })
            .await
            .expect("the stream is open");
        let answer = timeout(SOON, self.answers.message())
            .await
            .expect("an answer in time");
        answer
            .expect("the stream is whole")
            .expect("the stream goes on")
            .responses
    }

    pub(crate) async fn ask(&mut self, request: ScoreRequest) -> ScoreResponse {
        self.ask_all(vec![request]).await.remove(0)
    }

    /// Where the request should go.
    pub(crate) async fn chosen(&mut self, request: ScoreRequest) -> u64 {
        match self.ask(request).await.answer {
            Some(Answer::Selected(chosen)) => chosen.ranked[0].endpoint,
            other => panic!("no endpoint was selected: {other:?}"),
        }
    }

    pub(crate) async fn cancel(&self, request: u64) {
        let cancels = ScoreRequests {
            requests: Vec::new(),
            cancels: vec![request],
        };
        self.asks.send(cancels).await.expect("the stream is open");
    }

    pub(crate) async fn explain(&self, request: ScoreRequest) -> Explanation {
        let answer = timeout(SOON, self.client.clone().explain(request))
            .await
            .expect("an answer in time");
        answer.expect("an explanation").into_inner()
    }

    /// The number of booked and open requests in the pool `chat`, as the replica explains them.
    pub(crate) async fn booked(&self) -> u64 {
        let request = ScoreRequest {
            pool: "chat".into(),
            ..ScoreRequest::default()
        };
        let explanation: serde_json::Value =
            serde_json::from_str(&self.explain(request).await.json).expect("JSON");
        let candidates = explanation["candidates"].as_array().expect("candidates");
        candidates
            .iter()
            .map(|candidate| candidate["in_flight"].as_u64().expect("a count"))
            .sum()
    }

    pub(crate) async fn await_booked(&self, wanted: u64) {
        let reached = async {
            while self.booked().await != wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.expect("the bookings in time");
    }

    /// Waits until the replica has ended both streams.
    pub(crate) async fn ends(&mut self) {
        while let Ok(Some(_)) = self.down.message().await {}
        while let Ok(Some(_)) = self.answers.message().await {}
    }

    async fn next_message(&mut self) -> Down {
        let message = timeout(SOON * 2, self.down.message())
            .await
            .expect("a message in time");
        message
            .expect("the stream is whole")
            .expect("the stream goes on")
            .message
            .expect("a message with content")
    }
}
