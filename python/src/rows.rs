//! What goes over the border: actions in, one row per world out.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray2, PyUntypedArrayMethods};
use petrel_core::{InvalidValue, Weights};
use petrel_sim::scenario;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The outcome of one step of all worlds, in columns.
pub struct Outcome {
    width: usize,
    observations: Vec<f32>,
    rewards: Vec<f64>,
    truncated: Vec<bool>,
    stepped: Vec<bool>,
    infos: Vec<(&'static str, Vec<f64>)>,
    final_observations: Option<Vec<f32>>,
}

impl Outcome {
    /// Zeros for `count` worlds with observations of `width` entries and one figure per name in `infos`.
    pub fn new(count: usize, width: usize, infos: &[&'static str]) -> Self {
        Self {
            width,
            observations: vec![0.0; count * width],
            rewards: vec![0.0; count],
            truncated: vec![false; count],
            stepped: vec![false; count],
            infos: infos.iter().map(|name| (*name, vec![0.0; count])).collect(),
            final_observations: None,
        }
    }

    /// The observation row of one world.
    pub fn row(&mut self, world: usize) -> &mut [f32] {
        &mut self.observations[world * self.width..(world + 1) * self.width]
    }

    /// Records a step of one world; `figures` in the order of the info names.
    pub fn record(&mut self, world: usize, reward: f64, truncated: bool, figures: &[f64]) {
        self.rewards[world] = reward;
        self.truncated[world] = truncated;
        self.stepped[world] = true;
        for ((_, column), figure) in self.infos.iter_mut().zip(figures) {
            column[world] = *figure;
        }
    }

    /// Keeps the row of a world, which is about to be overwritten, as the last observation of its episode.
    pub fn keep_final(&mut self, world: usize) {
        let range = world * self.width..(world + 1) * self.width;
        let size = self.observations.len();
        let finals = self.final_observations.get_or_insert_with(|| vec![0.0; size]);
        finals[range.clone()].copy_from_slice(&self.observations[range]);
    }

    /// As numpy arrays: observations, rewards, truncated, stepped, infos by name, last observations or None.
    pub fn into_python(self, py: Python<'_>) -> PyResult<PyOutcome<'_>> {
        let infos = PyDict::new(py);
        for (name, column) in self.infos {
            infos.set_item(name, column.into_pyarray(py))?;
        }
        let finals = self.final_observations.map(|rows| table(py, rows, self.width)).transpose()?;
        Ok((
            table(py, self.observations, self.width)?,
            self.rewards.into_pyarray(py),
            self.truncated.into_pyarray(py),
            self.stepped.into_pyarray(py),
            infos,
            finals,
        ))
    }
}

/// What a step returns to Python.
pub type PyOutcome<'py> = (
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<bool>>,
    Bound<'py, PyArray1<bool>>,
    Bound<'py, PyDict>,
    Option<Bound<'py, PyArray2<f32>>>,
);

/// Rows of `width` entries as a two-dimensional array.
pub fn table(py: Python<'_>, rows: Vec<f32>, width: usize) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let shape = (rows.len() / width.max(1), width);
    let rows = Array2::from_shape_vec(shape, rows).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(rows.into_pyarray(py))
}

/// The choices of every world, each checked by `read`; `HEADS` per world.
pub fn read_actions<const HEADS: usize, A>(
    actions: &PyReadonlyArray2<'_, i64>,
    count: usize,
    read: impl Fn([i64; HEADS]) -> Result<A, InvalidValue>,
) -> PyResult<Vec<A>> {
    if actions.shape() != [count, HEADS] {
        let shape = format!("{:?}", actions.shape());
        return Err(refuse(InvalidValue::new("shape of actions", shape, format!("[{count}, {HEADS}]"))));
    }
    let rows = actions.as_array();
    let mut read_actions = Vec::with_capacity(count);
    for (world, row) in rows.rows().into_iter().enumerate() {
        let mut heads = [0; HEADS];
        for (head, choice) in heads.iter_mut().zip(row) {
            *head = *choice;
        }
        let action = read(heads).map_err(|error| {
            refuse(if count == 1 {
                error
            } else {
                InvalidValue { field: format!("world {world}, {}", error.field), ..error }
            })
        })?;
        read_actions.push(action);
    }
    Ok(read_actions)
}

/// Reward weights from Python.
pub fn weights([cost, latency, throughput]: [f64; 3]) -> PyResult<Weights> {
    for (name, value) in [("cost", cost), ("latency", latency), ("throughput", throughput)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(refuse(InvalidValue::new(format!("weights, {name}"), value, "0 to 1")));
        }
    }
    Ok(Weights { cost, latency, throughput })
}

/// Weights of the published scenario of that name: cost, latency, throughput.
#[pyfunction]
pub fn scenario_weights(name: &str) -> PyResult<[f64; 3]> {
    let weights = scenario::by_name(name).map_err(refuse)?.weights;
    Ok([weights.cost, weights.latency, weights.throughput])
}

/// A refused value as Python's `ValueError`.
pub fn refuse(error: InvalidValue) -> PyErr {
    PyValueError::new_err(error.to_string())
}
