//! Rooms at the bootstrap server of a prefill engine, in which the two legs of SGLang's pairs meet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::PairRole;
use super::violation::PairViolation;

/// Rooms that are remembered, so that a number is used once.
const REMEMBERED: usize = 1 << 16;

/// The rooms that were named lately.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<NamedRooms>);

#[derive(Debug, Default)]
struct NamedRooms {
    rooms: HashMap<u64, Room>,
    /// The keys of `rooms`, oldest first.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Room {
    has_prefill: bool,
    has_decode: bool,
    stage: Arc<watch::Sender<RoomStage>>,
}

/// How far the legs of a room have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomStage {
    /// The decode leg is not there yet.
    Open,
    /// The decode leg is there, and waits for the prompt.
    Joined,
    /// A prompt of this many tokens is computed.
    Computed(usize),
    /// The decode leg has the prompt's cache.
    Moved,
    /// The decode leg left before it had that.
    Left,
    /// The prefill leg left before the prompt was computed.
    CutOff,
}

/// A leg's place in a room.
#[derive(Debug)]
pub(super) struct RoomSeat(Arc<watch::Sender<RoomStage>>);

impl Rooms {
    /// Enters a room.
    ///
    /// # Errors
    /// If a leg of this role is or was in it.
    pub(super) fn enter(&self, number: u64, role: PairRole) -> Result<RoomSeat, PairViolation> {
        let mut named = self.0.lock();
        let NamedRooms { rooms, order } = &mut *named;
        if !rooms.contains_key(&number) {
            order.push_back(number);
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                rooms.remove(&oldest);
            }
        }
        let room = rooms.entry(number).or_insert_with(|| Room {
            has_prefill: false,
            has_decode: false,
            stage: Arc::new(watch::Sender::new(RoomStage::Open)),
        });
        let is_in = match role {
            PairRole::Prefill => &mut room.has_prefill,
            PairRole::Decode | PairRole::Both => &mut room.has_decode,
        };
        if std::mem::replace(is_in, true) {
            return Err(PairViolation::RoomInUse);
        }
        let seat = RoomSeat(Arc::clone(&room.stage));
        if role == PairRole::Decode {
            seat.join();
        }
        Ok(seat)
    }
}

impl RoomSeat {
    /// The decode leg is there.
    fn join(&self) {
        self.0.send_if_modified(|current| {
            let is_first = *current == RoomStage::Open;
            if is_first {
                *current = RoomStage::Joined;
            }
            is_first
        });
    }

    /// The room is at this stage, unless the decode leg has left it.
    pub(super) fn reach(&self, stage: RoomStage) {
        self.0.send_if_modified(|current| {
            let is_open = *current != RoomStage::Left;
            if is_open {
                *current = stage;
            }
            is_open
        });
    }

    /// Waits until the room has left this stage, and returns the next one.
    pub(super) async fn after(&self, stage: RoomStage) -> RoomStage {
        let mut stages = self.0.subscribe();
        let next = stages.wait_for(|next| *next != stage).await;
        // The sender is in this seat.
        next.map_or(RoomStage::Left, |next| *next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_legs_meet_in_whatever_order_they_come_and_a_third_is_refused() {
        for roles in [
            [PairRole::Prefill, PairRole::Decode],
            [PairRole::Decode, PairRole::Prefill],
        ] {
            let rooms = Rooms::default();
            let [first, second] = roles.map(|role| rooms.enter(5, role).expect("free"));
            assert_eq!(first.after(RoomStage::Open).await, RoomStage::Joined);
            first.reach(RoomStage::Computed(9));
            let computed = second.after(RoomStage::Joined).await;
            assert_eq!(computed, RoomStage::Computed(9));
            let third = rooms.enter(5, PairRole::Decode);
            assert_eq!(third.err(), Some(PairViolation::RoomInUse));
        }
    }

    #[tokio::test]
    async fn a_prompt_that_is_computed_after_the_decode_leg_left_is_for_no_engine() {
        let rooms = Rooms::default();
        let [prefill, decode] =
            [PairRole::Prefill, PairRole::Decode].map(|role| rooms.enter(5, role).expect("free"));
        decode.reach(RoomStage::Left);
        prefill.reach(RoomStage::Computed(9));
        let next = prefill.after(RoomStage::Computed(9)).await;
        assert_eq!(next, RoomStage::Left);
    }
}
