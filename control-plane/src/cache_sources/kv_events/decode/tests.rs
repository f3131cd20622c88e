//! Both encodings of every event, as engines of different ages write them, and arbitrary bytes.

mod cases;
mod engine_encoder;

use hermes_core::block_index::BlockEvent;
use proptest::prelude::*;

use self::engine_encoder::{expected, meant, payload, style};
use super::{Malformed, batch};

proptest! {
    #[test]
    fn both_encodings_say_what_was_meant(
        events in proptest::collection::vec(meant(), 0..6), style in style(), rank in any::<Option<Option<u64>>>(),
    ) {
        let read = batch(&payload(style, &events, rank)).expect("a batch");
        prop_assert_eq!((read.unknown, read.unread_stored, read.unread_removed), (0, 0, 0));
        prop_assert_eq!(read.events, expected(&events));
    }

    #[test]
    fn a_payload_that_breaks_off_is_refused(
        events in proptest::collection::vec(meant(), 1..4), style in style(), cut in 0.0..1.0_f64,
    ) {
        let whole = payload(style, &events, None);
        let cut = (whole.len() as f64 * cut) as usize;
        prop_assert_eq!(batch(&whole[..cut]), Err(Malformed));
    }

    #[test]
    fn a_byte_that_was_changed_never_panics(
        events in proptest::collection::vec(meant(), 1..4), style in style(), at in 0.0..1.0_f64, byte: u8,
    ) {
        let mut bytes = payload(style, &events, None);
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] = byte;
        if let Ok(batch) = batch(&bytes) {
            for event in batch.events {
                let BlockEvent::Stored(stored) = event else { continue };
                prop_assert!(stored.contents.is_empty() || stored.contents.len() == stored.names.len());
            }
        }
    }

    #[test]
    fn any_bytes_are_a_batch_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _read = batch(&bytes);
    }
}
