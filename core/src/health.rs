//! Failures and refusals of endpoints: when one is ejected and how it returns, and how many retries
//! a pool may afford.

mod cooldown;
pub mod ejection;
pub mod refusals;
pub mod retry_budget;
