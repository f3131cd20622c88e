//! The pools of this replica: who chooses for each, and what choosing needs besides the snapshot.
//!
//! ```text
//!   PoolDirectory ─▶ PoolHandle ┬▶ PoolScheduler   choice, booking and queue under one lock
//!                               └▶ PoolResources   KV manager, KV events, tokenizer
//! ```

mod directory;
mod resources;
mod scheduler;

pub(crate) use self::{
    directory::{Brains, Guide, Home},
    resources::Guides,
    scheduler::{Brain, Census, Finish, Refusal, Row, Rows, Verdict, Wait},
};
