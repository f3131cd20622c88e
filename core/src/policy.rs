//! What an operator decided for a pool, checked: only valid values exist here.
//!
//! The control plane builds these from its configuration file, and they travel to the proxies
//! inside the snapshot, which is why a proxy needs no configuration of its own.

mod disaggregation;
mod trust;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub use self::{
    disaggregation::{DisaggregationPolicy, PairDialect, PairFallback},
    trust::EndpointTrust,
};

/// How requests of one pool are handled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolPolicy {
    /// How an endpoint is chosen.
    pub strategy: Strategy,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// What happens when an attempt fails before its first byte.
    pub retry: RetryPolicy,
    /// When a failing endpoint is left alone.
    pub ejection: EjectionPolicy,
    /// Size in bytes of the chunks over which prompts are hashed.
    pub block_bytes: u32,
    /// How long a proxy waits for a `Score` answer before it chooses by itself.
    pub score_deadline: Duration,
    /// The pool's KV manager matches on the prompt's text, so `Score` has to carry it.
    pub lookup_text: bool,
    /// What identifies a tenant.
    pub tenant: TenantKey,
    /// Whose certificates endpoints at `https` addresses must show.
    pub trust: EndpointTrust,
    /// How requests are split between prefill and decode endpoints; `None`: those serve nothing.
    pub disaggregation: Option<DisaggregationPolicy>,
}

/// How an endpoint is chosen, by its name in the configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// Fewest requests in flight over the whole fleet.
    LeastRequest,
    /// Two at random, and of those the one with fewer requests in flight.
    PowerOfTwo,
    /// The same session to the same endpoint while it is not overloaded.
    SessionAffinity(SessionAffinity),
    /// Among the endpoints that have most of the prompt cached the least busy one, while none of
    /// them is overloaded.
    PrefixCache(PrefixCacheRules),
    /// Least expected cost: what the request waits, and what it makes others wait.
    KvAware(KvAware),
    /// Least weighted sum of KV miss rate, cache usage, queue and booked work: the original
    /// hermes-router's score.
    HermesClassic(ClassicWeights),
}

/// Where a session's key comes from, and how far affinity may overload an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionAffinity {
    /// Tried in order; a request with none of them is placed by power of two.
    pub keys: Vec<SessionKey>,
    /// An endpoint takes at most this multiple of the mean load (consistent hashing with bounded
    /// loads, Mirrokni, Thorup, Zadimoghaddam 2016); above 1.
    pub load_factor: f32,
}

/// One place in a request that can name a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKey {
    /// The value of this header, lower case.
    Header(Arc<str>),
    /// The credential in `Authorization`: hashed in the proxy, never sent or logged.
    Key,
    /// `user` (or `prompt_cache_key`, `safety_identifier`) of the body.
    User,
}

/// When a cached prefix decides, and when load does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PrefixCacheRules {
    /// Share of the prompt that has to be cached at an endpoint for its cache to count, 0..1.
    pub threshold: f32,
    /// An endpoint is overloaded with more than this multiple of the mean requests in flight (and
    /// [`Self::SLACK`] more); at least 1.
    pub load_factor: f32,
}

/// What identifies the tenants of a pool, between which queueing is fair. A request without it has
/// no tenant.
///
/// Who sends a fresh value with each request is a new tenant each time, and new tenants go first.
/// So there is none unless the operator names a value that clients cannot make up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantKey {
    /// Nothing: all requests are alike.
    #[default]
    None,
    /// The value of this header, lower case, which a gateway in front sets.
    Header(Arc<str>),
    /// The credential in `Authorization`, which a gateway in front verifies: hashed in the proxy,
    /// never sent or logged.
    Key,
    /// The model's name, so that each LoRA adapter is a tenant.
    Model,
}

/// How costs are weighed, and when a request waits for a better endpoint. Every default is meant to
/// be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KvAware {
    /// Whether requests wait in the control plane until an endpoint has room ("late binding"), and
    /// not in engines.
    pub late: bool,
    /// An endpoint has room while the prompts sent there and not answered are less work than this,
    /// in the lane that is free first.
    pub window: Duration,
    /// How much the delay counts that wasted prefill causes to requests still to come; 1 is what
    /// queueing theory says.
    pub gamma: f32,
    /// How much the delay counts that it causes to requests in the queue; 1 is what queueing theory
    /// says.
    pub gamma_waiting: f32,
    /// Prefill rate of an endpoint in tokens a second until its own, or its pool's, is learned.
    pub default_prefill_rate: f32,
    /// Cache capacity in tokens to assume when an engine does not report it.
    pub default_cache_tokens: u32,
    /// Bounds of the queue.
    pub queue: QueueLimits,
}

/// Bounds of the requests that wait in the control plane for one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QueueLimits {
    /// Requests at most; over it 429.
    pub max_requests: u32,
    /// Bytes of their prompts at most, held in the proxies meanwhile; over it 429.
    pub max_bytes: u64,
    /// The longest wait; after it 503.
    pub max_wait: Duration,
    /// The highest priority that clients may give their requests, at least 0: proxies take a higher
    /// one for this. Lower ones count as they are, and so do those that the pool gives.
    pub max_priority: i32,
}

/// Weights of the classic score; lower is better. The names in brackets are the original
/// hermes-router's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassicWeights {
    /// Times `1 - hit rate` of the prompt there (`kvCacheNotHitRateWeight`,
    /// `kvCacheHitNotRateWeight`).
    pub miss: f32,
    /// Times the KV-cache usage, 0..=1 (`xpuCacheUsageWeight`).
    pub usage: f32,
    /// Times the engine's waiting requests, scaled by `scale` (`waitingRequestWeight`).
    pub waiting: f32,
    /// Times the prefill tokens booked and not yet answered there, scaled by `scale`
    /// (`inflightWeight`).
    pub in_flight: f32,
    /// How counts become comparable with rates.
    pub scale: CountScale,
}

/// How a count (waiting requests, tokens) enters a weighted sum of rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CountScale {
    /// Divided by the largest among the candidates: 0..=1.
    #[default]
    Max,
    /// As it is. Tokens count in thousands.
    Raw,
}

/// How long each step of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// Opening a connection to an endpoint.
    pub connect: Duration,
    /// A whole request that does not stream.
    pub request: Duration,
    /// From sending a streaming request to the first byte of its answer's body.
    pub first_byte: Duration,
    /// Silence inside a streamed answer.
    pub idle: Duration,
}

/// How often, and how much, failed attempts are repeated on another endpoint; only before the first
/// byte.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    /// Attempts for one request, the first included; at least 1.
    pub max_attempts: u32,
    /// Retries as a share of requests: a failing fleet must not be multiplied by its own retries.
    pub budget: f32,
}

/// When an endpoint that fails is taken out of choices, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EjectionPolicy {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// First time out; doubles with every failed trial up to `longest`.
    pub base_time: Duration,
    /// Longest time out.
    pub max_time: Duration,
    /// Slow start: how long the share of turns takes to grow to all of them.
    pub slow_start: Duration,
}

/// What applies to every request before its pool is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProxySettings {
    /// Largest request body in bytes; over it 413.
    pub max_body_bytes: u64,
    /// Requests that one proxy serves at once; over it 429.
    pub max_concurrent: u32,
    /// How long a client may take to send its head, and between two pieces of its body.
    pub client_timeout: Duration,
    /// How long an answer may wait for its client to take what is there.
    pub send_timeout: Duration,
    /// How long a client may keep a connection without a request.
    pub keep_alive_timeout: Duration,
    /// Whether answers name the endpoint in `x-hermes-endpoint`.
    pub expose_endpoint: bool,
    /// Paths, besides the known ones, that are forwarded as they are; each begins with `/`.
    pub extra_paths: Vec<Arc<str>>,
    /// Origins whose pages may send requests and read the answers (CORS); `*` is any.
    pub cors_origins: Vec<Arc<str>>,
}

// === PoolPolicy ===

impl PoolPolicy {
    /// The rules of `kv-aware`, if that is the strategy.
    #[must_use]
    pub const fn kv_aware(&self) -> Option<KvAware> {
        match self.strategy {
            Strategy::KvAware(rules) => Some(rules),
            _ => None,
        }
    }

    /// The rules of `kv-aware`; the defaults under other strategies.
    #[must_use]
    pub fn kv_aware_or_default(&self) -> KvAware {
        self.kv_aware().unwrap_or_default()
    }
}

// === Strategy ===

impl Strategy {
    /// Its name in the configuration, metrics and explanations.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastRequest => "least-request",
            Self::PowerOfTwo => "power-of-two",
            Self::SessionAffinity(_) => "session-affinity",
            Self::PrefixCache(_) => "prefix-cache",
            Self::KvAware(_) => "kv-aware",
            Self::HermesClassic(_) => "hermes-classic",
        }
    }

    /// Whether its quality depends on what only the control plane knows: every proxy's bookings,
    /// and caches.
    ///
    /// The others read nothing, or tolerate load that is a moment old, and are answered in the
    /// proxy without a call.
    #[must_use]
    pub const fn needs_score(&self) -> bool {
        matches!(
            self,
            Self::LeastRequest | Self::PrefixCache(_) | Self::KvAware(_) | Self::HermesClassic(_)
        )
    }

    /// Whether it reads the prompt's block hashes.
    #[must_use]
    pub const fn needs_prefix(&self) -> bool {
        matches!(
            self,
            Self::PrefixCache(_) | Self::KvAware(_) | Self::HermesClassic(_)
        )
    }
}

// === PrefixCacheRules ===

impl PrefixCacheRules {
    /// Requests in flight above the mean that are no overload, however small the mean.
    pub const SLACK: f32 = 4.0;
}

// === KvAware ===

impl KvAware {
    /// Seconds of delay that a wasted second of prefill causes to all requests to come: a part of
    /// γ.
    ///
    /// Each request that arrives before the endpoint is idle again waits a second longer:
    /// `ρ / (1 − ρ)` in the mean, where ρ is the share of time in which endpoints compute prompts
    /// (M/G/1). So waste costs nothing on an idle fleet and is out of the question on a full one,
    /// without a number to tune. Each request that is queued for the endpoint already adds
    /// [`gamma_waiting`](Self::gamma_waiting) for each of its lanes.
    ///
    /// `utilization` is ρ of the endpoints that may serve the request.
    #[must_use]
    pub fn gamma(&self, utilization: f64) -> f64 {
        let busy = utilization.clamp(0.0, Self::BUSIEST);
        f64::from(self.gamma) * busy / (1.0 - busy)
    }

    /// Utilization above this counts as saturation; γ is 49 here.
    const BUSIEST: f64 = 0.98;
}

// === Default values ===

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            strategy: Strategy::KvAware(KvAware::default()),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            ejection: EjectionPolicy::default(),
            block_bytes: 256,
            score_deadline: Duration::from_millis(20),
            lookup_text: false,
            tenant: TenantKey::default(),
            trust: EndpointTrust::System,
            disaggregation: None,
        }
    }
}

impl Default for SessionAffinity {
    fn default() -> Self {
        Self {
            keys: vec![
                SessionKey::Header("x-session-id".into()),
                SessionKey::User,
                SessionKey::Key,
            ],
            load_factor: 1.25,
        }
    }
}

impl Default for PrefixCacheRules {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            load_factor: 1.5,
        }
    }
}

impl Default for KvAware {
    fn default() -> Self {
        Self {
            late: true,
            window: Duration::from_millis(50),
            gamma: 1.0,
            gamma_waiting: 1.0,
            default_prefill_rate: 8_000.0,
            default_cache_tokens: 400_000,
            queue: QueueLimits::default(),
        }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            max_requests: 10_000,
            max_bytes: 1 << 30,
            max_wait: Duration::from_secs(30),
            max_priority: 0,
        }
    }
}

impl Default for ClassicWeights {
    fn default() -> Self {
        Self {
            miss: 1.0,
            usage: 1.0,
            waiting: 1.0,
            in_flight: 1.0,
            scale: CountScale::Max,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(120),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            budget: 0.2,
        }
    }
}

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            base_time: Duration::from_secs(1),
            max_time: Duration::from_secs(30),
            slow_start: Duration::from_secs(5),
        }
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 20,
            max_concurrent: 10_000,
            client_timeout: Duration::from_secs(30),
            send_timeout: Duration::from_secs(60),
            // Above what load balancers keep connections for (600 s is the longest common one): of
            // the two, the side that also sends the requests is the one to close.
            keep_alive_timeout: Duration::from_secs(620),
            expose_endpoint: false,
            extra_paths: Vec::new(),
            cors_origins: Vec::new(),
        }
    }
}
