//! vLLM's `MooncakeConnector`: both engines get their leg at once, with one transfer id. The decode
//! engine asks the bootstrap server of the prefill engine where the engine of its leg is, and waits
//! there. The prefill engine answers when the prompt is computed, whether the decode engine is there
//! or not.

use std::io;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bootstrap_server::RegisteredRanks;
use super::engine::PairEngine;
use super::fields::LegFields;
use super::kept_caches::ComputedPrompt;
use super::rooms::{RoomSeat, RoomStage};
use super::side_channel::{self, HANDSHAKE};
use super::violation::PairViolation;
use super::{LegFailure, PairLeg, PairRole};

/// Largest page of a bootstrap server that is read, in bytes.
const PAGE: u64 = 64 << 10;

#[derive(Default, Deserialize)]
#[serde(default)]
struct MooncakeParams {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    transfer_id: Option<String>,
    remote_bootstrap_addr: Option<String>,
    remote_engine_id: Option<String>,
}

/// A prefill leg until its prompt is computed: one that is dropped before is one that was cut off.
#[derive(Debug)]
pub(super) struct PushSeat {
    seat: RoomSeat,
    room: u64,
    is_computed: bool,
}

/// A request at a prefill engine, for the rank that its header names. Without one the engine chooses
/// among its ranks, so that it has to have one only.
pub(super) fn prefill(
    engine: &PairEngine,
    fields: &LegFields<'_>,
    rank: Option<&str>,
) -> Result<PairLeg, LegFailure> {
    let params: MooncakeParams = fields.transfer_params()?.unwrap_or_default();
    let asks = params.do_remote_decode && !params.do_remote_prefill;
    if !asks || !fields.is_for_one_token() {
        return Err(PairViolation::NoPrefillLeg.into());
    }
    let transfer = params.transfer_id;
    let transfer = transfer.ok_or(PairViolation::IncompleteParameters)?;
    let rank = match rank {
        Some(rank) => rank.parse::<u32>().ok(),
        None => (engine.ranks == 1).then_some(0),
    };
    let rank = rank.filter(|rank| *rank < engine.ranks);
    let room = room(&transfer, rank.ok_or(PairViolation::NoRank)?);
    let seat = engine.rooms.enter(room, PairRole::Prefill)?;
    Ok(PairLeg {
        is_prefill: true,
        push: Some(PushSeat {
            seat,
            room,
            is_computed: false,
        }),
        ..PairLeg::default()
    })
}

/// A request at a decode engine: waits for the KV cache. Without parameters the engine computes the
/// prompt itself.
pub(super) async fn decode(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let Some(params) = fields.transfer_params()? else {
        return Ok(PairLeg::default());
    };
    let MooncakeParams {
        do_remote_decode: false,
        do_remote_prefill: true,
        transfer_id: Some(transfer),
        remote_bootstrap_addr: Some(bootstrap),
        remote_engine_id: Some(engine_id),
    } = params
    else {
        return Err(PairViolation::IncompleteParameters.into());
    };
    let page = timeout(HANDSHAKE, query(&bootstrap)).await;
    let Ok(Ok(ranks)) = page else {
        return Err(LegFailure::PartnerGone);
    };
    let found = ranks.iter().find(|(_, rank)| rank.engine_id == engine_id);
    let (rank, registered) = found.ok_or(PairViolation::OtherEngine)?;
    let worker = registered.worker_addr.get(&0).and_then(|tp| tp.get(&0));
    let address = worker.and_then(|url| side_channel::address(url));
    let address = address.ok_or(PairViolation::OtherEngine)?;
    side_channel::meet(engine, address, room(&transfer, *rank)).await
}

/// Keeps a prompt that is computed until the decode engine has it.
pub(super) fn push(engine: &PairEngine, seat: &mut PushSeat, prompt: ComputedPrompt, id: &str) {
    if engine.ends_at_once {
        // Only what ended at its limit is transferred: the seat is left as one that was cut off.
        return;
    }
    let tokens = prompt.tokens;
    engine.keep_for(seat.room, prompt, id);
    seat.is_computed = true;
    seat.seat.reach(RoomStage::Computed(tokens));
}

impl Drop for PushSeat {
    fn drop(&mut self) {
        if !self.is_computed {
            self.seat.reach(RoomStage::CutOff);
        }
    }
}

/// Where the legs of a transfer meet.
fn room(transfer: &str, rank: u32) -> u64 {
    xxh3_64_with_seed(transfer.as_bytes(), rank.into())
}

/// The ranks that a bootstrap server lists.
async fn query(address: &str) -> io::Result<RegisteredRanks> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let authority = address.strip_prefix("http://").ok_or_else(invalid)?;
    let mut connection = TcpStream::connect(authority).await?;
    let request = format!("GET /query HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(PAGE).read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).map_err(|_| invalid())?;
    let (_, page) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    Ok(serde_json::from_str(page)?)
}
