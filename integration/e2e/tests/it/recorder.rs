//! A server that records what proxies send to it, and a fleet in front of a server that is no
//! simulated engine.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hermes_bench::fleet::{self, Plane};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane},
    config::Config,
};
use hermes_data_plane::app::DataPlane;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// No step of these tests takes longer, unless something hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// One control plane and one proxy.
pub(crate) struct Front {
    pub(crate) proxy: Plane<DataPlane>,
    _control: Plane<ControlPlane>,
}

impl Front {
    /// In front of the servers that the configuration names.
    pub(crate) async fn start(yaml: &str) -> Self {
        let config = ConfigSource::Value(Config::parse(yaml).expect("a valid configuration"));
        let control = fleet::control_plane(config).await.expect("starts");
        let proxy = fleet::proxy(&[control.bound.grpc]).await.expect("starts");
        let ready = timeout(LONG, proxy.bound.readiness.ready()).await;
        ready.expect("the proxy has a snapshot");
        Self {
            proxy,
            _control: control,
        }
    }

    pub(crate) fn url(&self) -> String {
        self.proxy.url()
    }

    /// Sends bytes, and returns all that comes back until the proxy closes the connection.
    pub(crate) async fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.proxy.bound.listen)
            .await
            .expect("listens");
        stream.write_all(bytes).await.expect("is read");
        let mut answer = Vec::new();
        let read = timeout(LONG, stream.read_to_end(&mut answer)).await;
        read.expect("in time").expect("no reset");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A server that gives one answer to every request of a proxy.
pub(crate) struct Recorder {
    address: SocketAddr,
    seen: Arc<Recorded>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Recorded {
    /// Head and body of each request.
    requests: Mutex<Vec<String>>,
    /// Connections that brought one.
    connections: AtomicUsize,
}

impl Recorder {
    /// `answer` is a whole response, head and body.
    pub(crate) async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::<Recorded>::default();
        let recorded = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let recorded = Arc::clone(&recorded);
                // It ends when the other side closes the connection.
                tokio::spawn(async move { recorded.serve(stream, answer).await });
            }
        });
        Self {
            address,
            seen,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A pool `chat` of this server alone.
    pub(crate) fn pool(&self) -> String {
        format!(
            "pools: [{{name: chat, strategy: round-robin, endpoints: ['{}']}}]\n",
            self.url()
        )
    }

    /// The requests since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.requests.lock())
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

impl Recorded {
    async fn serve(&self, stream: TcpStream, answer: &str) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut is_counted = false;
        loop {
            let request = read_request(&mut stream).await?;
            let path = request.split(' ').nth(1).unwrap_or_default();
            if ["/health", "/metrics", "/v1/models", "/get_server_info"].contains(&path) {
                let none = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                stream.get_mut().write_all(none).await?;
                continue;
            }
            if !std::mem::replace(&mut is_counted, true) {
                self.connections.fetch_add(1, Ordering::Relaxed);
            }
            self.requests.lock().push(request);
            stream.get_mut().write_all(answer.as_bytes()).await?;
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    head.push_str(&String::from_utf8_lossy(&body));
    Ok(head)
}
