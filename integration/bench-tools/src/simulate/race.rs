//! Several policies on the same traffic, each in a simulation of its own, as many at once as there
//! are cores.

use super::dispatcher::Dispatcher;
use super::highest_load::highest_load;
use super::parallel::on_every_core;
use super::policies::{Policy, Setup};
use super::roles::FleetRoles;
use super::run::{RunError, run, run_while_good};
use super::settings::Settings;
use super::traffic::Traffic;
use crate::report::{HighestLoad, Row};

/// A policy broke its contract.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy {policy}: {error}")]
pub struct RaceError {
    policy: &'static str,
    error: RunError,
}

/// One policy on one fleet.
#[derive(Clone, Copy, Debug)]
pub struct Entrant {
    /// The policy.
    pub policy: Policy,
    /// How many servers it has of each role.
    pub roles: FleetRoles,
}

/// What all policies are compared on.
#[derive(Clone, Copy)]
pub struct Race<'a> {
    /// The servers, but for their roles, and the load.
    pub settings: &'a Settings,
    /// What arrives.
    pub traffic: &'a Traffic,
    /// In front of the servers.
    pub proxies: usize,
    /// Called, from any thread, for each hundred requests that were served.
    pub progress: &'a (dyn Fn(usize) + Sync),
}

impl Race<'_> {
    /// Simulates each of `entrants` at the load of the settings. Outcomes come in their order and do
    /// not depend on how many run at once.
    ///
    /// # Errors
    /// The first policy, in their order, that misplaces a request or never places one.
    pub fn at_load(&self, entrants: &[Entrant]) -> Result<Vec<Row>, RaceError> {
        let row = |entrant: &Entrant| {
            let outcome = self.run(*entrant, self.settings.scale, run)?;
            Ok(Row::new(entrant.policy.name, outcome))
        };
        on_every_core(entrants, &row).into_iter().collect()
    }

    /// For each of `entrants`, the highest load at which at least this share of requests met the
    /// objectives, and how it was served.
    ///
    /// # Errors
    /// As of [`Race::at_load`].
    pub fn at_highest_load(&self, entrants: &[Entrant], share: f64) -> Result<Vec<Row>, RaceError> {
        let row = |entrant: &Entrant| {
            let at = |scale| {
                self.run(
                    *entrant,
                    scale,
                    |settings, traffic, dispatcher, progress| {
                        run_while_good(settings, traffic, dispatcher, share, progress)
                    },
                )
            };
            let (load, outcome) = match highest_load(self.settings.scale, at)? {
                (load, Some(outcome)) => (HighestLoad(Some(load)), outcome),
                (load, None) => (HighestLoad(None), self.run(*entrant, load, run)?),
            };
            Ok(Row {
                load: Some(load),
                ..Row::new(entrant.policy.name, outcome)
            })
        };
        on_every_core(entrants, &row).into_iter().collect()
    }

    /// Runs an entrant at a load by `run`: to its end, or while enough requests are good.
    fn run<Made>(
        &self,
        entrant: Entrant,
        scale: f64,
        run: impl Fn(
            &Settings,
            &Traffic,
            &mut dyn Dispatcher,
            &mut dyn FnMut(usize),
        ) -> Result<Made, RunError>,
    ) -> Result<Made, RaceError> {
        let Entrant { policy, roles } = entrant;
        let settings = Settings {
            roles,
            scale,
            ..self.settings.clone()
        };
        let setup = Setup::of(&settings, self.traffic.block_tokens());
        let mut dispatcher = policy.dispatcher(setup, self.proxies);
        let mut reported = 0;
        let outcome = run(&settings, self.traffic, &mut *dispatcher, &mut |served| {
            (self.progress)(served - reported);
            reported = served;
        });
        outcome.map_err(|error| RaceError {
            policy: policy.name,
            error,
        })
    }
}
