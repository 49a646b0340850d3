//! The loop on a toy world whose truth is known, and on the queue world.

use super::log::mark_choices;
use super::shadow::{QueueTwin, TwinOutcome};
use super::*;
use crate::checkpoint::Checkpoint;
use crate::environment::stream_seed;
use petrel_core::trace::{Family, RateTrace};
use petrel_core::{Action, Codec, Decision, Observation, Tier};
use petrel_policy::Guardrails;
use petrel_policy::network::parameter_count;
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const TOY_HEADS: [usize; 2] = [3, 2];
const HORIZON: usize = 5;

/// One step of the toy: the first choice pushes the state and should match it, the second should match its sign.
fn toy_step(state: f64, choices: &[u32], rng: &mut Pcg64Mcg) -> (f64, f64) {
    let push = f64::from(choices[0]) - 1.0;
    let matched = (choices[1] == 1) == (state > 0.0);
    let reward = -(state - push) * (state - push) + if matched { 0.5 } else { 0.0 };
    (0.5 * state + 0.3 * push + rng.random_range(-0.3..0.3), reward)
}

/// Input: the state and its square. A first layer without hidden units keeps the toy's policies easy to write down.
fn toy_policy(params: [[f32; 5]; 3]) -> ChoicePolicy {
    let network = Mlp::new(&[2, 5], params.concat()).unwrap();
    ChoicePolicy::new(network, &TOY_HEADS, ChoiceRule::Softmax).unwrap()
}

fn toy_log(policy: &mut ChoicePolicy, decisions: usize, seed: u64) -> Samples {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut samples = Samples { heads: TOY_HEADS.to_vec(), observation_len: 2, ..Samples::default() };
    let mut state = 0.0_f64;
    let (mut choices, mut possible) = ([0; 2], [false; 5]);
    for _ in 0..decisions {
        let observation = [state as f32, (state * state) as f32];
        policy.draw(&observation, &mut rng, &mut choices);
        let (next, reward) = toy_step(state, &choices, &mut rng);
        mark_choices(&TOY_HEADS, &choices, &mut possible);
        samples.observations.extend(observation);
        samples.next_observations.extend([next as f32, (next * next) as f32]);
        samples.possible.extend(possible);
        samples.probabilities.push(None);
        samples.rewards.push(reward);
        state = next;
    }
    samples.runs.push(0..decisions);
    samples
}

/// The value of `policy` from the beginnings of the log's windows, by playing the toy.
fn toy_truth(policy: &mut ChoicePolicy, samples: &Samples, discount: f64) -> f64 {
    let mut rng = Pcg64Mcg::seed_from_u64(77);
    let windows = samples.windows(HORIZON);
    let (mut total, repeats) = (0.0, 20);
    let mut choices = [0; 2];
    for window in windows.iter().cycle().take(windows.len() * repeats) {
        let mut state = f64::from(samples.observation(window.start)[0]);
        for step in 0..HORIZON {
            let observation = [state as f32, (state * state) as f32];
            policy.draw(&observation, &mut rng, &mut choices);
            let (next, reward) = toy_step(state, &choices, &mut rng);
            total += discount.powi(step as i32) * reward;
            state = next;
        }
    }
    total / (windows.len() * repeats) as f64
}

fn toy_settings() -> EvaluateSettings {
    EvaluateSettings { horizon: HORIZON, discount: 0.9, ridge: 1e-4, ..EvaluateSettings::default() }
}

const UNDECIDED: [[f32; 5]; 3] = [[0.0; 5], [0.0; 5], [0.0; 5]];
/// Pushes with the state and matches its sign more often than not.
const BETTER: [[f32; 5]; 3] = [[-0.8, 0.0, 0.8, -0.8, 0.8], [0.0; 5], [0.0, 0.6, 0.0, 0.0, 0.0]];
const WORSE: [[f32; 5]; 3] = [[0.8, 0.0, -0.8, 0.8, -0.8], [0.0; 5], [0.0, -0.6, 0.0, 0.0, 0.0]];

#[test]
fn both_estimates_find_the_value_of_a_policy_that_never_acted() {
    let samples = toy_log(&mut toy_policy(UNDECIDED), 20_000, 1);
    for params in [BETTER, WORSE] {
        let mut candidate = toy_policy(params);
        let report = evaluate(&toy_settings(), &samples, &mut candidate, &mut toy_policy(UNDECIDED)).unwrap();
        let truth = toy_truth(&mut candidate, &samples, 0.9);
        let distance = (truth - report.logged_value).abs();
        assert!(distance > 0.3, "the policies differ: {distance}");
        assert!((report.doubly_robust_value - truth).abs() < 0.12 * distance, "{report:?}, truth {truth}");
        assert!((report.weighted_value - truth).abs() < 0.2 * distance, "{report:?}, truth {truth}");
        let per_decision = (0..HORIZON).map(|step| 0.9_f64.powi(step as i32)).sum::<f64>();
        let true_gain = (truth - report.logged_value) / per_decision;
        assert!(report.gain_low < true_gain && true_gain < report.gain_high, "{report:?}, true gain {true_gain}");
    }
}

#[test]
fn the_policy_that_acted_has_no_gain_over_itself() {
    let samples = toy_log(&mut toy_policy(BETTER), 5_000, 2);
    let report = evaluate(&toy_settings(), &samples, &mut toy_policy(BETTER), &mut toy_policy(BETTER)).unwrap();
    assert_eq!(report.effective_windows, report.windows as f64);
    assert!((report.weighted_value - report.logged_value).abs() < 1e-9);
    assert!(report.gain.abs() < 0.02, "{report:?}");
}

#[test]
fn the_first_gate_lets_a_better_policy_through_and_refuses_worse_and_unknown_ones() {
    let settings = toy_settings();
    let samples = toy_log(&mut toy_policy(UNDECIDED), 10_000, 3);
    let verdict = |params: [[f32; 5]; 3]| {
        let report = evaluate(&settings, &samples, &mut toy_policy(params), &mut toy_policy(UNDECIDED)).unwrap();
        report.verdict(&settings)
    };
    let (passed, reason) = verdict(BETTER);
    assert!(passed && reason.starts_with("accepted by the log: gain 0."), "{reason}");
    let (passed, reason) = verdict(WORSE);
    assert!(!passed && reason.starts_with("refused by the log: gain -0."), "{reason}");
    // Good, but what it would do was hardly ever done.
    let (passed, reason) = verdict(BETTER.map(|row| row.map(|value| 30.0 * value)));
    assert!(!passed && reason.contains("windows speak for it"), "{reason}");
}

#[test]
fn a_candidate_learned_from_the_log_is_better_and_stays_near() {
    let samples = toy_log(&mut toy_policy(UNDECIDED), 10_000, 4);
    let settings = ImproveSettings { horizon: HORIZON, learning_rate: 3e-3, ..ImproveSettings::default() };
    let in_service = Mlp::new(&[2, 5], UNDECIDED.concat()).unwrap();
    let candidate = improve(&settings, &samples, &in_service).unwrap();
    let mut policy = ChoicePolicy::new(candidate, &TOY_HEADS, ChoiceRule::Softmax).unwrap();
    let (before, after) = (toy_truth(&mut toy_policy(UNDECIDED), &samples, 0.9), toy_truth(&mut policy, &samples, 0.9));
    assert!(after > before + 0.2, "{after} after {before}");
    // Probabilities of a uniform policy within a divergence of 0.05 nats.
    let far = policy.probabilities(&[0.2, 0.04]).iter().any(|probability| *probability > 0.75);
    assert!(!far);
}

#[test]
fn a_gap_in_the_log_ends_a_run() {
    let world = Job::new(3);
    let mut steps = world.log(&over_provisioning(), 40, 1);
    steps.remove(17);
    let samples = Samples::gather(steps, &mut FactorEncoding, &RewardSettings::default()).unwrap();
    assert_eq!(samples.runs, [0..17, 17..39]);
    assert_eq!(samples.windows(10), [0..10, 17..27, 27..37]);
    let none = Samples::gather(Vec::new(), &mut FactorEncoding, &RewardSettings::default());
    assert!(none.unwrap_err().to_string().starts_with("logged decisions: got"));
}

/// Choice k asks for this many times the executors that the upper forecast needs.
const FACTORS: [f64; 5] = [0.5, 0.9, 1.3, 1.8, 3.0];

struct FactorEncoding;

impl FactorEncoding {
    fn input(observation: &Observation) -> [f32; 2] {
        let largest = observation.executor_capacity * f64::from(observation.limits.max_executors);
        [observation.arrival_rate, observation.backlog_records].map(|value| (value / largest) as f32)
    }

    fn action(observation: &Observation, choice: u32) -> Action {
        let expected = observation.forecast.map_or(observation.arrival_rate, |rows| rows[1][2]);
        let executors = (FACTORS[choice as usize] * expected / observation.executor_capacity).ceil() as u32;
        // The choice can be read back from the memory, which the toy's action space leaves free.
        let memory_gb = 4.0 + 0.001 * f64::from(choice);
        Action { executors, memory_gb, tier: Tier::Memory, codec: Codec::Lz4, prewarm: 0 }
    }
}

impl Encoding for FactorEncoding {
    fn observation_len(&self) -> usize {
        2
    }

    fn heads(&self) -> &[usize] {
        &[5]
    }

    fn encode(&mut self, step: &LoggedStep, input: &mut [f32], next_input: &mut [f32]) {
        input.copy_from_slice(&Self::input(&step.observation));
        next_input.copy_from_slice(&Self::input(&step.next_observation));
    }

    fn mark(&self, step: &LoggedStep, possible: &mut [bool]) -> bool {
        let choice = ((step.wish.memory_gb - 4.0) / 0.001).round();
        mark_choices(&[5], &[choice.clamp(0.0, 4.0) as u32], possible);
        (0.0..5.0).contains(&choice)
    }
}

/// Draws from the network's softmax; the draw is a function of the time.
struct FactorPolicy {
    policy: ChoicePolicy,
    seed: u64,
}

impl Policy for FactorPolicy {
    fn name(&self) -> &'static str {
        "factor"
    }

    fn decide(&mut self, observation: &Observation) -> Decision {
        let mut rng = Pcg64Mcg::seed_from_u64(stream_seed(self.seed, observation.time_s as u64));
        let mut choice = [0];
        self.policy.draw(&FactorEncoding::input(observation), &mut rng, &mut choice);
        Decision { action: FactorEncoding::action(observation, choice[0]), reason: String::new() }
    }
}

fn factor_policy(network: &Mlp, seed: u64) -> FactorPolicy {
    FactorPolicy { policy: ChoicePolicy::new(network.clone(), &[5], ChoiceRule::Softmax).unwrap(), seed }
}

/// A network whose choices do not depend on the observation.
fn constant(biases: [f32; 5]) -> Mlp {
    let sizes = [2, 4, 5];
    let mut params = vec![0.01; parameter_count(&sizes)];
    let first = params.len() - 5;
    params[first..].copy_from_slice(&biases);
    Mlp::new(&sizes, params).unwrap()
}

/// Usually three times what is needed, sometimes anything.
fn over_provisioning() -> Mlp {
    constant([0.0, 0.4, 0.8, 1.0, 1.8])
}

/// Policies as checkpoints with one tensor.
struct CheckpointFormat;

impl PolicyFormat for CheckpointFormat {
    fn network(&self, bytes: &[u8]) -> Result<Mlp, LearnError> {
        let checkpoint = Checkpoint::from_bytes(bytes, Path::new("policy"))?;
        let params = checkpoint.f32("params", &[parameter_count(&[2, 4, 5])])?;
        Ok(Mlp::new(&[2, 4, 5], params.to_vec())?)
    }

    fn with_network(&self, _bytes: &[u8], network: &Mlp) -> Result<Vec<u8>, LearnError> {
        let mut checkpoint = Checkpoint::new("factor", &(), &())?;
        checkpoint.put_f32("params", vec![network.params().len()], network.params().to_vec())?;
        checkpoint.to_bytes()
    }

    fn policy(&self, bytes: &[u8]) -> Result<Box<dyn Policy>, LearnError> {
        Ok(Box::new(factor_policy(&self.network(bytes)?, 5)))
    }
}

fn bytes_of(network: &Mlp) -> Vec<u8> {
    CheckpointFormat.with_network(&[], network).unwrap()
}

/// A job with a log, as the queue world has it.
struct Job {
    params: Arc<QueueParams>,
    arrivals: Arc<Arrivals>,
}

impl Job {
    fn new(seed: u64) -> Self {
        let params = Arc::new(QueueParams::default());
        let trace = RateTrace::synthetic(Family::Diurnal, 1_000.0, 9_000, seed);
        let scale = auto_scale(&trace, &params, &default_limits());
        let arrivals = Arc::new(Arrivals::prepare(&trace.scaled(scale), 300, 8_000, seed, &params));
        Self { params, arrivals }
    }

    fn log(&self, network: &Mlp, decisions: usize, seed: u64) -> Vec<LoggedStep> {
        let settings = WorldSettings::new(&self.params, seed);
        let mut world = QueueWorld::new(Arc::clone(&self.params), Arc::clone(&self.arrivals), settings).unwrap();
        let mut policy = factor_policy(network, seed);
        let mut guardrails = Guardrails::new();
        let mut steps = Vec::new();
        while !world.is_done() && steps.len() < decisions {
            let observation = world.observe();
            let decision = policy.decide(&observation);
            let wish = decision.action;
            let interval = world.step_interval(&guardrails.apply(decision, &observation).action);
            steps.push(LoggedStep {
                observation,
                wish,
                probability: None,
                next_observation: world.observe(),
                cost_usd: interval.cost_usd,
                p95_ms: interval.p95_ms,
            });
        }
        steps
    }

    fn twin(&self, steps: &[LoggedStep]) -> QueueTwin {
        QueueTwin::of_log(&steps[..240.min(steps.len())], Arc::clone(&self.params)).unwrap()
    }
}

fn settings() -> OnlineSettings {
    let mut settings = OnlineSettings::default();
    settings.improve = ImproveSettings { horizon: 6, learning_rate: 3e-3, ..settings.improve };
    settings.evaluate = EvaluateSettings { horizon: 6, ..settings.evaluate };
    settings
}

#[test]
fn a_wasteful_policy_is_improved_from_its_own_log_promoted_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(3);
    let steps = job.log(&over_provisioning(), 1_500, 1);
    let twin = job.twin(&steps);
    let first = bytes_of(&over_provisioning());
    let mut versions = Versions::create(folder.path(), &first, "trained on synthetic traces").unwrap();
    let verdict = round(&settings(), steps, &mut FactorEncoding, &CheckpointFormat, &twin, &mut versions).unwrap();
    assert!(verdict.promoted, "{verdict:#?}");
    assert!(
        verdict.reasons[0].starts_with("accepted by the log") && verdict.reasons[1].starts_with("accepted by the twin")
    );
    assert_eq!((versions.manifest().promoted, versions.manifest().previous), (2, Some(1)));
    let second = fs::read(versions.in_service()).unwrap();
    assert_ne!(second, first);

    assert_eq!(versions.roll_back("more violations than before").unwrap(), 1);
    assert_eq!(fs::read(versions.in_service()).unwrap(), first, "the bytes are those from before");
    let reopened = Versions::open(folder.path()).unwrap();
    assert_eq!(reopened.manifest(), versions.manifest());
    assert_eq!(reopened.manifest().changes[1].reason, "rolled back: more violations than before");
    assert_eq!(reopened.bytes(2).unwrap(), second, "the version is still there");
    assert!(versions.roll_back("again").unwrap_err().to_string().contains("promoted over another"));
}

#[test]
fn a_worse_policy_is_kept_with_its_verdict_and_not_promoted() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(4);
    let steps = job.log(&over_provisioning(), 1_200, 2);
    let twin = job.twin(&steps);
    let in_service = bytes_of(&over_provisioning());
    let mut versions = Versions::create(folder.path(), &in_service, "first").unwrap();
    let gathered = |reward: &RewardSettings| Samples::gather(steps.clone(), &mut FactorEncoding, reward).unwrap();
    let samples = gathered(&RewardSettings::default());
    // Half of what is needed more often than before.
    let stingy = bytes_of(&constant([1.2, 0.4, 0.6, 0.8, 1.0]));
    let mut judged = |samples: &Samples| {
        judge(&settings(), samples, &in_service, stingy.clone(), &CheckpointFormat, &twin, &mut versions).unwrap()
    };
    let verdict = judged(&samples);
    assert!(!verdict.promoted && verdict.shadow.is_none(), "{verdict:#?}");
    assert!(verdict.reasons[0].starts_with("refused by the log"), "{verdict:#?}");

    // A log that does not count violations praises it: then the twin refuses.
    let verdict = judged(&gathered(&RewardSettings { violation_penalty: 0.0 }));
    assert!(!verdict.promoted && verdict.shadow.is_some(), "{verdict:#?}");
    assert!(verdict.reasons[1].starts_with("refused by the twin"), "{verdict:#?}");
    let manifest = versions.manifest();
    assert_eq!((manifest.promoted, manifest.versions.len(), manifest.changes.len()), (1, 3, 0));
    assert_eq!(manifest.versions[2].reasons, verdict.reasons);
    assert_eq!(fs::read(versions.in_service()).unwrap(), in_service);
}

#[test]
fn a_damaged_version_is_named_and_not_put_into_service() {
    let folder = tempfile::tempdir().unwrap();
    let mut versions = Versions::create(folder.path(), b"first", "first").unwrap();
    let number = versions.add(b"second", &["by hand".to_string()]).unwrap();
    fs::write(folder.path().join("policy-000002.safetensors"), b"secon?").unwrap();
    let text = versions.promote(number).unwrap_err().to_string();
    assert!(text.contains("policy-000002.safetensors: checksum: got"), "{text}");
    assert_eq!(versions.promoted_bytes().unwrap(), b"first");
    // A copy that a crash left behind is renewed.
    fs::write(versions.in_service(), b"half a fi").unwrap();
    let reopened = Versions::open(folder.path()).unwrap();
    assert_eq!(fs::read(reopened.in_service()).unwrap(), b"first");
    assert!(Versions::create(folder.path(), b"third", "again").is_err());
}

#[test]
fn the_twin_is_the_same_game_for_the_same_seed_and_shows_what_saving_costs() {
    let job = Job::new(5);
    let twin = job.twin(&job.log(&over_provisioning(), 240, 1));
    assert_eq!(twin.duration_s(), 1_200);
    let play = |network: &Mlp, seed: u64| -> TwinOutcome { twin.play(&mut factor_policy(network, 1), seed).unwrap() };
    let (rich, stingy) = (constant([0.0, 0.0, 0.0, 0.0, 9.0]), constant([9.0, 0.0, 0.0, 0.0, 0.0]));
    assert_eq!(play(&rich, 1), play(&rich, 1));
    assert_ne!(play(&rich, 1), play(&rich, 2));
    assert!(play(&rich, 1).cost > play(&stingy, 1).cost);
    assert!(play(&rich, 1).violation_rate + 0.2 < play(&stingy, 1).violation_rate);
}

#[test]
fn rules_that_never_explore_and_networks_that_do_not_fit_are_refused() {
    let error =
        |result: Result<ChoicePolicy, LearnError>| result.err().map(|error| error.to_string()).unwrap_or_default();
    let greedy = ChoicePolicy::new(constant([0.0; 5]), &[5], ChoiceRule::SoftGreedy(0.0));
    assert!(error(greedy).starts_with("exploration: got `0`"));
    assert!(error(ChoicePolicy::new(constant([0.0; 5]), &[4, 2], ChoiceRule::Softmax)).contains("at least 6"));
    let mut soft = ChoicePolicy::new(constant([0.0, 3.0, 0.0, 0.0, 0.0]), &[5], ChoiceRule::SoftGreedy(0.1)).unwrap();
    let mut probability = |marked: &[usize]| {
        let possible: [bool; 5] = std::array::from_fn(|choice| marked.contains(&choice));
        soft.probability(&[0.0; 2], &possible)
    };
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    assert!(near(probability(&[1]), 0.92) && near(probability(&[4]), 0.02) && near(probability(&[1, 3, 4]), 0.96));
}

#[test]
fn a_log_too_short_to_judge_is_refused() {
    let samples = toy_log(&mut toy_policy(UNDECIDED), 8, 1);
    let result = evaluate(&toy_settings(), &samples, &mut toy_policy(BETTER), &mut toy_policy(UNDECIDED));
    let text = result.unwrap_err().to_string();
    assert_eq!(text, "logged decisions: got `8 decisions in 1 runs`, expected four windows of 5");
}
