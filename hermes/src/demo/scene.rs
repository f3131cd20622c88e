//! What a phase runs on: engines, a KV manager that knows what they hold, and both planes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hermes_control_plane::{app::ConfigSource, config::Config};
use hermes_engine_sim::kv_manager::{KvManagerServer, Prompt, Question};
use hermes_engine_sim::{self as engine, Engine, EngineConfig, EngineHandle};
use hermes_runtime::shutdown::{Shutdown, Trigger};

use crate::{
    failure::Failure,
    planes::{self, Planes},
};

/// The model that the engines serve.
pub(super) const MODEL: &str = "hermes-demo";

/// One engine is slower, as in a fleet with two kinds of GPUs.
const SPEEDS: [f64; 4] = [1.0, 1.0, 1.0, 0.5];

/// Memory of each engine: 11,200 tokens. All conversations fit into the four together, and not into
/// any one of them.
const BLOCKS: usize = 700;
const BLOCK_TOKENS: usize = 16;

/// Prompt tokens that a full-speed engine computes in a second. A large model on a small GPU: short
/// prompts take their time, and cost this process little.
const PREFILL_RATE: f64 = 2_000.0;

/// How long the planes may take until the first request.
const READY: Duration = Duration::from_secs(10);

/// How long requests in flight may take at the end of a phase.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes of a token in the engines' tokenizer.
const TOKEN_BYTES: usize = 4;

/// Everything of one phase, running. Dropping it cuts everything off.
#[derive(Debug)]
pub(super) struct Scene {
    engines: Arc<[EngineHandle]>,
    _kv_manager: KvManagerServer,
    planes: Planes,
    shutdown: Shutdown,
    trigger: Trigger,
}

impl Scene {
    /// Starts engines with empty caches, for which a second takes `pace` seconds, and a router in
    /// front of them; it is ready when this returns.
    pub(super) async fn start(strategy: &str, pace: f64) -> Result<Self, Failure> {
        let engines = start_engines(pace).await?;
        let known = Arc::clone(&engines);
        let kv_manager = KvManagerServer::start(move |question| holders(&known, question));
        let kv_manager = kv_manager.await.map_err(Failure::Engine)?;
        let config = configuration(&engines, strategy, &kv_manager.url())?;
        let (shutdown, trigger) = Shutdown::manual();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = planes::Options {
            config: ConfigSource::Value(config),
            listen: any,
            admin: None,
            control_plane_listen: any,
            kv_events_listen: Vec::new(),
            control_plane_admin: None,
            picker: None,
            listener_certificates: None,
        };
        let planes = Planes::start(options, shutdown.drain()).await?;
        let ready = tokio::time::timeout(READY, planes.readiness().ready());
        ready.await.map_err(|_elapsed| Failure::NotReady(READY))?;
        Ok(Self {
            engines,
            _kv_manager: kv_manager,
            planes,
            shutdown,
            trigger,
        })
    }

    /// The engines, in order.
    pub(super) fn engines(&self) -> &[EngineHandle] {
        &self.engines
    }

    /// Where requests go.
    pub(super) fn router(&self) -> String {
        format!("http://{}", self.planes.listen())
    }

    /// Ends everything, the router first.
    pub(super) async fn stop(self) {
        let Self {
            engines,
            _kv_manager,
            planes,
            shutdown,
            trigger,
        } = self;
        trigger.fire();
        shutdown.run(GRACE).await;
        planes.stop().await;
        for engine in &*engines {
            engine.kill().await;
        }
    }
}

async fn start_engines(pace: f64) -> Result<Arc<[EngineHandle]>, Failure> {
    let mut engines = Vec::with_capacity(SPEEDS.len());
    for speed in SPEEDS {
        let config = EngineConfig {
            model: MODEL.to_owned(),
            speed,
            time_scale: pace,
            blocks: BLOCKS,
            block_size: BLOCK_TOKENS,
            prefill_rate: PREFILL_RATE,
            journal: 0,
            ..EngineConfig::default()
        };
        engines.push(Engine::start(config).await.map_err(Failure::Engine)?);
    }
    Ok(engines.into())
}

/// The configuration that an operator would write for this.
fn configuration(
    engines: &[EngineHandle],
    strategy: &str,
    kv_manager: &str,
) -> Result<Config, Failure> {
    let urls: Vec<String> = engines.iter().map(EngineHandle::url).collect();
    // Other strategies do not ask about caches, and the configuration would say so.
    let asked = match strategy {
        "kv-aware" => format!("\n  kvManager: {{url: '{kv_manager}', lookupTimeout: 100ms}}"),
        _ => String::new(),
    };
    let text = format!(
        "pools:\n- name: demo\n  models: [{MODEL}]\n  endpoints: [{}]\n  strategy: {strategy}\n  metrics: {{interval: 250ms}}{asked}",
        urls.join(", ")
    );
    Config::parse(&text).map_err(Failure::Flags)
}

/// What the KV manager knows: which share of the prompt each engine holds at this moment.
fn holders(engines: &[EngineHandle], question: &Question) -> Vec<(String, f64)> {
    let Question {
        model,
        prompt,
        candidates: _,
    } = question;
    let (json, tokens) = match prompt {
        Prompt::Messages(messages) => (messages.to_string(), tokens_of(messages)),
        Prompt::Text(text) => (
            text.as_str().unwrap_or_default().to_owned(),
            tokens_of(text),
        ),
    };
    let prompt = match prompt {
        Prompt::Messages(_) => engine::Prompt::Messages(&json),
        Prompt::Text(_) => engine::Prompt::Text(&json),
    };
    let share = |engine: &EngineHandle| {
        let held = engine.held_prefix_tokens(model, prompt);
        (
            engine.addr().to_string(),
            (held as f64 / tokens.max(1) as f64).min(1.0),
        )
    };
    engines.iter().map(share).collect()
}

/// Tokens of all texts in a prompt. The few that a chat template adds do not matter here.
fn tokens_of(prompt: &serde_json::Value) -> usize {
    match prompt {
        serde_json::Value::String(text) => text.len().div_ceil(TOKEN_BYTES),
        serde_json::Value::Array(messages) => messages
            .iter()
            .filter_map(|message| message.get("content"))
            .map(tokens_of)
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kv_manager_knows_nothing_of_empty_engines_and_names_them_as_the_router_does() {
        let engines = start_engines(1.0).await.expect("free ports");
        let messages = serde_json::json!([{"role": "user", "content": "hello, hello"}]);
        let question = Question {
            model: MODEL.to_owned(),
            prompt: Prompt::Messages(messages),
            candidates: Vec::new(),
        };
        let known = holders(&engines, &question);
        let names: Vec<String> = engines
            .iter()
            .map(|engine| engine.addr().to_string())
            .collect();
        assert_eq!(
            known,
            names
                .into_iter()
                .map(|name| (name, 0.0))
                .collect::<Vec<_>>()
        );
    }

    #[tokio::test]
    async fn the_configuration_of_every_strategy_is_right_and_without_warnings() {
        let engines = start_engines(1.0).await.expect("free ports");
        for strategy in super::super::STRATEGIES {
            let config = configuration(&engines, strategy, "http://127.0.0.1:1")
                .expect("a good configuration");
            assert_eq!(config.warnings, Vec::<String>::new());
            assert_eq!(config.pools[0].policy.strategy.name(), strategy);
        }
    }

    #[test]
    fn the_length_of_a_chat_is_that_of_its_texts() {
        let messages = serde_json::json!([{"content": "12345678"}, {"content": [{"type": "text"}]}, {"role": "user"}]);
        assert_eq!(tokens_of(&messages), 2);
    }
}
