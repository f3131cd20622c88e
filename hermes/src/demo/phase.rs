//! One strategy under the load of the demo.

use std::{pin::pin, time::Duration};

use hermes_bench::chats::{Chats, Pace};
use hermes_bench::load::LoadError;
use hermes_bench::load::client::{Client, Limits, Target};
use hermes_bench::load::conversation;
use hermes_bench::load::run::{Bounds, Run};
use hermes_bench::load::workload::Shape;
use hermes_runtime::shutdown::Drain;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    moment::Moment,
    outcome::Outcome,
    scene::{MODEL, Scene},
    view::View,
};
use crate::failure::Failure;

/// Interval between two updates of the view.
const RENEWAL: Duration = Duration::from_millis(250);

/// How long each phase takes, and how fast its users and engines are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Time in which requests are started, for each strategy.
    pub(super) phase: Duration,
    /// Seconds of real time for one simulated second: below 1, users and engines are faster.
    pub(super) pace: f64,
}

impl Plan {
    /// About a minute in all.
    pub(super) const FULL: Self = Self {
        phase: Duration::from_secs(20),
        pace: 1.0,
    };

    /// About ten seconds in all.
    pub(super) const QUICK: Self = Self {
        phase: Duration::from_secs(3),
        pace: 0.3,
    };

    /// When the requests still in flight are cut off.
    fn limit(self) -> Duration {
        self.phase + self.phase / 8
    }

    /// Users who chat with an assistant that has a long system prompt, each with a history.
    fn chats(self) -> Chats {
        Chats {
            users: 24,
            // The time ends a phase, not this.
            rounds: 10_000,
            system_tokens: 200,
            history_tokens: 750,
            question_tokens: 20,
            answer_tokens: 24,
            pace: Pace::AsAnswered {
                think: Duration::from_millis(1_200).mul_f64(self.pace),
                stagger: Duration::from_millis(120).mul_f64(self.pace),
            },
            seed: 1,
        }
    }
}

/// Runs the plan on fresh engines and planes, and updates the view.
pub(super) async fn perform(
    strategy: &'static str,
    plan: Plan,
    before: &[Outcome],
    view: &mut View,
    drain: &Drain,
) -> Result<Outcome, Failure> {
    let scene = Scene::start(strategy, plan.pace).await?;
    let (chats, stop) = (plan.chats(), CancellationToken::new());
    let bounds = Bounds {
        count: u64::MAX,
        duration: plan.phase,
        concurrency: chats.users,
    };
    let run = Run::new(client(&scene)?, bounds, stop.clone());
    let watched = run.clone();
    let shape = Shape {
        model: MODEL.to_owned(),
        stream: true,
        ignore_eos: false,
    };
    let mut driving = pin!(conversation::drive(chats, run, shape));
    let began = Instant::now();
    let mut ending = pin!(ends(drain, began + plan.limit()));
    let mut ticks = interval(RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let report = loop {
        tokio::select! {
            report = &mut driving => break report,
            () = &mut ending, if !stop.is_cancelled() => stop.cancel(),
            _ = ticks.tick() => {
                let now = Outcome { strategy, report: watched.so_far() };
                let moment = Moment::of(now, (began.elapsed(), plan.phase), &scene, before);
                view.show(&moment).map_err(Failure::Output)?;
            }
        }
    };
    scene.stop().await;
    Ok(Outcome { strategy, report })
}

/// Resolves at a signal, or at the limit.
async fn ends(drain: &Drain, limit: Instant) {
    tokio::select! {
        () = drain.draining() => {}
        () = sleep_until(limit) => {}
    }
}

/// A client that waits as long as a user would.
fn client(scene: &Scene) -> Result<Client, Failure> {
    let target = Target::parse(&scene.router()).map_err(LoadError::from)?;
    Ok(Client::new(
        target,
        Limits::answer_within(Duration::from_secs(30)),
    ))
}
