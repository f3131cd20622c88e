//! One strategy under the load of the demo.

use std::{pin::pin, time::Duration};

use hermes_integration::load::{
    Report,
    client::{Client, Limits, Target},
    conversation::Conversations,
    run::{Bounds, Run},
    workload::Shape,
};
use hermes_runtime::shutdown::Drain;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    moment::Moment,
    scene::{MODEL, Scene},
    view::View,
};
use crate::failure::Failure;

/// How often the view is renewed.
const RENEWAL: Duration = Duration::from_millis(250);

/// How long a demo takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// In which requests are started, for each strategy.
    pub(super) phase: Duration,
    /// Decides how fast conversations follow.
    chats: Conversations,
}

/// What a strategy achieved.
#[derive(Debug)]
pub(super) struct Phase {
    /// Its name.
    pub(super) strategy: &'static str,
    /// What the clients saw.
    pub(super) report: Report,
}

impl Plan {
    /// About a minute in all.
    pub(super) const FULL: Self = Self { phase: Duration::from_secs(25), chats: CHATS };

    /// About ten seconds in all.
    pub(super) const QUICK: Self = Self {
        phase: Duration::from_secs(4),
        chats: Conversations { think: Duration::from_millis(300), stagger: Duration::from_millis(30), ..CHATS },
    };
}

/// People who chat with an assistant that has a long system prompt, each with a history.
const CHATS: Conversations = Conversations {
    users: 24,
    // The time ends a phase, not this.
    rounds: 10_000,
    system_tokens: 800,
    history_tokens: 3_000,
    question_tokens: 60,
    answer_tokens: 40,
    think: Duration::from_millis(1_200),
    stagger: Duration::from_millis(120),
    seed: 1,
};

/// Runs the plan on a fresh scene, and keeps the view up to date.
pub(super) async fn perform(
    strategy: &'static str,
    plan: Plan,
    before: &[Phase],
    view: &mut View,
    drain: &Drain,
) -> Result<Phase, Failure> {
    let scene = Scene::start(strategy).await?;
    let stop = CancellationToken::new();
    let bounds = Bounds { count: u64::MAX, duration: plan.phase, concurrency: plan.chats.users };
    let run = Run::new(client(&scene)?, bounds, stop.clone());
    let watched = run.clone();
    let shape = Shape { model: MODEL.to_owned(), stream: true, ignore_eos: false };
    let mut driving = pin!(plan.chats.drive(run, shape));
    let mut draining = pin!(drain.draining());
    let mut ticks = interval(RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    let report = loop {
        tokio::select! {
            report = &mut driving => break report,
            () = &mut draining, if !stop.is_cancelled() => stop.cancel(),
            _ = ticks.tick() => {
                let moment = Moment::of(strategy, (began.elapsed(), plan.phase), &scene, before, watched.so_far());
                view.show(&moment).map_err(Failure::Output)?;
            }
        }
    };
    scene.stop().await;
    Ok(Phase { strategy, report })
}

/// A client with the patience of a person.
fn client(scene: &Scene) -> Result<Client, Failure> {
    let target = Target::parse(&scene.router()).map_err(hermes_integration::load::LoadError::from)?;
    Ok(Client::new(target, Limits::answer_within(Duration::from_secs(30))))
}
