//! The tree checks itself: what reviews would otherwise repeat. Each message says what to do.
//!
//! Code:
//! * [`dependencies`]: which crate may depend on which, and what must not appear below a crate.
//! * [`circles`]: sibling modules form no circles.
//! * [`rooms`]: the order of the data plane's rooms, and those that know no HTTP server.
//! * [`sizes`]: files and functions stay readable.
//! * [`names`]: type names are unique, and files are named for what they hold.
//! * [`words`]: plain words.
//! * [`commits`]: messages of commits have the form that is asked for.
//! * [`sources`]: orphans, clocks in `core`, detached tasks, and what must not be in any file.
//!
//! Documentation, as far as it can be checked without running anything:
//! * [`charts`]: alerts and dashboard name metrics that exist.
//! * [`links`]: links lead to files and headings, and files that are named exist.
//! * [`metric_names`]: metrics that pages name are in the tables of `docs/metrics.md`.
//! * [`local_replies`]: every code by which a proxy answers itself is documented.
//! * [`walks`]: functions that the walks through the code name exist.

mod charts;
mod circles;
mod commits;
mod dependencies;
mod links;
mod local_replies;
mod metric_names;
mod names;
mod rooms;
mod sizes;
mod sources;
mod walks;
mod words;
