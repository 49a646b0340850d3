//! Many classic worlds for Python.

use crate::rows::{Autoreset, Outcome, PyOutcome, check_seeds, read_actions, refuse, table, weights};
use numpy::{PyArray2, PyReadonlyArray2};
use petrel_core::InvalidValue;
use petrel_sim::classic::{ClassicAction, ClassicWorld, OBSERVATION};
use pyo3::prelude::*;

const INFOS: [&str; 4] = ["cost_usd_per_hour", "latency_ms", "throughput", "violated"];

struct Place {
    world: ClassicWorld,
    has_ended: bool,
}

/// `count` classic worlds.
#[pyclass]
pub struct ClassicWorlds {
    places: Vec<Place>,
    autoreset: Autoreset,
}

#[pymethods]
impl ClassicWorlds {
    #[new]
    fn new(count: usize, weights_of_reward: [f64; 3], episode_steps: u32, autoreset: &str) -> PyResult<Self> {
        let weights = weights(weights_of_reward)?;
        if episode_steps == 0 {
            return Err(refuse(InvalidValue::new("episode_steps", episode_steps, "1 or more")));
        }
        let place = |number| {
            let world = ClassicWorld::new(weights, number as u64).with_episode_steps(episode_steps);
            Place { world, has_ended: false }
        };
        Ok(Self { places: (0..count).map(place).collect(), autoreset: Autoreset::from_name(autoreset)? })
    }

    /// Changes the reward weights of one world; its observation shows them at once.
    fn set_weights(&mut self, world: usize, weights_of_reward: [f64; 3]) -> PyResult<()> {
        let count = self.places.len();
        let place = self.places.get_mut(world);
        let place = place.ok_or_else(|| refuse(InvalidValue::new("world", world, format!("less than {count}"))))?;
        place.world.set_weights(weights(weights_of_reward)?);
        Ok(())
    }

    /// Starts an episode in every world: with its seed, or the next one of its own sequence.
    fn reset<'py>(&mut self, py: Python<'py>, seeds: Vec<Option<u64>>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        check_seeds(&seeds, self.places.len())?;
        let mut rows = Vec::with_capacity(self.places.len() * OBSERVATION);
        for (place, seed) in self.places.iter_mut().zip(seeds) {
            match seed {
                Some(seed) => place.world.reset_with_seed(seed),
                None => place.world.reset(),
            }
            place.has_ended = false;
            rows.extend(place.world.observe().map(|value| value as f32));
        }
        table(py, rows, OBSERVATION)
    }

    /// One step of every world.
    fn step<'py>(&mut self, py: Python<'py>, actions: PyReadonlyArray2<'py, i64>) -> PyResult<PyOutcome<'py>> {
        let actions = read_actions(&actions, self.places.len(), ClassicAction::try_from_heads)?;
        py.detach(|| self.step_all(&actions)).into_python(py)
    }
}

impl ClassicWorlds {
    fn step_all(&mut self, actions: &[ClassicAction]) -> Outcome {
        let mut outcome = Outcome::new(self.places.len(), OBSERVATION, &INFOS);
        for (number, (place, action)) in self.places.iter_mut().zip(actions).enumerate() {
            if place.has_ended {
                place.world.reset();
                place.has_ended = false;
                write_row(&place.world, outcome.row(number));
                continue;
            }
            let step = place.world.step(*action);
            let violated = f64::from(u8::from(step.violates()));
            let figures = [step.cost_usd_per_hour, step.latency_ms, step.throughput, violated];
            outcome.record(number, step.reward, step.is_last, &figures);
            write_row(&place.world, outcome.row(number));
            if step.is_last && self.autoreset == Autoreset::SameStep {
                outcome.keep_final(number);
                place.world.reset();
                write_row(&place.world, outcome.row(number));
            } else {
                place.has_ended = step.is_last;
            }
        }
        outcome
    }
}

fn write_row(world: &ClassicWorld, row: &mut [f32]) {
    for (entry, value) in row.iter_mut().zip(world.observe()) {
        *entry = value as f32;
    }
}
