//! A task that its owner needs for as long as it lives, and that is restarted when it panics.
//!
//! It is for work of which there are many, one for each pool or endpoint, where a panic must not
//! end the process: its own input may be the cause, which the others do not have.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// The pause after the first panic, and the longest: it doubles with each panic.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a task must have run for its earlier panics to be forgotten.
const RECOVERED: Duration = Duration::from_secs(60);

/// A task that is restarted when it panics. Dropping it aborts the task.
#[derive(Debug)]
pub struct RestartedTask(AbortOnDropHandle<()>);

/// The task panicked, which the hook of the process has logged.
struct Panicked;

// === RestartedTask ===

impl RestartedTask {
    /// Starts the future that `begin` makes on the current Tokio runtime, and after each panic
    /// another one, after a pause. One that ends by itself is not started again. `name` appears in
    /// logs.
    pub fn spawn<T>(name: &'static str, begin: impl FnMut() -> T + Send + 'static) -> Self
    where
        T: Future<Output = ()> + Send + 'static,
    {
        Self(AbortOnDropHandle::new(tokio::spawn(run(name, begin))))
    }

    /// Whether it ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

async fn run<T: Future<Output = ()>>(name: &'static str, mut begin: impl FnMut() -> T) {
    let mut pause = PAUSE.0;
    loop {
        let began = Instant::now();
        // What makes the task may panic, too.
        let task = async { begin().await };
        let Err(Panicked) = caught(task).await else {
            return;
        };
        if began.elapsed() >= RECOVERED {
            pause = PAUSE.0;
        }
        tracing::error!(
            task = name,
            ?pause,
            "background task panicked and is restarted"
        );
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The end of `task`. What it held is dropped either way.
async fn caught(task: impl Future<Output = ()>) -> Result<(), Panicked> {
    let mut task = pin!(task);
    // It is not polled again after a panic, as its state may be half changed.
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(_payload) => Poll::Ready(Err(Panicked)),
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    /// A task that reports when it begins and then panics, and the reports.
    fn panicking() -> (RestartedTask, mpsc::Receiver<Instant>) {
        let (begun, begins) = mpsc::channel(16);
        let task = RestartedTask::spawn("scrapes", move || {
            let begun = begun.clone();
            async move {
                begun.send(Instant::now()).await.expect("the test listens");
                panic!("an index out of bounds");
            }
        });
        (task, begins)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_after_pauses_that_grow() {
        let (_task, mut begins) = panicking();
        let mut pauses = Vec::new();
        let mut last = begins.recv().await.expect("it begins");
        for _ in 0..7 {
            let next = begins.recv().await.expect("it is restarted");
            pauses.push((next - last).as_secs());
            last = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_whose_making_panics_is_restarted() {
        let makes = Arc::new(AtomicU32::new(0));
        let made = Arc::clone(&makes);
        let task = RestartedTask::spawn("scrapes", move || {
            assert!(made.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
            std::future::pending()
        });
        sleep(Duration::from_secs(2)).await;
        assert_eq!(makes.load(Ordering::Relaxed), 2);
        assert!(!task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn panics_long_ago_are_forgotten() {
        let begins = Arc::new(AtomicU32::new(0));
        let begun = Arc::clone(&begins);
        let start = Instant::now();
        let task = RestartedTask::spawn("scrapes", move || {
            let nth = begun.fetch_add(1, Ordering::Relaxed);
            async move {
                match nth {
                    0..5 => {}
                    5 => sleep(RECOVERED).await,
                    _ => return,
                }
                panic!("an index out of bounds");
            }
        });
        while !task.is_finished() {
            sleep(Duration::from_millis(100)).await;
        }
        let expected = Duration::from_secs(1 + 2 + 4 + 8 + 16) + RECOVERED + PAUSE.0;
        assert!(start.elapsed() - expected < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_ends_with_its_owner() {
        let (task, mut begins) = panicking();
        begins.recv().await.expect("it begins");
        drop(task);
        let after = timeout(Duration::from_secs(60), begins.recv()).await;
        assert_eq!(after, Ok(None));
    }
}
