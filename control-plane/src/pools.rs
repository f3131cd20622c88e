//! The pools of this replica: what schedules the requests of each, and what that uses besides the
//! snapshot.
//!
//! ```text
//!   PoolDirectory ─▶ PoolHandle ┬▶ PoolScheduler   choice, booking and queue under one lock
//!                               └▶ PoolResources   KV manager, KV events, tokenizer
//! ```

mod directory;
pub(crate) mod queue_ticker;
mod queue_waker;
mod resources;
mod scheduler;

pub(crate) use self::{
    directory::{PoolDirectory, PoolHandle},
    resources::{PoolResourceRegistry, PoolResources},
    scheduler::{
        AttemptReport, FinishReport, PoolCensus, PoolLoadCursor, PoolScheduler, QueueTicket,
        ScoreDecision, ScoreRejection,
    },
};
