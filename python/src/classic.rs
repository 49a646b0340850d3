//! Many classic worlds for Python.

use crate::batch::{Autoreset, Batch, Step, World};
use crate::rows::{PyOutcome, read_actions, refuse, weights};
use numpy::{PyArray2, PyReadonlyArray2};
use petrel_core::{InvalidValue, Weights};
use petrel_sim::classic::{ClassicAction, ClassicWorld, OBSERVATION};
use pyo3::prelude::*;

impl World<4> for ClassicWorld {
    type Action = ClassicAction;
    const INFOS: [&'static str; 4] = ["cost_usd_per_hour", "latency_ms", "throughput", "violated"];

    fn observation_len(&self) -> usize {
        OBSERVATION
    }

    fn restart(&mut self, seed: Option<u64>) {
        match seed {
            Some(seed) => self.reset_with_seed(seed),
            None => self.reset(),
        }
    }

    fn step(&mut self, action: &ClassicAction) -> Step<4> {
        let step = ClassicWorld::step(self, *action);
        let violated = f64::from(u8::from(step.violates()));
        let figures = [step.cost_usd_per_hour, step.latency_ms, step.throughput, violated];
        Step { reward: step.reward, is_last: step.is_last, figures }
    }

    fn observe(&self, row: &mut [f32]) {
        for (entry, value) in row.iter_mut().zip(ClassicWorld::observe(self)) {
            *entry = value as f32;
        }
    }

    fn set_weights(&mut self, weights: Weights) {
        ClassicWorld::set_weights(self, weights);
    }
}

/// `count` classic worlds.
#[pyclass]
pub struct ClassicWorlds {
    batch: Batch<ClassicWorld>,
}

#[pymethods]
impl ClassicWorlds {
    #[new]
    fn new(count: usize, weights_of_reward: [f64; 3], episode_steps: i64, autoreset: &str) -> PyResult<Self> {
        let weights = weights(weights_of_reward)?;
        let episode_steps = u32::try_from(episode_steps)
            .ok()
            .filter(|steps| *steps > 0)
            .ok_or_else(|| refuse(InvalidValue::new("episode_steps", episode_steps, format!("1 to {}", u32::MAX))))?;
        let world = |number| ClassicWorld::new(weights, number as u64).with_episode_steps(episode_steps);
        Ok(Self { batch: Batch::new((0..count).map(world).collect(), Autoreset::from_name(autoreset)?) })
    }

    /// Changes the reward weights of one world; its observation shows them at once.
    fn set_weights(&mut self, world: usize, weights_of_reward: [f64; 3]) -> PyResult<()> {
        self.batch.set_weights(world, weights(weights_of_reward)?)
    }

    /// Starts an episode in every world: with its seed, or the next one of its own sequence.
    fn reset<'py>(&mut self, py: Python<'py>, seeds: Vec<Option<u64>>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        self.batch.reset(py, &seeds)
    }

    /// One step of every world.
    fn step<'py>(&mut self, py: Python<'py>, actions: PyReadonlyArray2<'py, i64>) -> PyResult<PyOutcome<'py>> {
        let actions = read_actions(&actions, self.batch.count(), ClassicAction::try_from_heads)?;
        self.batch.step(py, &actions)
    }
}
