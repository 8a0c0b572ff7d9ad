//! How many jobs run at once: as many as fit.

/// What a job occupies while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// What a worker may occupy, and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    whole: Cost,
    /// Invariant: the sum of what was taken and not given back.
    taken: Cost,
    running: usize,
}

impl Budget {
    /// An empty one of this size.
    pub fn new(whole: Cost) -> Budget {
        Budget { whole, taken: Cost::default(), running: 0 }
    }

    /// The largest job that may start now. A worker that does nothing takes any job: what is larger than the
    /// whole worker would otherwise never run.
    pub fn room(&self) -> Cost {
        if self.running == 0 {
            return Cost { cpu_milli: u32::MAX, memory_bytes: i64::MAX as u64 };
        }
        Cost {
            cpu_milli: self.whole.cpu_milli.saturating_sub(self.taken.cpu_milli),
            memory_bytes: self.whole.memory_bytes.saturating_sub(self.taken.memory_bytes),
        }
    }

    /// Whether there is room for anything at all.
    pub fn has_room(&self) -> bool {
        let room = self.room();
        room.cpu_milli > 0 && room.memory_bytes > 0
    }

    /// Counts a job that starts.
    pub fn take(&mut self, cost: Cost) {
        self.taken.cpu_milli = self.taken.cpu_milli.saturating_add(cost.cpu_milli);
        self.taken.memory_bytes = self.taken.memory_bytes.saturating_add(cost.memory_bytes);
        self.running += 1;
    }

    /// Counts a job that ended.
    pub fn give_back(&mut self, cost: Cost) {
        self.taken.cpu_milli -= cost.cpu_milli;
        self.taken.memory_bytes -= cost.memory_bytes;
        self.running -= 1;
    }

    /// Jobs that run.
    pub fn running(&self) -> usize {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_together_while_they_fit_and_a_large_one_runs_alone() {
        let cost = |cpu_milli, mib: u64| Cost { cpu_milli, memory_bytes: mib << 20 };
        let mut budget = Budget::new(cost(2000, 1024));
        let fits = |budget: &Budget, job: Cost| {
            let room = budget.room();
            job.cpu_milli <= room.cpu_milli && job.memory_bytes <= room.memory_bytes
        };
        assert!(fits(&budget, cost(8000, 9999)));
        budget.take(cost(1500, 200));
        assert!(!fits(&budget, cost(1500, 200)), "no cores");
        assert!(!fits(&budget, cost(500, 900)), "no memory");
        assert!(fits(&budget, cost(500, 824)));
        budget.take(cost(500, 200));
        assert!(!budget.has_room());
        budget.give_back(cost(1500, 200));
        budget.give_back(cost(500, 200));
        assert!(fits(&budget, cost(8000, 9999)) && budget.running() == 0);
    }
}
