//! Which task runs where, and whose result counts? A pure state machine over one stage's tasks.
//!
//! Every start of a task is a new attempt. A result counts only while its attempt is the one in force; results of
//! executors that were removed, of older attempts and repeats of an accepted result change nothing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of an executor.
pub type ExecutorId = u64;

/// Names one start of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// Stage, unique within a driver process: results of an earlier stage never match.
    pub stage: u64,
    /// Task within the stage.
    pub task: u32,
    /// Attempt, from 0.
    pub attempt: u32,
}

/// A task that should be started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Where.
    pub executor: ExecutorId,
    /// What.
    pub attempt: AttemptId,
}

/// What became of a reported success or failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The result is the task's result.
    Accepted,
    /// The attempt failed and the task goes to another attempt.
    Retry,
    /// The task has failed too often.
    GiveUp,
    /// The attempt is not in force: ignore it.
    Stale,
}

/// Failures of one task (not losses of its executor) after which the job stops.
pub const MAX_TASK_FAILURES: u32 = 4;

/// Executors lost while they ran one task, after which the task is taken for the cause.
pub const MAX_EXECUTORS_LOST: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskPhase {
    Pending,
    Running { executor: ExecutorId },
    Done,
}

#[derive(Debug, Clone)]
struct Task {
    phase: TaskPhase,
    attempts: u32,
    failures: u32,
    executors_lost: u32,
    last_executor: Option<ExecutorId>,
}

#[derive(Debug, Clone, Copy)]
struct Slots {
    total: usize,
    busy: usize,
    draining: bool,
}

/// Executors with their slots, and the tasks of the stage that runs now.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    executors: BTreeMap<ExecutorId, Slots>,
    stage: u64,
    tasks: Vec<Task>,
    /// Attempts given to an executor that has not answered yet, of every stage: a slot stays taken until the executor
    /// answers, even when nobody waits for the answer any more.
    outstanding: BTreeMap<AttemptId, ExecutorId>,
}

impl Schedule {
    /// Starts a stage of `tasks` tasks; whatever ran before is no longer in force. Returns the stage's number.
    pub fn start_stage(&mut self, tasks: usize) -> u64 {
        self.stage += 1;
        let fresh =
            Task { phase: TaskPhase::Pending, attempts: 0, failures: 0, executors_lost: 0, last_executor: None };
        self.tasks = vec![fresh; tasks];
        self.stage
    }

    /// An executor registered.
    pub fn add_executor(&mut self, executor: ExecutorId, slots: usize) {
        self.executors.insert(executor, Slots { total: slots.max(1), busy: 0, draining: false });
    }

    /// The executor gets no new task.
    pub fn drain_executor(&mut self, executor: ExecutorId) {
        if let Some(slots) = self.executors.get_mut(&executor) {
            slots.draining = true;
        }
    }

    /// The executor is gone: its tasks are pending again. Returns how many were lost.
    pub fn remove_executor(&mut self, executor: ExecutorId) -> usize {
        self.executors.remove(&executor);
        self.outstanding.retain(|_, owner| *owner != executor);
        let mut lost = 0;
        for task in &mut self.tasks {
            if task.phase == (TaskPhase::Running { executor }) {
                task.phase = TaskPhase::Pending;
                task.executors_lost += 1;
                lost += 1;
            }
        }
        lost
    }

    /// A task that cost [`MAX_EXECUTORS_LOST`] executors: probably it needs more memory than one has.
    pub fn fatal_task(&self) -> Option<u32> {
        self.tasks.iter().position(|task| task.executors_lost >= MAX_EXECUTORS_LOST).map(|index| index as u32)
    }

    /// True when the executor runs nothing (or is not known).
    pub fn is_idle(&self, executor: ExecutorId) -> bool {
        self.executors.get(&executor).is_none_or(|slots| slots.busy == 0)
    }

    /// Takes a free slot outside of the stage, for background work; `None` when every slot is busy or `tasks` wait.
    pub fn borrow_idle_slot(&mut self, attempt: AttemptId) -> Option<ExecutorId> {
        if self.tasks_pending() > 0 {
            return None;
        }
        let executor = self.freest_executor(None)?;
        self.occupy(executor, attempt);
        Some(executor)
    }

    /// Starts as many pending tasks as there are free slots, spread over executors.
    pub fn assign(&mut self) -> Vec<Assignment> {
        let mut assignments = Vec::new();
        for index in 0..self.tasks.len() {
            if self.tasks[index].phase != TaskPhase::Pending {
                continue;
            }
            // A task that failed somewhere is tried elsewhere if there is an elsewhere.
            let avoid = if self.tasks[index].failures > 0 { self.tasks[index].last_executor } else { None };
            let Some(executor) = self.freest_executor(avoid).or_else(|| self.freest_executor(None)) else { break };
            let task = &mut self.tasks[index];
            let attempt = AttemptId { stage: self.stage, task: index as u32, attempt: task.attempts };
            task.attempts += 1;
            task.phase = TaskPhase::Running { executor };
            task.last_executor = Some(executor);
            self.occupy(executor, attempt);
            assignments.push(Assignment { executor, attempt });
        }
        assignments
    }

    /// `executor` reports that `attempt` succeeded.
    pub fn succeeded(&mut self, executor: ExecutorId, attempt: AttemptId) -> Verdict {
        match self.settle(executor, attempt) {
            Some(task) => {
                task.phase = TaskPhase::Done;
                Verdict::Accepted
            }
            None => Verdict::Stale,
        }
    }

    /// `executor` reports that `attempt` failed. `blameless` failures (the shuffle or the log was away) are retried
    /// without counting.
    pub fn failed(&mut self, executor: ExecutorId, attempt: AttemptId, blameless: bool) -> Verdict {
        match self.settle(executor, attempt) {
            Some(task) => {
                task.phase = TaskPhase::Pending;
                task.failures += u32::from(!blameless);
                if task.failures >= MAX_TASK_FAILURES { Verdict::GiveUp } else { Verdict::Retry }
            }
            None => Verdict::Stale,
        }
    }

    /// True when every task of the stage has a result.
    pub fn stage_done(&self) -> bool {
        self.tasks.iter().all(|task| task.phase == TaskPhase::Done)
    }

    /// Tasks that wait for a slot.
    pub fn tasks_pending(&self) -> usize {
        self.tasks.iter().filter(|task| task.phase == TaskPhase::Pending).count()
    }

    /// Tasks that run, background work included.
    pub fn tasks_running(&self) -> usize {
        self.outstanding.len()
    }

    /// Slots of executors that take tasks.
    pub fn slots(&self) -> usize {
        self.executors.values().filter(|slots| !slots.draining).map(|slots| slots.total).sum()
    }

    fn freest_executor(&self, avoid: Option<ExecutorId>) -> Option<ExecutorId> {
        self.executors
            .iter()
            .filter(|(id, slots)| !slots.draining && slots.busy < slots.total && Some(**id) != avoid)
            .min_by_key(|(_, slots)| slots.busy)
            .map(|(id, _)| *id)
    }

    fn occupy(&mut self, executor: ExecutorId, attempt: AttemptId) {
        self.outstanding.insert(attempt, executor);
        if let Some(slots) = self.executors.get_mut(&executor) {
            slots.busy += 1;
        }
    }

    /// Frees the slot of an answered attempt; gives the task if the attempt is in force.
    fn settle(&mut self, executor: ExecutorId, attempt: AttemptId) -> Option<&mut Task> {
        if self.outstanding.get(&attempt) != Some(&executor) {
            return None;
        }
        self.outstanding.remove(&attempt);
        if let Some(slots) = self.executors.get_mut(&executor) {
            slots.busy = slots.busy.saturating_sub(1);
        }
        if attempt.stage != self.stage {
            return None;
        }
        let task = self.tasks.get_mut(attempt.task as usize)?;
        let in_force = task.phase == (TaskPhase::Running { executor }) && task.attempts == attempt.attempt + 1;
        in_force.then_some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    #[test]
    fn results_of_removed_executors_and_older_attempts_are_stale() {
        let mut schedule = Schedule::default();
        schedule.add_executor(1, 1);
        schedule.start_stage(1);
        let first = schedule.assign()[0].attempt;
        assert_eq!(schedule.remove_executor(1), 1);
        schedule.add_executor(2, 1);
        let second = schedule.assign()[0].attempt;
        assert_eq!((second.task, second.attempt), (0, 1));
        assert_eq!(schedule.succeeded(1, first), Verdict::Stale);
        assert_eq!(schedule.succeeded(2, first), Verdict::Stale);
        assert_eq!(schedule.succeeded(1, second), Verdict::Stale);
        assert_eq!(schedule.succeeded(2, second), Verdict::Accepted);
        assert_eq!(schedule.succeeded(2, second), Verdict::Stale);
        assert!(schedule.stage_done());
    }

    #[test]
    fn a_task_that_always_fails_stops_at_the_limit_and_moves_between_executors() {
        let mut schedule = Schedule::default();
        schedule.add_executor(1, 1);
        schedule.add_executor(2, 1);
        schedule.start_stage(1);
        let mut last = None;
        for failure in 1..=MAX_TASK_FAILURES {
            let assignment = schedule.assign()[0];
            assert_ne!(Some(assignment.executor), last, "retried where it had just failed");
            last = Some(assignment.executor);
            let verdict = schedule.failed(assignment.executor, assignment.attempt, false);
            assert_eq!(verdict == Verdict::GiveUp, failure == MAX_TASK_FAILURES);
        }
    }

    #[test]
    fn a_task_that_costs_its_executors_is_found() {
        let mut schedule = Schedule::default();
        schedule.start_stage(2);
        for executor in 0..u64::from(MAX_EXECUTORS_LOST) {
            assert_eq!(schedule.fatal_task(), None);
            schedule.add_executor(executor, 1);
            assert_eq!(schedule.assign()[0].attempt.task, 0);
            schedule.remove_executor(executor);
        }
        assert_eq!(schedule.fatal_task(), Some(0));
        schedule.start_stage(2);
        assert_eq!(schedule.fatal_task(), None);
    }

    #[test]
    fn blameless_failures_never_stop_the_job() {
        let mut schedule = Schedule::default();
        schedule.add_executor(1, 1);
        schedule.start_stage(1);
        for _ in 0..50 {
            let assignment = schedule.assign()[0];
            assert_eq!(schedule.failed(1, assignment.attempt, true), Verdict::Retry);
        }
    }

    #[test]
    fn draining_executors_finish_and_take_nothing_new() {
        let mut schedule = Schedule::default();
        schedule.add_executor(1, 1);
        schedule.start_stage(2);
        let running = schedule.assign();
        assert_eq!(running.len(), 1);
        schedule.drain_executor(1);
        assert_eq!(schedule.succeeded(1, running[0].attempt), Verdict::Accepted);
        assert!(schedule.is_idle(1) && schedule.assign().is_empty());
        assert_eq!((schedule.slots(), schedule.tasks_pending()), (0, 1));
    }

    #[test]
    fn a_late_answer_of_an_older_stage_frees_its_slot_and_counts_for_nothing() {
        let mut schedule = Schedule::default();
        schedule.add_executor(1, 1);
        let background = AttemptId { stage: u64::MAX, task: 3, attempt: 0 };
        assert_eq!(schedule.borrow_idle_slot(background), Some(1));
        schedule.start_stage(1);
        assert!(schedule.assign().is_empty(), "the slot is taken by background work");
        assert_eq!(schedule.succeeded(1, background), Verdict::Stale);
        assert_eq!(schedule.assign().len(), 1);
    }

    proptest! {
        /// Executors come, go, answer late, twice or wrongly; a stage always ends with exactly one accepted result
        /// per task, and no executor ever runs more than its slots.
        #[test]
        fn every_task_is_accepted_exactly_once(seed in any::<u64>(), tasks in 1usize..20) {
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let mut schedule = Schedule::default();
            let (mut alive, mut next_executor) = (BTreeMap::<ExecutorId, usize>::new(), 0);
            for _stage in 0..3 {
                let stage = schedule.start_stage(tasks);
                let mut accepted = vec![0u32; tasks];
                let mut in_flight: Vec<Assignment> = Vec::new();
                let mut old: Vec<Assignment> = Vec::new();
                for step in 0..10_000 {
                    if schedule.stage_done() { break; }
                    let calm = step > 400;
                    match rng.random_range(0..10) {
                        0 | 1 if alive.len() < 5 => {
                            let slots = rng.random_range(1..3);
                            schedule.add_executor(next_executor, slots);
                            alive.insert(next_executor, slots);
                            next_executor += 1;
                        }
                        2 if !calm && !alive.is_empty() => {
                            let victim = *alive.keys().nth(rng.random_range(0..alive.len())).unwrap();
                            alive.remove(&victim);
                            schedule.remove_executor(victim);
                        }
                        3 if !old.is_empty() => {
                            let stale = old[rng.random_range(0..old.len())];
                            prop_assert_eq!(schedule.succeeded(stale.executor, stale.attempt), Verdict::Stale);
                        }
                        4..=7 if !in_flight.is_empty() => {
                            let answered = in_flight.swap_remove(rng.random_range(0..in_flight.len()));
                            let verdict = if !calm && rng.random_range(0..10) == 0 {
                                schedule.failed(answered.executor, answered.attempt, true)
                            } else {
                                schedule.succeeded(answered.executor, answered.attempt)
                            };
                            if verdict == Verdict::Accepted {
                                prop_assert_eq!(answered.attempt.stage, stage);
                                accepted[answered.attempt.task as usize] += 1;
                            } else if verdict == Verdict::Stale {
                                prop_assert!(!alive.contains_key(&answered.executor));
                            }
                            old.push(answered);
                        }
                        _ => {
                            in_flight.extend(schedule.assign());
                            for (executor, slots) in &alive {
                                let running = in_flight.iter().filter(|a| a.executor == *executor).count();
                                prop_assert!(running <= *slots, "seed {} overbooked", seed);
                            }
                        }
                    }
                }
                prop_assert!(schedule.stage_done(), "seed {} never ended", seed);
                prop_assert!(accepted.iter().all(|count| *count == 1), "seed {}: {:?}", seed, accepted);
                // Answers of this stage that come during the next one only free slots.
                for late in in_flight.drain(..) {
                    prop_assert_ne!(schedule.succeeded(late.executor, late.attempt), Verdict::Accepted);
                }
            }
        }
    }
}
