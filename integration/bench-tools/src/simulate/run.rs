//! The course of a simulation: takes the next event, calls the dispatcher, carries out what it
//! decides.

use std::time::Duration;

use super::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, Prefilled, RequestIndex, Sample,
};
use super::events::{Event, Events};
use super::fleet::Fleet;
use super::server::Work;
use super::settings::Settings;
use super::traffic::Traffic;
use super::transfers::Links;
use crate::report::{Objectives, Outcome, Served};
use hermes_engine_sim::model::scheduler::Progress;

/// How long an idle fleet is simulated while requests still wait in a dispatcher.
const PATIENCE: Duration = Duration::from_secs(600);

/// The least time between two wakings of a dispatcher.
const REST: Duration = Duration::from_millis(1);

/// A dispatcher broke its contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It placed what was not waiting, or where it is not served.
    #[error(
        "request {request} was placed on server {server}, but it does not wait or is not served there"
    )]
    Misplaced {
        /// Which request.
        request: RequestIndex,
        /// On which server.
        server: usize,
    },
    /// It kept requests although nothing else can happen.
    #[error("{waiting} requests wait for ever: the fleet is idle and the dispatcher places none")]
    Stuck {
        /// How many.
        waiting: usize,
    },
}

/// Simulates `traffic` on the fleet of `settings` under `dispatcher`. `progress` is called with the
/// number of finished requests.
///
/// # Errors
/// When the dispatcher misplaces a request or never places one.
pub fn run(
    settings: &Settings,
    traffic: &Traffic,
    dispatcher: &mut dyn Dispatcher,
    progress: &mut dyn FnMut(usize),
) -> Result<Outcome, RunError> {
    let mut run = Run::new(settings, traffic, dispatcher);
    run.serve(progress)?;
    Ok(run.outcome(settings))
}

/// The same if at least `share` of the requests meet the objectives; `None`, and sooner, if not.
///
/// # Errors
/// As of [`run`].
pub(super) fn run_while_good(
    settings: &Settings,
    traffic: &Traffic,
    dispatcher: &mut dyn Dispatcher,
    share: f64,
    progress: &mut dyn FnMut(usize),
) -> Result<Option<Outcome>, RunError> {
    let mut run = Run::new(settings, traffic, dispatcher);
    let requests = traffic.requests().len();
    let may_miss = |missed: usize| (requests - missed) as f64 / requests as f64 >= share;
    run.may_miss = (0..requests)
        .take_while(|missed| may_miss(missed + 1))
        .count();
    run.serve(progress)?;
    let outcome = (run.finished == requests).then(|| run.outcome(settings));
    Ok(outcome.filter(|outcome| outcome.goodput.share >= share))
}

struct Run<'a> {
    traffic: &'a Traffic,
    scale: f64,
    memory: usize,
    dispatcher: &'a mut dyn Dispatcher,
    fleet: Fleet,
    links: Links,
    events: Events,
    /// One entry for each request that has arrived.
    served: Vec<Served>,
    placed: usize,
    finished: usize,
    /// Finished requests that did not meet the objectives, and how many there may be.
    missed: usize,
    may_miss: usize,
    objectives: Objectives,
    /// The waking that is scheduled; others in the queue are stale.
    wake: Option<Duration>,
    woken: Duration,
    /// When a request last arrived or a server last worked.
    active: Duration,
    placements: Vec<Placement>,
}

impl<'a> Run<'a> {
    fn new(settings: &Settings, traffic: &'a Traffic, dispatcher: &'a mut dyn Dispatcher) -> Self {
        let fleet = Fleet::new(settings, traffic.block_tokens());
        let mut events = Events::default();
        if let Some(first) = traffic.requests().first() {
            events.schedule(first.arrival(settings.scale), Event::Arrival);
        }
        if let Some(interval) = dispatcher.sample_interval() {
            events.schedule(interval, Event::Sample);
        }
        Self {
            traffic,
            scale: settings.scale,
            memory: fleet.blocks() * fleet.block_tokens(),
            dispatcher,
            fleet,
            links: Links::new(settings.roles.servers(), settings.transfer),
            events,
            served: Vec::with_capacity(traffic.requests().len()),
            placed: 0,
            finished: 0,
            missed: 0,
            may_miss: usize::MAX,
            objectives: settings.objectives,
            wake: None,
            woken: Duration::ZERO,
            active: Duration::ZERO,
            placements: Vec::new(),
        }
    }

    /// Lets events happen until all requests have finished, or too many missed the objectives.
    fn serve(&mut self, progress: &mut dyn FnMut(usize)) -> Result<(), RunError> {
        let requests = self.traffic.requests().len();
        let mut reported = 0;
        while self.finished < requests && self.missed <= self.may_miss {
            self.next()?;
            if self.finished >= reported + 100 {
                reported = self.finished;
                progress(reported);
            }
        }
        Ok(())
    }

    fn outcome(self, settings: &Settings) -> Outcome {
        let servers = settings.roles.servers();
        Outcome::new(self.served, servers, settings.objectives)
    }

    /// Lets the next event happen.
    fn next(&mut self) -> Result<(), RunError> {
        let Some((now, event)) = self.events.next() else {
            return Err(self.stuck());
        };
        match event {
            Event::Arrival => self.arrive(now),
            Event::Step(server) => self.step(now, server),
            Event::Received(request) => self.receive(now, request),
            Event::Sample => self.sample(now)?,
            Event::Wake if self.wake == Some(now) => self.wake(now)?,
            Event::Wake => return Ok(()),
        }
        self.place(now)?;
        self.set_alarm(now);
        Ok(())
    }

    fn arrive(&mut self, now: Duration) {
        self.active = now;
        let index = self.served.len();
        let request = &self.traffic.requests()[index];
        let (prompt_tokens, _) = request.clipped(self.memory);
        self.served.push(Served::arrived(now, prompt_tokens));
        if let Some(next) = self.traffic.requests().get(index + 1) {
            self.events
                .schedule(next.arrival(self.scale), Event::Arrival);
        }
        let blocks = prompt_tokens / self.fleet.block_tokens();
        let arrival = Arrival {
            request: index,
            prompt_tokens,
            blocks: &request.blocks[..request.blocks.len().min(blocks)],
            tenant: request.tenant.as_deref(),
        };
        self.dispatcher.arrived(
            Moment {
                now,
                fleet: &self.fleet,
            },
            &arrival,
            &mut self.placements,
        );
    }

    fn step(&mut self, now: Duration, server: usize) {
        self.active = now;
        let mut tokens = Vec::new();
        self.fleet.servers[server].end(now, |request, progress| {
            if progress.generated == 1 || progress.done {
                tokens.push((request, progress));
            }
        });
        for (request, progress) in tokens {
            let Served { decode, .. } = self.served[request];
            match decode.filter(|&decode| decode != server) {
                Some(decode) => self.hand_over(now, request, decode, progress),
                None => self.emit(now, request, server, progress),
            }
        }
        self.start(now, server);
    }

    /// The first or the last token of an answer came out.
    fn emit(&mut self, now: Duration, request: RequestIndex, server: usize, progress: Progress) {
        let at = Moment {
            now,
            fleet: &self.fleet,
        };
        let served = &mut self.served[request];
        if progress.generated == 1 {
            served.first_token = now;
            if served.decode.is_none() {
                served.cached_tokens = progress.cached;
            }
            let seen = FirstToken {
                request,
                server,
                after: now - served.prefilled.unwrap_or(served.placed),
                cached_tokens: served.cached_tokens,
            };
            self.dispatcher.first_token(at, seen, &mut self.placements);
        }
        if progress.done {
            served.finished = now;
            served.output_tokens = progress.generated;
            self.finished += 1;
            self.missed += usize::from(!self.objectives.are_met_by(served));
            let seen = Finished {
                request,
                server,
                output_tokens: progress.generated,
                decoding: now - served.first_token,
            };
            self.dispatcher.finished(at, seen, &mut self.placements);
        }
    }

    /// The prompt of a request that is split is computed: its KV cache goes to `decode`.
    fn hand_over(&mut self, now: Duration, request: RequestIndex, decode: usize, leg: Progress) {
        let served = &mut self.served[request];
        (served.prefilled, served.cached_tokens) = (Some(now), leg.cached);
        let (Some(server), after) = (served.server, now - served.placed) else {
            return;
        };
        let Served { prompt_tokens, .. } = *served;
        let blocks = &self.traffic.requests()[request].blocks;
        let missing = self.fleet.servers[decode].expect(prompt_tokens, blocks);
        let received = self.links.transfer(server, decode, missing, now);
        self.events.schedule(received, Event::Received(request));
        let seen = Prefilled {
            request,
            server,
            after,
        };
        let at = Moment {
            now,
            fleet: &self.fleet,
        };
        self.dispatcher.prefilled(at, seen, &mut self.placements);
    }

    /// The KV cache of a request is where its answer is generated.
    fn receive(&mut self, now: Duration, request: RequestIndex) {
        self.active = now;
        let Some(server) = self.served[request].decode else {
            return;
        };
        let work = Work {
            is_received: true,
            ..self.work(request)
        };
        self.fleet.servers[server].receive(work, now);
        self.start(now, server);
    }

    fn sample(&mut self, now: Duration) -> Result<(), RunError> {
        self.check_patience(now)?;
        let samples: Vec<Sample> = (0..self.fleet.servers())
            .map(|server| self.fleet.sample(server))
            .collect();
        self.dispatcher.sampled(
            Moment {
                now,
                fleet: &self.fleet,
            },
            &samples,
            &mut self.placements,
        );
        if let Some(interval) = self.dispatcher.sample_interval() {
            self.events
                .schedule(now + interval.max(REST), Event::Sample);
        }
        Ok(())
    }

    fn wake(&mut self, now: Duration) -> Result<(), RunError> {
        self.check_patience(now)?;
        (self.wake, self.woken) = (None, now);
        self.dispatcher.wake(
            Moment {
                now,
                fleet: &self.fleet,
            },
            &mut self.placements,
        );
        Ok(())
    }

    /// Carries out what the dispatcher decided.
    fn place(&mut self, now: Duration) -> Result<(), RunError> {
        let mut placements = std::mem::take(&mut self.placements);
        for placement in placements.drain(..) {
            let Placement {
                request,
                server,
                decode,
            } = placement;
            let waits = self
                .served
                .get(request)
                .is_some_and(|served| served.server.is_none());
            if !waits || !placement.fits(self.fleet.roles()) {
                return Err(RunError::Misplaced { request, server });
            }
            let served = &mut self.served[request];
            (served.server, served.decode, served.placed) = (Some(server), decode, now);
            self.placed += 1;
            let mut work = self.work(request);
            if decode.is_some() {
                // A prefill leg asks for one token.
                work.output_tokens = 1;
            }
            self.fleet.servers[server].submit(work, now);
            self.start(now, server);
        }
        self.placements = placements;
        Ok(())
    }

    /// A request as the server gets it that serves it whole.
    fn work(&self, request: RequestIndex) -> Work<'a> {
        let record = &self.traffic.requests()[request];
        let (prompt_tokens, output_tokens) = record.clipped(self.memory);
        Work {
            request,
            prompt_tokens,
            output_tokens,
            blocks: &record.blocks,
            is_received: false,
        }
    }

    fn start(&mut self, now: Duration, server: usize) {
        if let Some(duration) = self.fleet.servers[server].begin(now) {
            self.events.schedule(now + duration, Event::Step(server));
        }
    }

    fn set_alarm(&mut self, now: Duration) {
        let wanted = self
            .dispatcher
            .wake_at()
            .map(|at| at.max(now).max(self.woken + REST));
        if wanted != self.wake {
            self.wake = wanted;
            if let Some(at) = wanted {
                self.events.schedule(at, Event::Wake);
            }
        }
    }

    /// Timers alone must not keep a simulation alive for ever.
    fn check_patience(&self, now: Duration) -> Result<(), RunError> {
        let over = self.served.len() == self.traffic.requests().len() && self.fleet.is_idle();
        if over && now > self.active + PATIENCE {
            Err(self.stuck())
        } else {
            Ok(())
        }
    }

    fn stuck(&self) -> RunError {
        RunError::Stuck {
            waiting: self.served.len() - self.placed,
        }
    }
}
