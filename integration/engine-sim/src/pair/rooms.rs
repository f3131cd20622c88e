//! Rooms in which the legs of SGLang's pairs meet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Every room that a request named.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: Mutex<HashMap<u64, Room>>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Room {
    has_prefill: bool,
    has_decode: bool,
    /// Tokens of the prompt, once it is computed.
    computed: watch::Sender<Option<usize>>,
}

/// A decode leg that waits, until it is dropped.
struct WaitingLeg<'a>(&'a AtomicUsize);

impl Rooms {
    /// Enters a room. False if a leg of this role is in it already.
    pub(super) fn enter(&self, room: u64, is_prefill: bool) -> bool {
        let mut rooms = self.rooms.lock();
        let room = rooms.entry(room).or_insert_with(|| Room {
            has_prefill: false,
            has_decode: false,
            computed: watch::Sender::new(None),
        });
        let is_in = if is_prefill {
            &mut room.has_prefill
        } else {
            &mut room.has_decode
        };
        !std::mem::replace(is_in, true)
    }

    /// The prompt of a room is computed.
    pub(super) fn finish(&self, room: u64, tokens: usize) {
        if let Some(room) = self.rooms.lock().get(&room) {
            room.computed.send_replace(Some(tokens));
        }
    }

    /// Waits for the prompt of a room that was entered, and returns its tokens.
    pub(super) async fn prefilled(&self, room: u64) -> usize {
        let computed = self
            .rooms
            .lock()
            .get(&room)
            .map(|room| room.computed.subscribe());
        let Some(mut computed) = computed else {
            return 0;
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = WaitingLeg(&self.waiting);
        let tokens = computed.wait_for(Option::is_some).await;
        tokens.ok().and_then(|tokens| *tokens).unwrap_or(0)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for WaitingLeg<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
