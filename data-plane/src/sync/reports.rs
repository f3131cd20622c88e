//! Sending reports to every replica, in batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hermes_proto::v1::{self, from_data_plane::Message};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    link::report::{Reporter, fold},
    telemetry::metrics::Metrics,
};

/// Reports wait this long for others. Short enough that a freed server is known to be free.
const LINGER: Duration = Duration::from_millis(5);

/// Reports in one message at most.
const BATCH: usize = 4_096;

/// The open streams upwards.
#[derive(Clone, Default)]
pub(super) struct ReportOutbox(Arc<Mutex<Vec<ReportStream>>>);

/// One stream upwards, and whether something that should have gone there did not.
struct ReportStream {
    upwards: mpsc::Sender<v1::FromDataPlane>,
    needs_resync: Arc<AtomicBool>,
}

/// Says when a message to a stream was lost.
pub(super) struct StreamRegistration {
    needs_resync: Arc<AtomicBool>,
}

impl ReportOutbox {
    /// Reports go to this stream too, until its receiver is dropped.
    pub(super) fn register(&self, upwards: mpsc::Sender<v1::FromDataPlane>) -> StreamRegistration {
        let needs_resync = Arc::new(AtomicBool::new(false));
        self.0.lock().push(ReportStream {
            upwards,
            needs_resync: Arc::clone(&needs_resync),
        });
        StreamRegistration { needs_resync }
    }

    /// Sends one batch everywhere. `resync` says that reports were lost before they came here.
    fn send(&self, reports: Vec<v1::Report>, resync: bool, open: impl Fn() -> v1::OpenRequests) {
        let mut streams = self.0.lock();
        streams.retain(|stream| !stream.upwards.is_closed());
        let Some((last, others)) = streams.split_last() else {
            return;
        };
        for stream in others {
            stream.send(reports.clone(), resync, &open);
        }
        last.send(reports, resync, &open);
    }
}

impl ReportStream {
    fn send(&self, reports: Vec<v1::Report>, resync: bool, open: &impl Fn() -> v1::OpenRequests) {
        let resync = self.needs_resync.swap(false, Ordering::Relaxed) || resync;
        let message = Message::Reports(v1::Reports { reports });
        let mut lost = self
            .upwards
            .try_send(v1::FromDataPlane {
                message: Some(message),
            })
            .is_err();
        if resync && !lost {
            let message = Some(Message::Open(open()));
            lost = self
                .upwards
                .try_send(v1::FromDataPlane { message })
                .is_err();
        }
        if lost {
            self.needs_resync.store(true, Ordering::Relaxed);
        }
    }
}

impl StreamRegistration {
    /// Sends a message that is worth no waiting; a full stream gets a resync later.
    pub(super) fn say(&self, upwards: &mpsc::Sender<v1::FromDataPlane>, message: Message) {
        if upwards
            .try_send(v1::FromDataPlane {
                message: Some(message),
            })
            .is_err()
        {
            self.needs_resync.store(true, Ordering::Relaxed);
        }
    }
}

/// RequestBatches what requests report until the reporter is gone.
pub(super) async fn run(
    mut reports: mpsc::Receiver<v1::Report>,
    reporter: Arc<Reporter>,
    outbox: ReportOutbox,
    metrics: Arc<Metrics>,
) {
    let mut known_losses = 0;
    loop {
        let mut batch = Vec::new();
        if reports.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        sleep(LINGER).await;
        while batch.len() < BATCH
            && let Ok(report) = reports.try_recv()
        {
            batch.push(report);
        }
        fold(&mut batch);
        let losses = reporter.lost();
        metrics
            .reports_lost
            .set(i64::try_from(losses).unwrap_or(i64::MAX));
        outbox.send(batch, losses != known_losses, || reporter.open_requests());
        known_losses = losses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(upwards: &mut mpsc::Receiver<v1::FromDataPlane>) -> Vec<&'static str> {
        std::iter::from_fn(|| upwards.try_recv().ok())
            .map(|up| match up.message {
                Some(Message::Reports(_)) => "reports",
                Some(Message::Open(_)) => "open",
                _ => "other",
            })
            .collect()
    }

    #[test]
    fn a_stream_that_was_full_gets_a_resync_and_the_others_do_not() {
        let outbox = ReportOutbox::default();
        let (slow, mut slow_end) = mpsc::channel(1);
        let (quick, mut quick_end) = mpsc::channel(8);
        let _registrations = [outbox.register(slow), outbox.register(quick)];
        outbox.send(Vec::new(), false, v1::OpenRequests::default);
        outbox.send(Vec::new(), false, v1::OpenRequests::default);
        assert_eq!(sent(&mut slow_end), ["reports"]);
        assert_eq!(sent(&mut quick_end), ["reports", "reports"]);

        outbox.send(Vec::new(), false, v1::OpenRequests::default);
        assert_eq!(
            sent(&mut slow_end),
            ["reports"],
            "the resync did not fit beside the reports"
        );
        let (wide, mut wide_end) = mpsc::channel(8);
        let _wide = outbox.register(wide);
        outbox.send(Vec::new(), true, v1::OpenRequests::default);
        assert_eq!(sent(&mut wide_end), ["reports", "open"]);
    }

    #[test]
    fn a_closed_stream_is_forgotten() {
        let outbox = ReportOutbox::default();
        let (upwards, end) = mpsc::channel(1);
        let _registration = outbox.register(upwards);
        drop(end);
        outbox.send(Vec::new(), false, v1::OpenRequests::default);
        assert!(outbox.0.lock().is_empty());
    }
}
