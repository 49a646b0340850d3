//! Which executors should there be, and what must be done about it? A pure state machine with time as an argument.

use super::schedule::ExecutorId;
use crate::provisioning::Provisioning;
use petrel_core::protocol::{ExecutorPhase, ExecutorStatus};
use std::collections::BTreeMap;

/// What the driver must do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RosterAction {
    /// Start the process of this executor.
    Spawn(ExecutorId),
    /// Forget this request: no process was started.
    Cancel(ExecutorId),
    /// Ask the executor to finish its tasks and leave.
    Drain(ExecutorId),
    /// End the process: it did not register in time, or it was not wanted any more before it did.
    Kill(ExecutorId),
}

/// Time that a process gets to register.
pub const STARTUP_TIMEOUT_MS: i64 = 60_000;

#[derive(Debug, Clone)]
struct Member {
    phase: ExecutorPhase,
    requested_ms: i64,
    spawn_at_ms: i64,
    spawned_ms: Option<i64>,
    registered_ms: Option<i64>,
    first_task_ms: Option<i64>,
    emulated_delay_s: f64,
    pid: Option<u32>,
    cpu_utilisation: f64,
    killed: bool,
}

/// Every executor that was asked for and is not gone yet.
#[derive(Debug, Clone)]
pub struct Roster {
    provisioning: Provisioning,
    seed: u64,
    next_id: ExecutorId,
    desired: u32,
    /// The first executors of a driver belong to its start, they are there without an emulated delay.
    without_delay: u32,
    members: BTreeMap<ExecutorId, Member>,
    released_seconds: f64,
    failed_starts: u32,
}

impl Roster {
    /// An empty roster; the first `without_delay` executors get no emulated delay. `executor_seconds` and `next_id`
    /// continue what the commit log holds.
    pub fn new(
        provisioning: Provisioning,
        seed: u64,
        next_id: ExecutorId,
        without_delay: u32,
        executor_seconds: f64,
    ) -> Self {
        Self {
            provisioning,
            seed,
            next_id,
            desired: 0,
            without_delay,
            members: BTreeMap::new(),
            released_seconds: executor_seconds,
            failed_starts: 0,
        }
    }

    /// How many executors there should be, running and starting together.
    pub fn set_desired(&mut self, executors: u32) {
        self.desired = executors;
    }

    /// How many executors there should be.
    pub fn desired(&self) -> u32 {
        self.desired
    }

    /// Number that the next request gets.
    pub fn next_id(&self) -> ExecutorId {
        self.next_id
    }

    /// What must be done at `now_ms`. `is_idle` tells whether a running executor has no task.
    pub fn step(&mut self, now_ms: i64, is_idle: impl Fn(ExecutorId) -> bool) -> Vec<RosterAction> {
        let mut actions = Vec::new();
        self.remove_surplus(now_ms, is_idle, &mut actions);
        while self.wanted_members() < self.desired as usize {
            self.request(now_ms);
        }
        for (id, member) in &mut self.members {
            if member.phase == ExecutorPhase::Provisioning && member.spawn_at_ms <= now_ms {
                member.phase = ExecutorPhase::Starting;
                member.spawned_ms = Some(now_ms);
                actions.push(RosterAction::Spawn(*id));
            }
            let waited_ms = now_ms - member.spawned_ms.unwrap_or(now_ms);
            if member.phase == ExecutorPhase::Starting && waited_ms > STARTUP_TIMEOUT_MS && !member.killed {
                member.killed = true;
                actions.push(RosterAction::Kill(*id));
            }
        }
        actions
    }

    /// The process of an executor was started.
    pub fn spawned(&mut self, id: ExecutorId, pid: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.pid = Some(pid);
        }
    }

    /// The executor takes tasks from now on; false when it is not expected.
    pub fn registered(&mut self, id: ExecutorId, now_ms: i64) -> bool {
        match self.members.get_mut(&id) {
            Some(member) if member.phase == ExecutorPhase::Starting && !member.killed => {
                member.phase = ExecutorPhase::Running;
                member.registered_ms = Some(now_ms);
                self.failed_starts = 0;
                true
            }
            _ => false,
        }
    }

    /// The executor finished a task.
    pub fn finished_task(&mut self, id: ExecutorId, now_ms: i64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.first_task_ms.get_or_insert(now_ms);
        }
    }

    /// CPU use since the last call, as a share of its limit.
    pub fn used_cpu(&mut self, id: ExecutorId, utilisation: f64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.cpu_utilisation = utilisation.clamp(0.0, 1.0);
        }
    }

    /// The executor is gone, for whatever reason. The next [`Roster::step`] replaces it if it is still wanted.
    /// True when that was not asked for.
    pub fn exited(&mut self, id: ExecutorId, now_ms: i64) -> bool {
        let Some(member) = self.members.remove(&id) else { return false };
        self.released_seconds += (now_ms - member.requested_ms).max(0) as f64 / 1e3;
        if member.registered_ms.is_none() && !member.killed {
            self.failed_starts = self.failed_starts.saturating_add(1);
        }
        member.phase != ExecutorPhase::Draining && !member.killed
    }

    /// Starts in a row that ended before the executor registered.
    pub fn failed_starts(&self) -> u32 {
        self.failed_starts
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Every executor with a process.
    pub fn pids(&self) -> Vec<(ExecutorId, u32)> {
        self.members.iter().filter_map(|(id, member)| Some((*id, member.pid?))).collect()
    }

    /// Executor seconds from request to release, open ones up to `now_ms`.
    pub fn executor_seconds(&self, now_ms: i64) -> f64 {
        let open_ms: i64 = self.members.values().map(|member| (now_ms - member.requested_ms).max(0)).sum();
        self.released_seconds + open_ms as f64 / 1e3
    }

    /// Every executor for the heartbeat.
    pub fn statuses(&self) -> Vec<ExecutorStatus> {
        self.members
            .iter()
            .map(|(id, member)| ExecutorStatus {
                id: *id,
                pid: member.pid,
                phase: member.phase,
                requested_ms: member.requested_ms,
                registered_ms: member.registered_ms,
                first_task_ms: member.first_task_ms,
                emulated_delay_s: member.emulated_delay_s,
                cpu_utilisation: member.cpu_utilisation,
                ..ExecutorStatus::default()
            })
            .collect()
    }

    fn wanted_members(&self) -> usize {
        let stays = |member: &&Member| member.phase != ExecutorPhase::Draining && !member.killed;
        self.members.values().filter(stays).count()
    }

    fn request(&mut self, now_ms: i64) {
        let id = self.next_id;
        self.next_id += 1;
        let emulated_delay_s = if self.without_delay > 0 {
            self.without_delay -= 1;
            0.0
        } else {
            self.provisioning.delay_s(self.seed, id)
        };
        // A binary that cannot start must not be started a hundred times a second.
        let backoff_ms = match self.failed_starts {
            0 => 0,
            failures => 500_i64.saturating_mul(1 << failures.min(6)).min(30_000),
        };
        let member = Member {
            phase: ExecutorPhase::Provisioning,
            requested_ms: now_ms,
            spawn_at_ms: now_ms + (emulated_delay_s * 1e3) as i64 + backoff_ms,
            spawned_ms: None,
            registered_ms: None,
            first_task_ms: None,
            emulated_delay_s,
            pid: None,
            cpu_utilisation: 0.0,
            killed: false,
        };
        self.members.insert(id, member);
    }

    /// Takes away what costs least: requests that wait longest for their process, then processes that have not
    /// registered, then idle executors, then the newest.
    fn remove_surplus(&mut self, now_ms: i64, is_idle: impl Fn(ExecutorId) -> bool, actions: &mut Vec<RosterAction>) {
        let surplus = self.wanted_members().saturating_sub(self.desired as usize);
        if surplus == 0 {
            return;
        }
        let mut candidates: Vec<(u8, i64, ExecutorId)> = self
            .members
            .iter()
            .filter_map(|(id, member)| match member.phase {
                ExecutorPhase::Provisioning => Some((0, -member.spawn_at_ms, *id)),
                ExecutorPhase::Starting if !member.killed => Some((1, -member.requested_ms, *id)),
                ExecutorPhase::Running if is_idle(*id) => Some((2, -member.requested_ms, *id)),
                ExecutorPhase::Running => Some((3, -member.requested_ms, *id)),
                _ => None,
            })
            .collect();
        candidates.sort_unstable();
        for (kind, _, id) in candidates.into_iter().take(surplus) {
            let Some(member) = self.members.get_mut(&id) else { continue };
            match kind {
                0 => {
                    self.released_seconds += (now_ms - member.requested_ms).max(0) as f64 / 1e3;
                    self.members.remove(&id);
                    actions.push(RosterAction::Cancel(id));
                }
                1 => {
                    member.killed = true;
                    actions.push(RosterAction::Kill(id));
                }
                _ => {
                    member.phase = ExecutorPhase::Draining;
                    actions.push(RosterAction::Drain(id));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roster(provisioning: &str, without_delay: u32) -> Roster {
        Roster::new(provisioning.parse().unwrap(), 1, 10, without_delay, 0.0)
    }

    fn spawns(actions: &[RosterAction]) -> Vec<ExecutorId> {
        actions
            .iter()
            .filter_map(|action| if let RosterAction::Spawn(id) = action { Some(*id) } else { None })
            .collect()
    }

    #[test]
    fn the_first_executors_start_at_once_and_later_ones_wait_for_their_delay() {
        let mut roster = roster("warm", 2);
        roster.set_desired(2);
        assert_eq!(spawns(&roster.step(0, |_| true)), [10, 11]);
        roster.set_desired(3);
        assert!(roster.step(0, |_| true).is_empty());
        let delay_ms = (roster.statuses()[2].emulated_delay_s * 1e3) as i64;
        assert!((2_000..=5_000).contains(&delay_ms));
        assert!(roster.step(delay_ms - 1, |_| true).is_empty());
        assert_eq!(spawns(&roster.step(delay_ms, |_| true)), [12]);
    }

    #[test]
    fn scale_down_cancels_requests_first_then_starting_then_idle_then_busy() {
        let mut roster = roster("warm", 3);
        roster.set_desired(3);
        roster.step(0, |_| true);
        assert!(roster.registered(10, 5) && roster.registered(11, 5));
        roster.set_desired(4);
        roster.step(10, |_| true);
        roster.set_desired(0);
        let actions = roster.step(20, |id| id == 10);
        let expected =
            [RosterAction::Cancel(13), RosterAction::Kill(12), RosterAction::Drain(10), RosterAction::Drain(11)];
        assert_eq!(actions, expected);
        assert!(roster.step(30, |_| true).is_empty(), "asked once only");
    }

    #[test]
    fn a_dead_executor_is_replaced_under_a_new_number_with_a_new_draw() {
        let mut roster = roster("warm", 1);
        roster.set_desired(1);
        roster.step(0, |_| true);
        roster.registered(10, 100);
        assert!(roster.exited(10, 4_000));
        roster.step(4_000, |_| true);
        let status = &roster.statuses()[0];
        assert_eq!((status.id, status.phase), (11, ExecutorPhase::Provisioning));
        assert!(status.emulated_delay_s >= 2.0);
        assert!((roster.executor_seconds(5_000) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_process_that_cannot_start_is_tried_ever_more_slowly() {
        let mut roster = roster("none", 0);
        roster.set_desired(1);
        let (mut now_ms, mut starts) = (0, 0);
        while now_ms < 120_000 {
            for id in spawns(&roster.step(now_ms, |_| true)) {
                starts += 1;
                roster.exited(id, now_ms);
            }
            now_ms += 100;
        }
        assert!((5..15).contains(&starts), "{starts} starts in two minutes");
    }

    #[test]
    fn a_process_that_never_registers_is_killed_once() {
        let mut roster = roster("none", 0);
        roster.set_desired(1);
        assert_eq!(spawns(&roster.step(0, |_| true)).len(), 1);
        let actions = roster.step(STARTUP_TIMEOUT_MS + 1, |_| true);
        assert_eq!(actions, [RosterAction::Kill(10)]);
        assert!(!roster.registered(10, STARTUP_TIMEOUT_MS + 2));
    }

    proptest! {
        #[test]
        fn members_follow_the_wish_and_seconds_never_shrink(wishes in proptest::collection::vec((0u32..8, 0u8..4), 1..60)) {
            let mut roster = roster("warm:0.5,cached:0.5", 2);
            let (mut now_ms, mut seconds) = (0, 0.0);
            for (desired, event) in wishes {
                now_ms += 700;
                roster.set_desired(desired);
                roster.step(now_ms, |id| id % 2 == 0);
                prop_assert_eq!(roster.wanted_members(), desired as usize);
                let some = roster.statuses().into_iter().nth(usize::from(event));
                if let Some(status) = some {
                    match status.phase {
                        ExecutorPhase::Starting => { roster.registered(status.id, now_ms); }
                        ExecutorPhase::Running | ExecutorPhase::Draining => { roster.exited(status.id, now_ms); }
                        ExecutorPhase::Provisioning => {}
                    }
                }
                prop_assert!(roster.executor_seconds(now_ms) >= seconds);
                seconds = roster.executor_seconds(now_ms);
            }
        }
    }
}
