//! The tree checks itself: what review would otherwise have to say again and again. Each message says what to do.
//!
//! * [`dependencies`]: who may depend on whom, and which crates never appear below whom.
//! * [`sources`]: sizes, names, orphans, and words that must not be in code.

mod dependencies;
mod sources;
mod tree;
