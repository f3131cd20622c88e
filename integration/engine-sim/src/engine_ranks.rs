//! The data-parallel ranks of one engine: independent cores behind one address.
//!
//! A request goes to the rank with the fewest requests in it, as vLLM's own balancer does while
//! memory is free; of equals to the first.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::EngineConfig;
use crate::engine_core::{EngineCore, Ticket};
use crate::faults::Faults;
use crate::kv_events::Publisher;
use crate::model::scheduler::Scheduler;
use crate::model::sequence::Job;

/// See the module. Never empty.
#[derive(Debug)]
pub(crate) struct EngineRanks {
    cores: Vec<Arc<EngineCore>>,
    /// Held while a rank is chosen, so that two requests do not choose by the same figures.
    choice: Mutex<()>,
}

impl EngineRanks {
    /// As many ranks as configured; with a publisher of KV events there is one.
    pub(crate) fn new(
        config: &Arc<EngineConfig>,
        faults: &Arc<Faults>,
        publisher: Option<&Arc<Publisher>>,
    ) -> Self {
        let core = |_| {
            let (config, faults) = (Arc::clone(config), Arc::clone(faults));
            Arc::new(EngineCore::new(config, faults, publisher.cloned()))
        };
        Self {
            cores: (0..config.data_parallel).map(core).collect(),
            choice: Mutex::new(()),
        }
    }

    /// Each rank, for a task that runs it.
    pub(crate) fn cores(&self) -> impl Iterator<Item = Arc<EngineCore>> + '_ {
        self.cores.iter().map(Arc::clone)
    }

    /// Queues a job at the rank with the fewest requests, as [`EngineCore::submit`].
    pub(crate) fn submit(&self, job: Job, holds: bool) -> Ticket {
        let requests = |core: &&Arc<EngineCore>| {
            core.read(|scheduler| scheduler.running() + scheduler.waiting())
        };
        let _choice = self.choice.lock();
        let least = self.cores.iter().min_by_key(requests);
        least.unwrap_or(&self.cores[0]).submit(job, holds)
    }

    /// Reads the scheduler of each rank, in order; keep it short, that rank stands still meanwhile.
    pub(crate) fn read<T>(&self, mut read: impl FnMut(&Scheduler) -> T) -> Vec<T> {
        self.cores.iter().map(|core| core.read(&mut read)).collect()
    }

    /// Empties the cache of every rank on which nothing runs; answers whether those were all.
    pub(crate) fn reset_cache(&self) -> bool {
        let busy = self.cores.iter().filter(|core| !core.reset_cache());
        busy.count() == 0
    }

    /// Sequences that were dropped before their end.
    pub(crate) fn aborted(&self) -> u64 {
        self.cores.iter().map(|core| core.aborted()).sum()
    }

    /// Ends every ticket with `Stopped`.
    pub(crate) fn close(&self) {
        self.cores.iter().for_each(|core| core.close());
    }
}
