//! SGLang: both engines get one body at once, and meet in a room at the bootstrap server of the
//! prefill engine. That one computes the prompt when the decode engine is there, and answers when
//! the KV cache is moved.

use tokio::time::timeout;

use super::engine::PairEngine;
use super::fields::LegFields;
use super::rooms::{RoomSeat, RoomStage};
use super::side_channel::{self, PARTNER_WAIT};
use super::violation::PairViolation;
use super::{LegFailure, PairLeg, PairRole};

/// The port of a bootstrap server for which a request names none.
pub(super) const BOOTSTRAP_PORT: u16 = 8998;

struct Room<'a> {
    number: u64,
    host: &'a str,
    port: u16,
}

/// A request at a prefill engine: waits for the decode engine.
pub(super) async fn prefill(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let room = room(fields)?;
    if room.port != engine.port {
        return Err(PairViolation::OtherBootstrap.into());
    }
    let seat = engine.rooms.enter(room.number, PairRole::Prefill)?;
    match timeout(PARTNER_WAIT, seat.after(RoomStage::Open)).await {
        Ok(RoomStage::Joined) => Ok(PairLeg {
            is_prefill: true,
            room: Some(seat),
            ..PairLeg::default()
        }),
        _ => Err(LegFailure::PartnerGone),
    }
}

/// A request at a decode engine: waits for the KV cache.
pub(super) async fn decode(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let room = room(fields)?;
    side_channel::meet(engine, (room.host, room.port), room.number).await
}

/// A prompt of this many tokens is computed: waits until the decode engine has its KV cache.
pub(super) async fn hand_over(seat: &RoomSeat, tokens: usize) -> Result<(), LegFailure> {
    seat.reach(RoomStage::Computed(tokens));
    match timeout(PARTNER_WAIT, seat.after(RoomStage::Computed(tokens))).await {
        Ok(RoomStage::Moved) => Ok(()),
        _ => Err(LegFailure::PartnerGone),
    }
}

fn room<'a>(fields: &'a LegFields<'_>) -> Result<Room<'a>, PairViolation> {
    let number = fields.bootstrap_room.ok_or(PairViolation::NoRoom)?;
    let host = fields.bootstrap_host.as_deref();
    Ok(Room {
        number,
        host: host.ok_or(PairViolation::OtherBootstrap)?,
        port: fields.bootstrap_port.unwrap_or(BOOTSTRAP_PORT),
    })
}
