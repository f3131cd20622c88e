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
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    link::report::{Reporter, fold},
    telemetry::metrics::ProxyMetrics,
};

/// How long a batch is collected. Short, because a freed endpoint is available to the scheduler
/// only after its report.
const LINGER: Duration = Duration::from_millis(5);

/// How often a resync that is due is sent, when no report is.
const RESYNC: Duration = Duration::from_secs(1);

/// Maximum number of reports in one message.
const BATCH: usize = 4_096;

/// The open streams to replicas.
#[derive(Clone, Default)]
pub(super) struct ReportOutbox(Arc<Mutex<Vec<ReportStream>>>);

/// One stream to a replica, and whether a message to it was dropped.
struct ReportStream {
    upwards: mpsc::Sender<v1::FromDataPlane>,
    needs_resync: Arc<AtomicBool>,
}

/// Records dropped messages of one stream.
pub(super) struct StreamRegistration {
    needs_resync: Arc<AtomicBool>,
}

impl ReportOutbox {
    /// Adds a stream; it is removed when its receiver is dropped.
    pub(super) fn register(&self, upwards: mpsc::Sender<v1::FromDataPlane>) -> StreamRegistration {
        let needs_resync = Arc::new(AtomicBool::new(false));
        self.0.lock().push(ReportStream {
            upwards,
            needs_resync: Arc::clone(&needs_resync),
        });
        StreamRegistration { needs_resync }
    }

    /// Sends one batch to every stream. `resync` is set when reports were dropped before they
    /// reached this queue.
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

impl ReportOutbox {
    /// Sends a resync to the streams that need one.
    fn resync(&self, open: impl Fn() -> v1::OpenRequests) {
        let streams = self.0.lock();
        let due = streams
            .iter()
            .filter(|stream| stream.needs_resync.load(Ordering::Relaxed));
        due.for_each(|stream| stream.resync(&open));
    }
}

impl ReportStream {
    fn send(&self, reports: Vec<v1::Report>, resync: bool, open: &impl Fn() -> v1::OpenRequests) {
        let resync = self.needs_resync.swap(false, Ordering::Relaxed) || resync;
        let message = Message::Reports(v1::Reports { reports });
        let lost = self
            .upwards
            .try_send(v1::FromDataPlane {
                message: Some(message),
            })
            .is_err();
        if lost {
            self.needs_resync.store(true, Ordering::Relaxed);
        } else if resync {
            self.resync(open);
        }
    }

    /// Replaces the replica's list of this proxy's open requests.
    fn resync(&self, open: &impl Fn() -> v1::OpenRequests) {
        self.needs_resync.store(false, Ordering::Relaxed);
        let message = Some(Message::Open(open()));
        let sent = self.upwards.try_send(v1::FromDataPlane { message });
        if sent.is_err() {
            self.needs_resync.store(true, Ordering::Relaxed);
        }
    }
}

impl StreamRegistration {
    /// Sends without waiting; a stream that is full gets a resync later.
    pub(super) fn send(&self, upwards: &mpsc::Sender<v1::FromDataPlane>, message: Message) {
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

/// Batches reports and sends them until the reporter is dropped.
pub(super) async fn run(
    mut reports: mpsc::Receiver<v1::Report>,
    reporter: Arc<Reporter>,
    outbox: ReportOutbox,
    metrics: Arc<ProxyMetrics>,
) {
    let mut known_dropped = 0;
    loop {
        let mut batch = Vec::new();
        match timeout(RESYNC, reports.recv_many(&mut batch, BATCH)).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => {
                outbox.resync(|| reporter.open_requests());
                continue;
            }
        }
        sleep(LINGER).await;
        while batch.len() < BATCH
            && let Ok(report) = reports.try_recv()
        {
            batch.push(report);
        }
        fold(&mut batch);
        let dropped = reporter.dropped();
        metrics.sync.reports_dropped.inc_by(dropped - known_dropped);
        outbox.send(batch, dropped != known_dropped, || reporter.open_requests());
        known_dropped = dropped;
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio_util::task::AbortOnDropHandle;

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

    #[tokio::test(start_paused = true)]
    async fn a_resync_that_is_due_is_sent_without_a_further_report() {
        let (reporter, reports) = Reporter::new();
        let (reporter, outbox) = (Arc::new(reporter), ReportOutbox::default());
        let (upwards, mut end) = mpsc::channel(1);
        let registration = outbox.register(upwards.clone());
        let metrics = Arc::new(ProxyMetrics::register(&mut Registry::default()));
        let _running = AbortOnDropHandle::new(tokio::spawn(run(
            reports,
            Arc::clone(&reporter),
            outbox,
            metrics,
        )));
        registration.send(&upwards, Message::Reports(v1::Reports::default()));
        registration.send(&upwards, Message::Reports(v1::Reports::default()));
        assert_eq!(sent(&mut end), ["reports"], "the second did not fit");
        let resync = timeout(RESYNC * 2, end.recv()).await.expect("in time");
        let message = resync.and_then(|up| up.message).expect("a message");
        assert!(matches!(message, Message::Open(_)));
        let more = timeout(RESYNC * 3, end.recv()).await;
        assert!(more.is_err(), "one is enough");
    }

    #[test]
    fn a_closed_stream_is_removed() {
        let outbox = ReportOutbox::default();
        let (upwards, end) = mpsc::channel(1);
        let _registration = outbox.register(upwards);
        drop(end);
        outbox.send(Vec::new(), false, v1::OpenRequests::default);
        assert!(outbox.0.lock().is_empty());
    }
}
