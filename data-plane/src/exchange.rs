//! Exchanges with endpoints: sending a request, relaying the answer, and what is recorded of both.
//!
//! ```text
//!   forward ─▶ leg ─▶ endpoint        one attempt after another, by the decisions of retry
//!      │        └──▶ answer           the class of what came: tokens, an error, nothing
//!      └──▶ pair ─▶ two legs          an attempt at a prefill and a decode endpoint
//!   relay ─▶ meter ─▶ guard           the answer's pieces, their times and usage
//!   gateway ─▶ meter ─▶ guard         the same of an exchange that a gateway makes
//!   guard, when dropped ─▶ summary ─▶ observers: metrics, span, log, access record, report, endpoint health
//! ```

mod admitted_endpoint;
mod answer;
mod attempt;
mod cached_tokens;
pub(crate) mod forward;
pub(crate) mod gateway;
pub(crate) mod guard;
mod leaders;
mod led_pair;
mod leg;
mod meter;
pub(crate) mod model_restorer;
mod observers;
mod pair;
mod pair_times;
mod placements;
mod prefill_answer;
mod rate_limits;
mod recomputed;
mod refusals;
pub(crate) mod relay;
pub mod restored_answer;
mod retry;
mod sent_leg;
mod summary;
mod timeline;
pub(crate) mod trace;
mod transfer;
mod tries;
mod turn;
mod unread_answer;

#[cfg(test)]
mod tests;
