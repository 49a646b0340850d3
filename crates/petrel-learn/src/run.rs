//! How does a training run keep itself on disk? One directory with everything: checkpoints, event files, curve, policy.
//!
//! ```text
//! DIR/checkpoints/step-*.safetensors   what `--resume` goes on from, exactly
//! DIR/events.out.tfevents.*            for TensorBoard
//! DIR/curve.csv, DIR/curve.svg         return, violations and cost against steps
//! DIR/network.onnx                     the network alone, for other runtimes
//! ```
//!
//! Checkpoints are written where PPO can go on bit for bit (every `restart_every` iterations and at the end). A run that is
//! killed in between goes on from the last of them and repeats the steps since then.

use crate::LearnError;
use crate::checkpoint::{Checkpoint, CheckpointDirectory};
use crate::curve::{self, CurvePoint, LearningCurve};
use crate::dqn::{Dqn, DqnBlock};
use crate::environment::Environment;
use crate::lagrangian::{self, PidMultiplier, PidSettings};
use crate::onnx;
use crate::ppo::{Metrics, Ppo, PpoSettings, PpoState};
use crate::td3::{ContinuousEnvironment, Td3, Td3Episode, Td3Progress};
use crate::tensorboard::EventWriter;
use petrel_policy::network::Mlp;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Checkpoints that are kept.
const KEPT: usize = 3;
/// Points of a learning curve.
const CURVE_POINTS: u64 = 400;
/// Episodes of TD3 between two checkpoints.
pub const TD3_EPISODES_A_CHECKPOINT: u64 = 100;

/// A run's directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    checkpoints: CheckpointDirectory,
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// The network as it was at the end.
    pub network: Mlp,
    /// Environment steps done.
    pub steps: u64,
    /// False when it was interrupted: [`RunEnd::resumes_at`] is then where `--resume` goes on.
    pub is_complete: bool,
    /// Steps of the newest checkpoint.
    pub resumes_at: u64,
    /// Figures of the last iteration.
    pub metrics: Metrics,
}

/// What a run is continued from.
#[derive(Debug)]
pub struct Begin {
    /// Settings, as they were.
    pub settings: PpoSettings,
    state: Option<PpoState>,
    multiplier: Option<PidMultiplier>,
    /// Newer checkpoints that could not be read, with the reason; worth a warning.
    pub passed_over: Vec<LearnError>,
}

impl Begin {
    /// A new run; with `pid`, a controller keeps the violation rate at its target.
    ///
    /// # Errors
    /// [`LearnError::Setting`] names the first setting that is wrong.
    pub fn new(settings: PpoSettings, pid: Option<PidSettings>) -> Result<Self, LearnError> {
        settings.validate()?;
        let multiplier = pid.map(|pid| PidMultiplier::new(pid, 0.0)).transpose()?;
        Ok(Self { settings, state: None, multiplier, passed_over: Vec::new() })
    }

    /// The same from a first state of the caller's making.
    #[must_use]
    pub fn with_first_state(mut self, state: PpoState) -> Self {
        self.state = Some(state);
        self
    }

    /// Environment steps done before.
    pub fn steps(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.steps)
    }
}

impl RunDirectory {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// [`LearnError::File`] when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, LearnError> {
        Ok(Self { path: path.to_path_buf(), checkpoints: CheckpointDirectory::open(&path.join("checkpoints"), KEPT)? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when a run has left a checkpoint here.
    pub fn holds_a_run(&self) -> bool {
        self.checkpoints.newest().found.is_some()
    }

    /// Where the newest checkpoint goes on. With `total_steps`, a run that ended there may be made longer.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] when there is no checkpoint of PPO here.
    pub fn resume(&self, total_steps: Option<u64>) -> Result<Begin, LearnError> {
        let (checkpoint, passed_over) = self.newest()?;
        let is_constrained = checkpoint.expect_algorithm(lagrangian::ALGORITHM).is_ok();
        let (mut settings, state, multiplier) = if is_constrained {
            let (settings, state, multiplier) = lagrangian::from_checkpoint(&checkpoint)?;
            (settings, state, Some(multiplier))
        } else {
            let (settings, state) = PpoState::from_checkpoint(&checkpoint)?;
            (settings, state, None)
        };
        settings.total_steps = total_steps.unwrap_or(settings.total_steps);
        Ok(Begin { settings, state: Some(state), multiplier, passed_over })
    }

    /// Trains by PPO to the end or until `on_iteration` breaks.
    ///
    /// # Errors
    /// [`LearnError`] when settings and environments do not fit together or the disk fails.
    pub fn train<E: Environment>(
        &self,
        begin: Begin,
        groups: Vec<E>,
        name: &str,
        mut on_iteration: impl FnMut(&Metrics) -> ControlFlow<()>,
    ) -> Result<RunEnd, LearnError> {
        let (settings, first_step) = (begin.settings.clone(), begin.steps());
        let mut ppo = match begin.state {
            Some(state) => Ppo::resume(begin.settings, groups, state)?,
            None => Ppo::new(begin.settings, groups)?,
        };
        let mut record = Record::new(self, name, first_step, settings.total_steps, settings.seed)?;
        let mut last = Metrics::default();
        let mut failed = None;
        let mut each = |metrics: &Metrics, ppo: &Ppo<E>, multiplier: Option<&PidMultiplier>| {
            last = *metrics;
            let point = CurvePoint {
                steps: metrics.steps,
                mean_return: metrics.episode_return.unwrap_or(metrics.reward),
                violation_rate: metrics.violation_rate,
                cost: metrics.cost,
            };
            let written = record.note(&point, ppo.is_done(), &metrics.figures()).and_then(|()| {
                let is_point_to_resume = ppo.is_restart_point() || ppo.is_done();
                if is_point_to_resume { record.save(metrics.steps, &checkpoint_of(ppo, multiplier)?) } else { Ok(()) }
            });
            match written {
                Ok(()) => on_iteration(metrics),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        match begin.multiplier {
            Some(mut multiplier) => {
                lagrangian::train(&mut ppo, &mut multiplier, |metrics, ppo, pid| each(metrics, ppo, Some(pid)));
            }
            None => ppo.train(|metrics, ppo| each(metrics, ppo, None)),
        }
        if let Some(error) = failed {
            return Err(error);
        }
        record.show()?;
        let (network, steps) = (ppo.state().network()?, ppo.state().steps);
        self.export(&network, name)?;
        Ok(RunEnd { network, steps, is_complete: ppo.is_done(), resumes_at: record.saved, metrics: last })
    }

    /// Trains by DQN in blocks until `total_steps`, or until `on_block` breaks; every block ends with a checkpoint.
    ///
    /// # Errors
    /// As [`RunDirectory::train`].
    pub fn train_dqn(
        &self,
        dqn: &mut Dqn,
        environment: &mut impl Environment,
        total_steps: u64,
        name: &str,
        mut on_block: impl FnMut(u64, &DqnBlock) -> ControlFlow<()>,
    ) -> Result<RunEnd, LearnError> {
        let first_step = dqn.progress().steps;
        let mut record = Record::new(self, name, first_step, total_steps, dqn.settings().seed)?;
        let mut last = Metrics::default();
        while dqn.progress().steps < total_steps {
            let block = dqn.train_block(environment);
            let steps = dqn.progress().steps;
            let mean_return = block.episode_return.unwrap_or(block.reward);
            last = Metrics {
                steps,
                episode_return: block.episode_return,
                reward: block.reward,
                violation_rate: block.violation_rate,
                cost: block.cost,
                value_loss: block.loss,
                ..Metrics::default()
            };
            let figures = [
                ("rollout/reward", block.reward as f32),
                ("rollout/violation_rate", block.violation_rate as f32),
                ("rollout/cost", block.cost as f32),
                ("loss/value", block.loss as f32),
                ("policy/exploration", block.exploration as f32),
            ];
            let point = CurvePoint { steps, mean_return, violation_rate: block.violation_rate, cost: block.cost };
            record.note(&point, steps >= total_steps, &figures)?;
            record.save(steps, &dqn.to_checkpoint()?)?;
            if on_block(steps, &block).is_break() {
                break;
            }
        }
        record.show()?;
        let (network, steps) = (dqn.network()?, dqn.progress().steps);
        self.export(&network, name)?;
        Ok(RunEnd { network, steps, is_complete: steps >= total_steps, resumes_at: record.saved, metrics: last })
    }

    /// Trains by TD3 in episodes until `total_steps`, or until `on_episode` breaks; every
    /// [`TD3_EPISODES_A_CHECKPOINT`] episodes there is a checkpoint.
    ///
    /// # Errors
    /// As [`RunDirectory::train`].
    pub fn train_td3(
        &self,
        td3: &mut Td3,
        environment: &mut impl ContinuousEnvironment,
        total_steps: u64,
        name: &str,
        mut on_episode: impl FnMut(u64, &Td3Episode) -> ControlFlow<()>,
    ) -> Result<RunEnd, LearnError> {
        let first_step = td3.progress().steps;
        let mut record = Record::new(self, name, first_step, total_steps, td3.settings().seed)?;
        let mut last = Metrics::default();
        while td3.progress().steps < total_steps {
            let episode = td3.train_episode(environment);
            let Td3Progress { steps, episodes, .. } = td3.progress();
            let is_done = steps >= total_steps;
            last = Metrics { steps, episode_return: Some(episode.episode_return), ..Metrics::default() };
            let figures = [
                ("rollout/episode_return", episode.episode_return as f32),
                ("loss/critic", episode.critic_loss as f32),
                ("value/actor", episode.actor_value as f32),
            ];
            // The reward is all that the episode tells: cost and violations are in it.
            let point =
                CurvePoint { steps, mean_return: episode.episode_return, violation_rate: f64::NAN, cost: f64::NAN };
            record.note(&point, is_done, &figures)?;
            if is_done || episodes.is_multiple_of(TD3_EPISODES_A_CHECKPOINT) {
                record.save(steps, &td3.to_checkpoint()?)?;
            }
            if on_episode(steps, &episode).is_break() {
                break;
            }
        }
        record.show()?;
        let (network, steps) = (td3.actor()?, td3.progress().steps);
        self.export(&network, name)?;
        Ok(RunEnd { network, steps, is_complete: steps >= total_steps, resumes_at: record.saved, metrics: last })
    }

    /// The newest checkpoint, whatever learner wrote it.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] when there is none.
    pub fn newest(&self) -> Result<(Checkpoint, Vec<LearnError>), LearnError> {
        let newest = self.checkpoints.newest();
        match newest.found {
            Some(found) => Ok((found.checkpoint, newest.passed_over)),
            None => {
                let expected = "a run to resume; start one without --resume";
                Err(LearnError::wrong_file(&self.path, "checkpoint", "none", expected))
            }
        }
    }

    fn export(&self, network: &Mlp, name: &str) -> Result<(), LearnError> {
        let layers = onnx::layers_of(network);
        let graph = onnx::Network {
            name,
            inputs: network.input_len(),
            trunk: Vec::new(),
            heads: vec![onnx::Head { name: "outputs", layers }],
            notes: vec![("outputs", "one logit per possibility of each choice, then the critic's value")],
        };
        onnx::write(&graph, &self.path.join("network.onnx"))
    }

    /// The points that an interrupted run left, up to `step`.
    fn curve_before(&self, step: u64, seed: u64) -> LearningCurve {
        let path = self.path.join("curve.csv");
        let earlier = fs::read_to_string(&path).ok().and_then(|csv| curve::from_csv(&csv, &path).ok());
        let mine = earlier.into_iter().flatten().find(|curve| curve.seed == seed);
        let mut points = mine.map(|curve| curve.points).unwrap_or_default();
        points.retain(|point| point.steps <= step);
        LearningCurve { seed, points }
    }
}

/// What is written down while a run goes on.
struct Record<'r> {
    directory: &'r RunDirectory,
    events: EventWriter,
    curve: LearningCurve,
    name: &'r str,
    next_point: u64,
    every: u64,
    saved: u64,
}

impl<'r> Record<'r> {
    fn new(
        directory: &'r RunDirectory,
        name: &'r str,
        first_step: u64,
        total_steps: u64,
        seed: u64,
    ) -> Result<Self, LearnError> {
        Ok(Self {
            events: EventWriter::create(&directory.path, name, now_s(), (first_step > 0).then_some(first_step))?,
            curve: directory.curve_before(first_step, seed),
            directory,
            name,
            next_point: 0,
            every: (total_steps / CURVE_POINTS).max(1),
            saved: first_step,
        })
    }

    fn note(&mut self, point: &CurvePoint, is_last: bool, figures: &[(&str, f32)]) -> Result<(), LearnError> {
        if point.steps >= self.next_point || is_last {
            self.next_point = point.steps + self.every;
            self.curve.points.push(*point);
        }
        self.events.scalars(now_s(), point.steps, figures)
    }

    fn save(&mut self, steps: u64, checkpoint: &Checkpoint) -> Result<(), LearnError> {
        self.directory.checkpoints.save(steps, checkpoint)?;
        self.saved = steps;
        self.show()
    }

    fn show(&mut self) -> Result<(), LearnError> {
        self.events.flush()?;
        curve::write(std::slice::from_ref(&self.curve), self.name, &self.directory.path, "curve")
    }
}

fn checkpoint_of<E: Environment>(ppo: &Ppo<E>, multiplier: Option<&PidMultiplier>) -> Result<Checkpoint, LearnError> {
    match multiplier {
        Some(multiplier) => lagrangian::to_checkpoint(ppo.settings(), ppo.state(), multiplier),
        None => ppo.state().to_checkpoint(ppo.settings()),
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{ClassicEnvironment, ClassicTask};

    fn settings() -> PpoSettings {
        let rollout_steps = 32;
        PpoSettings {
            total_steps: 4 * 32 * 12,
            rollout_steps,
            restart_every: 4,
            hidden: vec![8],
            ..PpoSettings::default()
        }
    }

    fn worlds() -> Vec<ClassicEnvironment> {
        vec![ClassicEnvironment::new(4, ClassicTask::default()).unwrap()]
    }

    fn train(directory: &RunDirectory, begin: Begin, iterations: u64) -> RunEnd {
        let mut left = iterations;
        let end = directory.train(begin, worlds(), "test", |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        end.unwrap()
    }

    #[test]
    fn an_interrupted_run_goes_on_as_if_it_had_never_stopped() {
        for pid in [None, Some(PidSettings::default())] {
            let folder = tempfile::tempdir().unwrap();
            let whole = RunDirectory::open(&folder.path().join("whole")).unwrap();
            let expected = train(&whole, Begin::new(settings(), pid).unwrap(), 100);
            assert!(expected.is_complete);

            let stopped = RunDirectory::open(&folder.path().join("stopped")).unwrap();
            let first = train(&stopped, Begin::new(settings(), pid).unwrap(), 6);
            assert!(!first.is_complete);
            assert_eq!(first.resumes_at, 4 * 4 * 32, "the last point from which a run goes on exactly");
            let second = train(&stopped, stopped.resume(None).unwrap(), 100);
            assert_eq!(second.network.params(), expected.network.params());
            let curve = |run: &RunDirectory| fs::read_to_string(run.path().join("curve.csv")).unwrap();
            assert_eq!(curve(&stopped), curve(&whole));
            assert!(stopped.path().join("network.onnx").exists());
        }
    }

    #[test]
    fn nothing_to_resume_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::open(folder.path()).unwrap();
        assert!(!directory.holds_a_run());
        let error = directory.resume(None).unwrap_err().to_string();
        assert!(error.contains("got none, expected a run to resume"), "{error}");
    }
}
