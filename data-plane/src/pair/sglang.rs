//! `sglang`: both endpoints get the same body at once, and meet in a room: a number at the
//! bootstrap server of the prefill endpoint.
//!
//! The decode endpoint's answer is the client's. Either endpoint waits for the other one for
//! minutes, so that the failure of one leg has to end the other.

use std::num::NonZeroU16;

use hermes_core::snapshot::Endpoint;

use super::{ConcurrentLegs, LegEdits};
use crate::request::body_edit::BodyEdit;

pub(super) fn legs(prefill: &Endpoint, port: NonZeroU16, room: u64) -> ConcurrentLegs {
    let both = both(prefill, port, room);
    ConcurrentLegs {
        prefill: both.clone(),
        decode: both,
        must_end: false,
    }
}

pub(super) fn both(prefill: &Endpoint, port: NonZeroU16, room: u64) -> LegEdits {
    let host = serde_json::Value::from(prefill.address.host().to_string());
    // A signed number there, of 63 bits.
    let room = room & (u64::MAX >> 1);
    LegEdits {
        body: vec![
            BodyEdit::set("bootstrap_host", host.to_string()),
            BodyEdit::set("bootstrap_port", port.to_string()),
            BodyEdit::set("bootstrap_room", room.to_string()),
        ],
        is_for_once: true,
        ..LegEdits::default()
    }
}
