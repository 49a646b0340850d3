//! Many worlds stepped together, and what happens when their episodes end.

use crate::rows::{Outcome, PyOutcome, refuse, table};
use numpy::PyArray2;
use petrel_core::{InvalidValue, Weights};
use pyo3::prelude::*;

/// What a batch does with a world whose episode has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Autoreset {
    /// The next step resets it and ignores its action (Gymnasium's default).
    NextStep,
    /// It is reset at once; the last observation is handed out besides.
    SameStep,
}

impl Autoreset {
    /// The mode of Gymnasium's `AutoresetMode.value`.
    pub fn from_name(name: &str) -> PyResult<Self> {
        match name {
            "NextStep" => Ok(Self::NextStep),
            "SameStep" => Ok(Self::SameStep),
            _ => Err(refuse(InvalidValue::new("autoreset_mode", name, "NextStep or SameStep"))),
        }
    }
}

/// What one step of one world gave.
pub struct Step<const FIGURES: usize> {
    /// Reward.
    pub reward: f64,
    /// True after the last step of the episode.
    pub is_last: bool,
    /// In the order of [`World::INFOS`].
    pub figures: [f64; FIGURES],
}

/// One world with episodes of a fixed length.
pub trait World<const FIGURES: usize>: Send {
    /// An action inside the action space.
    type Action: Sync;

    /// Names of the figures of a step.
    const INFOS: [&'static str; FIGURES];

    /// Entries of an observation; the same for all worlds of a batch.
    fn observation_len(&self) -> usize;

    /// Starts an episode: that of the seed, or the next one of the sequence that the last seed began.
    fn restart(&mut self, seed: Option<u64>);

    /// One step.
    fn step(&mut self, action: &Self::Action) -> Step<FIGURES>;

    /// Writes the observation.
    fn observe(&self, row: &mut [f32]);

    /// Changes the reward weights; the observation shows them at once.
    fn set_weights(&mut self, weights: Weights);
}

struct Place<W> {
    world: W,
    has_ended: bool,
}

/// Worlds of one kind.
pub struct Batch<W> {
    places: Vec<Place<W>>,
    autoreset: Autoreset,
}

impl<W> Batch<W> {
    /// The batch of these worlds.
    pub fn new(worlds: Vec<W>, autoreset: Autoreset) -> Self {
        let places = worlds.into_iter().map(|world| Place { world, has_ended: false }).collect();
        Self { places, autoreset }
    }

    /// Number of worlds.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Changes the reward weights of one world.
    pub fn set_weights<const FIGURES: usize>(&mut self, world: usize, weights: Weights) -> PyResult<()>
    where
        W: World<FIGURES>,
    {
        let count = self.count();
        let place = self.places.get_mut(world);
        let place = place.ok_or_else(|| refuse(InvalidValue::new("world", world, format!("less than {count}"))))?;
        place.world.set_weights(weights);
        Ok(())
    }

    /// Starts an episode in every world and returns the observations.
    pub fn reset<'py, const FIGURES: usize>(
        &mut self,
        py: Python<'py>,
        seeds: &[Option<u64>],
    ) -> PyResult<Bound<'py, PyArray2<f32>>>
    where
        W: World<FIGURES>,
    {
        let count = self.count();
        if seeds.len() != count {
            let expected = format!("{count}, one per world");
            return Err(refuse(InvalidValue::new("number of seeds", seeds.len(), expected)));
        }
        let width = self.width();
        let mut rows = vec![0.0; count * width];
        py.detach(|| {
            let rows = rows.chunks_exact_mut(width);
            for ((place, seed), row) in self.places.iter_mut().zip(seeds).zip(rows) {
                place.world.restart(*seed);
                place.has_ended = false;
                place.world.observe(row);
            }
        });
        table(py, rows, width)
    }

    /// One step of every world, without the interpreter lock; one action per world.
    pub fn step<'py, const FIGURES: usize>(
        &mut self,
        py: Python<'py>,
        actions: &[W::Action],
    ) -> PyResult<PyOutcome<'py>>
    where
        W: World<FIGURES>,
    {
        py.detach(|| self.step_all(actions)).into_python(py)
    }

    /// Entries of an observation; 1 in a batch without worlds.
    pub fn width<const FIGURES: usize>(&self) -> usize
    where
        W: World<FIGURES>,
    {
        self.places.first().map_or(1, |place| place.world.observation_len())
    }

    fn step_all<const FIGURES: usize>(&mut self, actions: &[W::Action]) -> Outcome
    where
        W: World<FIGURES>,
    {
        let mut outcome = Outcome::new(self.count(), self.width(), &W::INFOS);
        for (number, (place, action)) in self.places.iter_mut().zip(actions).enumerate() {
            if place.has_ended {
                place.world.restart(None);
                place.has_ended = false;
                place.world.observe(outcome.row(number));
                continue;
            }
            let step = place.world.step(action);
            outcome.record(number, step.reward, step.is_last, &step.figures);
            place.world.observe(outcome.row(number));
            if step.is_last && self.autoreset == Autoreset::SameStep {
                outcome.keep_final(number);
                place.world.restart(None);
                place.world.observe(outcome.row(number));
            } else {
                place.has_ended = step.is_last;
            }
        }
        outcome
    }
}
