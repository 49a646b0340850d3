//! A policy explores in the queue world, its decisions go into a decision log as a job writes it, and the online loop learns
//! from what the log gives back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use petrel_control::{DecisionLog, LoggedDecision, followed};
use petrel_core::Policy;
use petrel_core::trace::{Family, RateTrace};
use petrel_learn::nn::orthogonal;
use petrel_learn::online::log::{ChoiceRule, LoggedStep, RewardSettings, Samples};
use petrel_learn::online::queue::{Exploring, ExploringFormat, QueueEncoding, QueueFormat};
use petrel_learn::online::shadow::QueueTwin;
use petrel_learn::online::versions::Versions;
use petrel_learn::online::{OnlineSettings, round};
use petrel_policy::Guardrails;
use petrel_policy::action_space::{ActionSpace, QUEUE_LOGITS};
use petrel_policy::encode::QUEUE_OBSERVATION;
use petrel_policy::policies::{LEARNED_VERSION, Learned, LearnedSettings};
use petrel_sim::queue::{Arrivals, QueueParams, QueueWorld, WorldSettings, auto_scale, default_limits};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use std::path::Path;
use std::sync::Arc;

const RUN_STARTS_MS: [i64; 2] = [1_790_000_000_000, 1_790_010_000_000];
const DECISIONS_OF_A_RUN: usize = 400;

/// An untrained policy that prefers about three times what is needed, tries everything from once upwards, and keeps to
/// 4 GB executors on memory.
fn generous_policy() -> Vec<u8> {
    let sizes = vec![QUEUE_OBSERVATION, 16, QUEUE_LOGITS + 1];
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut params = orthogonal(&sizes, &[(QUEUE_LOGITS, 0.05), (1, 1.0)], &mut rng);
    let first_bias = params.len() - QUEUE_LOGITS - 1;
    for level in 0..9 {
        params[first_bias + level] -= 3.0;
    }
    params[first_bias + 18] += 0.5;
    for (logit, lean) in [(23, 6.0), (28, 6.0), (33, 6.0), (35, 6.0)] {
        params[first_bias + logit] += lean;
    }
    let settings = LearnedSettings {
        version: LEARNED_VERSION,
        name: "ppo".to_string(),
        actor_sizes: sizes,
        space: ActionSpace::default(),
        meta_sizes: None,
        meta_every_decisions: 1,
        weights: None,
        made_by: "test".to_string(),
    };
    Learned::new(settings, params, None).unwrap().to_bytes().unwrap()
}

/// What the world knows and the log can only tell from neighbouring rows.
#[derive(Default)]
struct Truth {
    cost_usd: f64,
    violations: u32,
}

/// One run of the job, logged.
fn run_job(bytes: &[u8], run: usize, params: &Arc<QueueParams>, folder: &Path) -> Truth {
    let trace = RateTrace::synthetic(Family::Diurnal, 1_000.0, 6_000, 2);
    let trace = trace.clone().scaled(auto_scale(&trace, params, &default_limits()));
    let seed = run as u64;
    let arrivals = Arc::new(Arrivals::prepare(&trace, 300 + 2_000 * run, 5 * DECISIONS_OF_A_RUN, seed, params));
    let settings = WorldSettings { seed, ..WorldSettings::new(params, seed) };
    let mut world = QueueWorld::new(Arc::clone(params), arrivals, settings).unwrap();
    let mut policy: Box<dyn Policy> = Box::new(Exploring::new(bytes, ChoiceRule::Softmax, 4 + seed).unwrap());
    let mut guardrails = Guardrails::new();
    let log = DecisionLog::open(folder).unwrap();
    let mut id = log.last().unwrap().map_or(0, |row| row.id);
    let mut truth = Truth::default();
    while !world.is_done() {
        let observation = world.observe();
        let wished = policy.decide(&observation);
        let (wish, probability) = (wished.action, policy.wish_probability());
        let decision = guardrails.apply(wished, &observation);
        let interval = world.step_interval(&decision.action);
        id += 1;
        let row = LoggedDecision {
            id,
            time_ms: RUN_STARTS_MS[run] + (1_000.0 * observation.time_s) as i64,
            policy: policy.name().to_string(),
            observation,
            wish,
            probability,
            action: decision.action,
            reason: decision.reason,
            took_us: 1.0,
            effect: String::new(),
        };
        log.append(&row).unwrap();
        // The last decision has no successor in the log.
        if !world.is_done() {
            truth.cost_usd += interval.cost_usd;
            truth.violations += u32::from(interval.violated);
        }
    }
    truth
}

fn steps_of(folder: &Path) -> Vec<LoggedStep> {
    let rows = DecisionLog::open_ended(folder).unwrap().from(1, usize::MAX).unwrap();
    let steps = followed(&rows).into_iter().map(|followed| LoggedStep {
        observation: followed.decision.observation,
        wish: followed.decision.wish,
        probability: followed.decision.probability,
        next_observation: followed.next_observation,
        cost_usd: followed.cost_usd,
        p95_ms: followed.p95_ms,
    });
    steps.collect()
}

#[test]
fn a_generous_policy_is_improved_from_its_decision_log_and_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let params = Arc::new(QueueParams::default());
    let bytes = generous_policy();
    let truths = [0, 1].map(|run| run_job(&bytes, run, &params, folder.path()));
    let steps = steps_of(folder.path());
    assert_eq!(steps.len(), 2 * (DECISIONS_OF_A_RUN - 1));

    // What neighbouring rows tell is what happened.
    let cost_usd: f64 = truths.iter().map(|truth| truth.cost_usd).sum();
    let logged_usd: f64 = steps.iter().map(|step| step.cost_usd).sum();
    assert!((logged_usd / cost_usd - 1.0).abs() < 0.1, "{logged_usd} logged, {cost_usd} paid");
    let violations: u32 = truths.iter().map(|truth| truth.violations).sum();
    let logged = steps.iter().filter(|step| step.p95_ms > step.observation.slo.p95_ms).count() as u32;
    assert!(logged.abs_diff(violations) <= violations / 5 + 2, "{logged} logged, {violations} seen");

    let mut encoding = QueueEncoding::of(&bytes).unwrap();
    let samples = Samples::gather(steps.clone(), &mut encoding, &RewardSettings::default()).unwrap();
    assert_eq!((samples.len(), samples.passed_over, samples.runs.len()), (steps.len(), 0, 2));
    assert!(samples.probabilities.iter().flatten().all(|probability| (0.0..=1.0).contains(probability)));
    assert_eq!(samples.probabilities.iter().flatten().count(), steps.len());

    let store = folder.path().join("policy-versions");
    let mut versions = Versions::create(&store, &bytes, "first").unwrap();
    let twin = QueueTwin::of_log(&steps, Arc::clone(&params)).unwrap();
    let mut settings = OnlineSettings::default();
    (settings.improve.horizon, settings.evaluate.horizon) = (6, 6);
    settings.improve.learning_rate = 1e-3;
    settings.shadow.seeds = 6;
    // Its likeliest choices are the same as before: played by those alone, it is no gain and stays outside.
    let mut encoding = QueueEncoding::of(&bytes).unwrap();
    let verdict = round(&settings, steps.clone(), &mut encoding, &QueueFormat, &twin, &mut versions).unwrap();
    assert!(!verdict.promoted && versions.manifest().promoted == 1, "{verdict:#?}");
    assert!(verdict.reasons[1].starts_with("refused by the twin"), "{verdict:#?}");

    let mut encoding = QueueEncoding::of(&bytes).unwrap();
    let exploring = ExploringFormat { rule: settings.rule, seed: 1 };
    let verdict = round(&settings, steps, &mut encoding, &exploring, &twin, &mut versions).unwrap();
    assert!(verdict.promoted, "{verdict:#?}");
    assert_eq!((versions.manifest().promoted, verdict.version), (3, 3));
    assert_ne!(std::fs::read(versions.in_service()).unwrap(), bytes);
    assert_eq!(versions.roll_back("by hand").unwrap(), 1);
    assert_eq!(std::fs::read(Versions::open(&store).unwrap().in_service()).unwrap(), bytes);
}
