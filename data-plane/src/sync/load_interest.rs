//! Sending a replica whether its load rows are used: they are of the active replica alone.

use hermes_proto::v1::{FromDataPlane, LoadInterest, from_data_plane::Message};
use tokio::sync::mpsc;

/// What a replica was sent on its stream.
#[derive(Debug, Default)]
pub(super) struct LoadInterestState {
    /// The last that fitted into the queue to it. Without any it sends rows.
    sent: Option<bool>,
}

impl LoadInterestState {
    /// Sends it if it changed. What does not fit is sent by a later call.
    pub(super) fn send(&mut self, wanted: bool, upwards: &mpsc::Sender<FromDataPlane>) {
        if self.sent.unwrap_or(true) == wanted {
            return;
        }
        let message = Some(Message::LoadInterest(LoadInterest { wanted }));
        if upwards.try_send(FromDataPlane { message }).is_ok() {
            self.sent = Some(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_sent_and_one_that_does_not_fit_is_sent_later() {
        let (upwards, mut end) = mpsc::channel::<FromDataPlane>(1);
        let mut sent = || {
            let message = end.try_recv().ok()?.message?;
            match message {
                Message::LoadInterest(LoadInterest { wanted }) => Some(wanted),
                other => panic!("{other:?}"),
            }
        };
        let mut interest = LoadInterestState::default();
        interest.send(true, &upwards);
        assert_eq!(sent(), None, "it sends rows unless it is asked not to");
        interest.send(false, &upwards);
        interest.send(true, &upwards);
        assert_eq!((sent(), sent()), (Some(false), None), "there was no room");
        interest.send(true, &upwards);
        interest.send(true, &upwards);
        assert_eq!((sent(), sent()), (Some(true), None));
    }
}
