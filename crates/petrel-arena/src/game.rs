//! How does one player fare in one game? Plays it to the end and counts.

use crate::run::{Ablation, Ablations, Outcome};
use crate::stats::quantile;
use petrel_core::{Action, Codec, Decision, InvalidValue, Observation, Policy, Tier};
use petrel_policy::Guardrails;
use petrel_policy::classic_rules::ClassicRule;
use petrel_sim::classic::{ClassicAction, ClassicWorld, LATENCY_LIMIT_MS, OBSERVATION, TOURNAMENT_STEPS};
use petrel_sim::queue::{Arrivals, Interval, QueueParams, QueueWorld, WorldSettings};
use petrel_sim::scenario::Scenario;
use std::sync::Arc;
use std::time::Instant;

/// Where all players of one trace and seed meet the same records, signals and draws.
#[derive(Debug, Clone)]
pub struct QueueGame {
    /// The world's parameters.
    pub params: Arc<QueueParams>,
    /// What arrives, and what a controller hears of it.
    pub arrivals: Arc<Arrivals>,
    /// Limits, objective, prices, weights and the seed of all other draws.
    pub settings: WorldSettings,
}

/// One decision interval of a game, for pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimelinePoint {
    /// Beginning of the interval, seconds.
    pub from_s: f64,
    /// End of the interval, seconds.
    pub time_s: f64,
    /// Records that arrived, records/s.
    pub arrival_rate: f64,
    /// Executors that take tasks at the end of the interval.
    pub running: u32,
    /// Executors asked for.
    pub target: u32,
    /// Warm spares.
    pub warm: u32,
    /// 95th percentile of the latency in the interval, milliseconds.
    pub p95_ms: f64,
    /// True when that was above the objective.
    pub violated: bool,
    /// Records waiting at the end.
    pub backlog_records: f64,
    /// Dollars of the interval.
    pub cost_usd: f64,
}

/// Storage and warm spares that a player may no longer choose.
struct Curbed<'a> {
    policy: &'a mut dyn Policy,
    tier: Option<Tier>,
    codec: Option<Codec>,
    no_prewarm: bool,
}

impl Curbed<'_> {
    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut decision = self.policy.decide(observation);
        let Action { tier, codec, prewarm, .. } = &mut decision.action;
        *tier = self.tier.unwrap_or(*tier);
        *codec = self.codec.unwrap_or(*codec);
        if self.no_prewarm {
            *prewarm = 0;
        }
        decision
    }
}

/// Plays `game` to its end with a policy that has not decided yet. What [`Ablations`] takes away from a decision is taken
/// away here: the choice of tier or codec (local disk and LZ4 instead, as on stock Spark), warm spares, guardrails.
/// [`Ablation::EdgeSignal`] is a matter of the arrivals and [`Ablation::MetaController`] of the policy.
///
/// `watch` is called after every interval.
///
/// # Errors
/// [`InvalidValue`] when the limits of the game cannot be met.
pub fn play_queue(
    game: &QueueGame,
    policy: &mut dyn Policy,
    without: &Ablations,
    mut watch: impl FnMut(&QueueWorld, &Interval),
) -> Result<Outcome, InvalidValue> {
    let mut world = QueueWorld::new(Arc::clone(&game.params), Arc::clone(&game.arrivals), game.settings)?;
    let mut curbed = Curbed {
        policy,
        tier: without.has(Ablation::TierChoice).then_some(Tier::Nvme),
        codec: without.has(Ablation::CodecChoice).then_some(Codec::Lz4),
        no_prewarm: without.has(Ablation::Prewarm),
    };
    let mut guardrails = (!without.has(Ablation::Guardrails)).then(Guardrails::new);
    while !world.is_done() {
        let observation = world.observe();
        let wish = curbed.decide(&observation);
        let action = match &mut guardrails {
            Some(guardrails) => guardrails.apply(wish, &observation).action,
            None => wish.action,
        };
        let interval = world.step_interval(&action);
        watch(&world, &interval);
    }
    let totals = world.totals();
    Ok(Outcome {
        violation_rate: totals.violation_rate(),
        cost: totals.cost_usd,
        p50_ms: totals.p50_ms(),
        p95_ms: totals.p95_ms(),
        p99_ms: totals.p99_ms(),
        executor_hours: totals.executor_hours(),
        scalings: f64::from(totals.scalings),
        cold_starts_met: f64::from(totals.cold_starts_met),
        wasted_prewarm_s: totals.wasted_prewarm_s,
        out_of_memory: f64::from(totals.oom),
        preempted: f64::from(totals.preempted),
    })
}

/// Plays `game` to its end and keeps every interval.
///
/// # Errors
/// As [`play_queue`].
pub fn queue_timeline(
    game: &QueueGame,
    policy: &mut dyn Policy,
    without: &Ablations,
) -> Result<(Outcome, Vec<TimelinePoint>), InvalidValue> {
    let mut points = Vec::new();
    let mut from_s = 0.0;
    let outcome = play_queue(game, policy, without, |world, interval| {
        let time_s = f64::from(world.now_s());
        let (running, starting, warm) = world.executors();
        points.push(TimelinePoint {
            from_s,
            time_s,
            arrival_rate: interval.arrived / (time_s - from_s).max(1.0),
            running,
            target: running + starting,
            warm,
            p95_ms: interval.p95_ms,
            violated: interval.violated,
            backlog_records: interval.backlog,
            cost_usd: interval.cost_usd,
        });
        from_s = time_s;
    })?;
    Ok((outcome, points))
}

/// A policy whose decisions are timed.
pub struct Timed<'a> {
    policy: &'a mut dyn Policy,
    nanoseconds: Vec<u64>,
}

impl<'a> Timed<'a> {
    /// Times `policy`.
    pub fn new(policy: &'a mut dyn Policy) -> Self {
        Self { policy, nanoseconds: Vec::new() }
    }

    /// Decisions so far and their median, microseconds. Reading the clock, some 20 to 50 ns, is part of it.
    pub fn median_us(&self) -> (usize, f64) {
        let us: Vec<f64> = self.nanoseconds.iter().map(|ns| *ns as f64 / 1e3).collect();
        (us.len(), quantile(&us, 0.5))
    }
}

impl Policy for Timed<'_> {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let start = Instant::now();
        let decision = self.policy.decide(observation);
        self.nanoseconds.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        decision
    }
}

/// Plays the published 500 steps of `classic` in `scenario`. `choose` gets the world before each step.
fn play_classic_with(
    scenario: &Scenario,
    seed: u64,
    mut choose: impl FnMut(&ClassicWorld) -> ClassicAction,
) -> Outcome {
    let mut world = ClassicWorld::new(scenario.weights, seed).with_episode_steps(TOURNAMENT_STEPS);
    let mut latencies_ms = Vec::with_capacity(TOURNAMENT_STEPS as usize);
    let (mut cost, mut executor_hours, mut scalings, mut violations) = (0.0, 0.0, 0_u32, 0_u32);
    let mut before = None;
    for _ in 0..TOURNAMENT_STEPS {
        let action = choose(&world);
        let step = world.step(action);
        latencies_ms.push(step.latency_ms);
        cost += step.cost_usd_per_hour;
        violations += u32::from(step.latency_ms > LATENCY_LIMIT_MS);
        executor_hours += f64::from(action.executors);
        scalings += u32::from(before.is_some_and(|before| before != action.executors));
        before = Some(action.executors);
    }
    Outcome {
        violation_rate: f64::from(violations) / f64::from(TOURNAMENT_STEPS),
        cost,
        p50_ms: quantile(&latencies_ms, 0.50),
        p95_ms: quantile(&latencies_ms, 0.95),
        p99_ms: quantile(&latencies_ms, 0.99),
        executor_hours,
        scalings: f64::from(scalings),
        // The formula has no start-up, no memory and nobody who takes executors away.
        cold_starts_met: f64::NAN,
        wasted_prewarm_s: f64::NAN,
        out_of_memory: f64::NAN,
        preempted: f64::NAN,
    }
}

/// Plays the published 500 steps of `classic` with a rule that has not decided yet. Of the ablations, those of tier and
/// codec apply: NVMe and light compression instead, as the published baselines have them.
pub fn play_classic(scenario: &Scenario, seed: u64, rule: &mut dyn ClassicRule, without: &Ablations) -> Outcome {
    play_classic_with(scenario, seed, |world| {
        let observation: [f64; OBSERVATION] = world.observe();
        let mut action = rule.decide(&observation);
        if without.has(Ablation::TierChoice) {
            action.tier = Tier::Nvme;
        }
        if without.has(Ablation::CodecChoice) {
            action.codec = Codec::Lz4;
        }
        action
    })
}

/// What an optimum on `classic` may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassicKnowledge {
    /// The observation: the announced workload, not the coming shuffle.
    Observation,
    /// The coming shuffle as well.
    Everything,
}

/// The cheapest play of `classic` that never violates the objective. A step leaves nothing behind, so the best action
/// step by step is the best plan and the bound is attained.
pub fn classic_optimum(scenario: &Scenario, seed: u64, knowledge: ClassicKnowledge) -> Outcome {
    play_classic_with(scenario, seed, |world| {
        let state = world.state();
        let shuffle_mb = (knowledge == ClassicKnowledge::Everything).then_some(state.shuffle_mb);
        petrel_sim::classic::optimum_given(state.next_workload, shuffle_mb)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_core::trace::{Family, RateTrace};
    use petrel_policy::classic_rules::classic_rule_by_name;
    use petrel_policy::{PolicySettings, by_name};
    use petrel_sim::scenario::SCENARIOS;

    fn game() -> QueueGame {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::FlashCrowd, 15_000.0, 240, 3);
        let arrivals = Arc::new(Arrivals::prepare(&trace, 60, 180, 3, &params));
        let settings = WorldSettings::new(&params, 3);
        QueueGame { params, arrivals, settings }
    }

    /// Wants the cold tier, no codec and warm spares, and leaves notes of what it was shown.
    struct Spender {
        seen: Vec<(Tier, Codec, u32)>,
    }

    impl Policy for Spender {
        fn name(&self) -> &'static str {
            "spender"
        }

        fn decide(&mut self, observation: &Observation) -> Decision {
            self.seen.push((observation.tier, observation.codec, observation.executors_prewarmed));
            let action = Action { executors: 12, memory_gb: 4.0, tier: Tier::S3, codec: Codec::None, prewarm: 5 };
            Decision { action, reason: String::new() }
        }
    }

    #[test]
    fn what_is_taken_away_from_a_decision_never_reaches_the_world() {
        let mut free = Spender { seen: Vec::new() };
        play_queue(&game(), &mut free, &Ablations::none(), |_, _| {}).unwrap();
        let last = free.seen.last().copied().unwrap();
        assert_eq!((last.0, last.1), (Tier::S3, Codec::None));
        assert!(last.2 > 0, "spares are warm");

        let mut curbed = Spender { seen: Vec::new() };
        let without = Ablations::new(&[Ablation::TierChoice, Ablation::CodecChoice, Ablation::Prewarm]);
        play_queue(&game(), &mut curbed, &without, |_, _| {}).unwrap();
        assert_eq!(curbed.seen.last().copied().unwrap(), (Tier::Nvme, Codec::Lz4, 0));
    }

    #[test]
    fn a_timeline_tells_the_same_story_as_the_outcome() {
        let mut policy = by_name("forecast", &PolicySettings::default()).unwrap();
        let outcome = play_queue(&game(), policy.as_mut(), &Ablations::none(), |_, _| {}).unwrap();
        let mut policy = by_name("forecast", &PolicySettings::default()).unwrap();
        let (_, points) = queue_timeline(&game(), policy.as_mut(), &Ablations::none()).unwrap();
        assert_eq!(points.len(), 36);
        let violated = points.iter().filter(|point| point.violated).count();
        assert_eq!(violated as f64 / 36.0, outcome.violation_rate);
        let cost: f64 = points.iter().map(|point| point.cost_usd).sum();
        assert!((cost - outcome.cost).abs() < 1e-9 && cost > 0.0);
        let records: f64 = points.iter().map(|point| point.arrival_rate * 5.0).sum();
        assert!((records - game().arrivals.total()).abs() < 1e-3);
    }

    #[test]
    fn guardrails_bound_a_player_unless_they_are_taken_away() {
        struct Jumper;
        impl Policy for Jumper {
            fn name(&self) -> &'static str {
                "jumper"
            }
            fn decide(&mut self, observation: &Observation) -> Decision {
                let executors = if (observation.time_s as u64).is_multiple_of(10) { 20 } else { 1 };
                let action = Action { executors, memory_gb: 4.0, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 };
                Decision { action, reason: String::new() }
            }
        }
        let mut game = game();
        game.settings.limits.scale_down_hold_s = 60.0;
        let guarded = play_queue(&game, &mut Jumper, &Ablations::none(), |_, _| {}).unwrap();
        let free = play_queue(&game, &mut Jumper, &Ablations::new(&[Ablation::Guardrails]), |_, _| {}).unwrap();
        assert!(free.scalings > 10.0 * guarded.scalings.max(1.0), "{} against {}", free.scalings, guarded.scalings);
    }

    #[test]
    fn the_optimum_of_classic_never_violates_and_nobody_who_keeps_the_limit_is_cheaper() {
        let scenario = &SCENARIOS[3];
        let everything = classic_optimum(scenario, 5, ClassicKnowledge::Everything);
        let observed = classic_optimum(scenario, 5, ClassicKnowledge::Observation);
        let mut rule = classic_rule_by_name("one-line").unwrap();
        let one_line = play_classic(scenario, 5, rule.as_mut(), &Ablations::none());
        assert_eq!((everything.violation_rate, observed.violation_rate, one_line.violation_rate), (0.0, 0.0, 0.0));
        assert!(everything.cost < observed.cost && observed.cost < one_line.cost);
        assert!(one_line.p50_ms <= one_line.p95_ms && one_line.p99_ms <= 1_000.0);
    }

    #[test]
    fn decisions_are_timed() {
        let mut policy = by_name("fixed", &PolicySettings::default()).unwrap();
        let mut timed = Timed::new(policy.as_mut());
        play_queue(&game(), &mut timed, &Ablations::none(), |_, _| {}).unwrap();
        let (decisions, median_us) = timed.median_us();
        assert_eq!(decisions, 36);
        assert!(median_us > 0.0);
    }
}
