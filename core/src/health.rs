//! Failures of endpoints: when one is ejected and how it returns, and how many retries a pool may
//! afford.

pub mod ejection;
pub mod retry_budget;
