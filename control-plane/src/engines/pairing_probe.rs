//! Asks one endpoint for its part in pairs, in the turns of its probe.
//!
//! ```text
//!   an answer of the endpoint ─▶ due? ─▶ the page ─▶ PairingStatement, if it is another than before
//!   a refused connection ─▶ what a start of the engine changes is unknown again
//! ```
//!
//! It is asked at first contact, after each failure, when its process has another start time, and
//! now and then. While the names of its ranks are unknown, in each turn.

use std::time::Duration;

use hermes_core::{
    address::{ServerAddress, ServerScheme},
    policy::EndpointTrust,
};
use reqwest::Url;
use tokio::time::Instant;

use super::{
    EngineClient, EngineClients, EngineKey, NoEngineClient, PairingQuestion, PairingStatement,
    ProbeFailure, Scraped, fetch,
};

/// Largest page in bytes: SGLang's has the state of each rank.
const MAX_PAGE: usize = 4 << 20;

/// How often an endpoint is asked while nothing happens.
const EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct PairingProbe {
    question: PairingQuestion,
    urls: Vec<Url>,
    /// Of a server beside the engine.
    bootstrap: Option<EngineClient>,
    due: Instant,
    /// Start of its process, by its metrics.
    started: Option<f64>,
    /// The newest, which was returned.
    stated: Option<PairingStatement>,
}

/// Who asks, and how.
pub(super) struct PairingContact<'a> {
    pub(super) engine: &'a EngineClient,
    pub(super) key: Option<&'a EngineKey>,
    pub(super) limit: Duration,
}

impl PairingProbe {
    /// Of the endpoint at `address`, for which `engine` is the client.
    ///
    /// # Errors
    ///
    /// When there is no client for what is to be asked.
    pub(super) fn new(
        question: PairingQuestion,
        address: &ServerAddress,
        engine: &EngineClient,
        clients: &EngineClients,
    ) -> Result<Self, NoEngineClient> {
        let bootstrap = match question {
            PairingQuestion::Mooncake { port } => {
                let host = address.host().clone();
                let address = ServerAddress::new(ServerScheme::Http, host, port);
                Some(clients.to(&address, &EndpointTrust::System)?)
            }
            PairingQuestion::Sglang => None,
        };
        let client = bootstrap.as_ref().unwrap_or(engine);
        let urls = question.paths().iter().map(|path| client.page(path));
        Ok(Self {
            question,
            urls: urls.collect::<Result<_, _>>()?,
            bootstrap,
            due: Instant::now(),
            started: None,
            stated: None,
        })
    }

    /// What is new after a turn of the probe that ended so. The failure is that of the question
    /// itself.
    pub(super) async fn turn(
        &mut self,
        outcome: &Result<Scraped, ProbeFailure>,
        contact: PairingContact<'_>,
    ) -> Result<Option<PairingStatement>, ProbeFailure> {
        match outcome {
            Err(failure) => {
                self.due = Instant::now();
                let is_gone = *failure == ProbeFailure::Refused;
                Ok(if is_gone { self.forget_ranks() } else { None })
            }
            Ok(scraped) => {
                if scraped.started != self.started {
                    self.due = Instant::now();
                    self.started = scraped.started;
                }
                if Instant::now() < self.due {
                    return Ok(None);
                }
                self.ask(contact).await
            }
        }
    }

    /// What was returned did not arrive.
    pub(super) fn repeat(&mut self) {
        self.stated = None;
        self.due = Instant::now();
    }

    async fn ask(
        &mut self,
        contact: PairingContact<'_>,
    ) -> Result<Option<PairingStatement>, ProbeFailure> {
        let stated = match self.page(contact).await {
            Ok(page) => (self.question.read(&page)).map_err(|_| ProbeFailure::Garbage)?,
            // It has no such page.
            Err(ProbeFailure::Status(401 | 403 | 404 | 405 | 501)) => PairingStatement::default(),
            Err(ProbeFailure::Refused) => {
                let forgotten = self.forget_ranks();
                return forgotten.map(Some).ok_or(ProbeFailure::Refused);
            }
            Err(failure) => return Err(failure),
        };
        let awaits_ranks = self.bootstrap.is_some() && stated.ranks.is_none();
        self.due = Instant::now() + if awaits_ranks { Duration::ZERO } else { EVERY };
        Ok(self.news(stated))
    }

    /// The page of the first path that the endpoint has.
    async fn page(&self, contact: PairingContact<'_>) -> Result<bytes::Bytes, ProbeFailure> {
        let PairingContact { engine, key, limit } = contact;
        // The key is the engine's.
        let (client, key) = match &self.bootstrap {
            Some(bootstrap) => (&bootstrap.client, None),
            None => (&engine.client, key),
        };
        let mut page = Err(ProbeFailure::Status(404));
        for url in &self.urls {
            page = fetch::get(client, url, key, limit, MAX_PAGE).await;
            if !matches!(page, Err(ProbeFailure::Status(404))) {
                break;
            }
        }
        page
    }

    /// The engine may have started again, with other names for its ranks.
    fn forget_ranks(&mut self) -> Option<PairingStatement> {
        let stated = self.stated.clone()?;
        self.news(PairingStatement {
            ranks: None,
            ..stated
        })
    }

    fn news(&mut self, stated: PairingStatement) -> Option<PairingStatement> {
        if self.stated.as_ref() == Some(&stated) {
            return None;
        }
        self.stated = Some(stated.clone());
        Some(stated)
    }
}
