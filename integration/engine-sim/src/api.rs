//! What clients and the router ask an engine: vLLM's routes, their requests, answers and errors,
//! and its metrics.
//!
//! ```text
//! fields ─▶ prompt, generation (parameters, sequences) ─▶ chat, completions, messages, responses, pooling
//!                                                         └ stream: one event for each token
//! info: models, health, tokens, metrics (exposition, page), and the simulator's own `/sim/*`
//! ```

pub(crate) mod chat;
pub(crate) mod completions;
mod context;
pub(crate) mod context_answer;
mod exposition;
pub(crate) mod fields;
pub(crate) mod generation;
pub(crate) mod info;
pub(crate) mod messages;
mod page;
mod pairs;
pub(crate) mod pooling;
pub(crate) mod prompt;
pub(crate) mod question;
pub(crate) mod reply;
pub(crate) mod responses;
pub(crate) mod route;
pub(crate) mod stream;
mod usage;

pub(crate) use context::EngineContext;
pub use prompt::Prompt;
