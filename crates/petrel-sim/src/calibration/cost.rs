//! What does a task cost, what a record, how does that grow with the fleet, and how slow are young executors?
//!
//! The time of a batch's tasks on executors is
//!
//! ```text
//! (tasks · a + records · b) · (1 + σ (n - 1) + κ n (n - 1)) / (1 - s · mean(exp(-age / τ)))
//! ```
//!
//! the world's own law, without stragglers, which lengthen a batch and not its tasks. For given σ, κ, s and τ it is linear in a
//! and b. Those four are sought by pattern search (Hooke and Jeeves, *Direct search solution of numerical and statistical problems*,
//! Journal of the ACM 8, 1961); residuals of the logarithm count by their absolute value, so that a batch that met a pause of the
//! machine does not bend the law.

use super::sample::Sample;

/// The law's figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CostLaw {
    /// a, seconds.
    pub(crate) task_s: f64,
    /// b, seconds.
    pub(crate) record_s: f64,
    /// σ, κ, s, τ in seconds.
    pub(crate) shape: [f64; 4],
}

/// Which of the law's figures the data can tell; the others keep their value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) task: bool,
    pub(crate) shape: [bool; 4],
}

/// A batch as the law sees it.
struct Row<'a> {
    /// Executor time that was measured.
    measured_s: f64,
    tasks: f64,
    records: f64,
    executors: f64,
    ages_s: &'a [f64],
}

const LOWEST: [f64; 4] = [0.0, 0.0, 0.0, 1.0];
const HIGHEST: [f64; 4] = [1.0, 0.05, 0.95, 600.0];

/// Relative residual below which squares count instead of absolute values.
const SMOOTH: f64 = 0.03;

impl CostLaw {
    /// Executor time of a batch.
    pub(crate) fn run_s(&self, tasks: f64, records: f64, executors: f64, ages_s: &[f64]) -> f64 {
        (tasks * self.task_s + records * self.record_s) * stretch(&self.shape, executors, ages_s)
    }
}

/// Factor of fleet and age on the time of a task.
fn stretch(shape: &[f64; 4], executors: f64, ages_s: &[f64]) -> f64 {
    let [contention, coherency, slowdown, decay_s] = *shape;
    let more = executors - 1.0;
    let law = 1.0 + contention * more + coherency * executors * more;
    if slowdown <= 0.0 || ages_s.is_empty() {
        return law;
    }
    let coldness: f64 = ages_s.iter().map(|age_s| (-age_s / decay_s).exp()).sum();
    law / (1.0 - slowdown * coldness / ages_s.len() as f64)
}

/// Fits the law. `tasks_of` and `measured_of` say what stands for tasks and executor time of a batch.
pub(crate) fn fit(
    samples: &[&Sample],
    tasks_of: impl Fn(&Sample) -> f64,
    measured_of: impl Fn(&Sample) -> f64,
    start: CostLaw,
    free: Free,
) -> CostLaw {
    let rows: Vec<Row<'_>> = samples
        .iter()
        .map(|sample| Row {
            measured_s: measured_of(sample),
            tasks: tasks_of(sample),
            records: sample.records,
            executors: sample.executors,
            ages_s: &sample.ages_s,
        })
        .filter(|row| row.measured_s > 0.0 && row.records >= 1.0)
        .collect();
    if rows.is_empty() {
        return start;
    }
    let mut factors = vec![0.0; rows.len()];
    let mut judge = |shape: &[f64; 4]| {
        for (factor, row) in factors.iter_mut().zip(&rows) {
            *factor = stretch(shape, row.executors, row.ages_s);
        }
        costs(&rows, &factors, free.task, start.task_s)
    };
    let (mut best, mut shape) = (judge(&start.shape), start.shape);
    for candidate in grid(&start.shape, free) {
        let found = judge(&candidate);
        if found.loss < best.loss {
            (best, shape) = (found, candidate);
        }
    }
    // σ, κ and s by addition, τ by multiplication.
    let mut steps = [0.05, 0.002, 0.1, 0.5];
    while steps[0] > 2e-4 {
        let base = shape;
        let mut moved = false;
        for index in (0..4).filter(|index| free.shape[*index]) {
            for direction in [1.0, -1.0] {
                let candidate = step(&shape, index, direction * steps[index]);
                let found = judge(&candidate);
                if found.loss < best.loss {
                    (best, shape, moved) = (found, candidate, true);
                    break;
                }
            }
        }
        if moved {
            // What helped once may help again: along the valley.
            let further = std::array::from_fn(|index| {
                let along = if index == 3 { shape[3] * shape[3] / base[3] } else { 2.0 * shape[index] - base[index] };
                along.clamp(LOWEST[index], HIGHEST[index])
            });
            let found = judge(&further);
            if found.loss < best.loss {
                (best, shape) = (found, further);
            }
        } else {
            steps = steps.map(|step| 0.5 * step);
        }
    }
    CostLaw { task_s: best.task_s, record_s: best.record_s, shape }
}

fn step(shape: &[f64; 4], index: usize, by: f64) -> [f64; 4] {
    let mut moved = *shape;
    moved[index] = if index == 3 { moved[3] * by.exp() } else { moved[index] + by };
    moved[index] = moved[index].clamp(LOWEST[index], HIGHEST[index]);
    moved
}

/// Points to begin the search at.
fn grid(start: &[f64; 4], free: Free) -> Vec<[f64; 4]> {
    let values = |index: usize, choices: &[f64]| {
        if free.shape[index] { choices.to_vec() } else { vec![start[index]] }
    };
    let mut points = Vec::new();
    for contention in values(0, &[0.0, 0.02, 0.1]) {
        for slowdown in values(2, &[0.0, 0.3, 0.7]) {
            for decay_s in values(3, &[10.0, 30.0, 90.0]) {
                points.push([contention, start[1], slowdown, decay_s]);
            }
        }
    }
    points
}

#[derive(Clone, Copy)]
struct Costs {
    task_s: f64,
    record_s: f64,
    loss: f64,
}

/// a and b for given factors, at least 0, by weighted least squares that are repeated until the weights make them least absolute
/// residuals; a stays at `task_s` unless it is free.
fn costs(rows: &[Row<'_>], factors: &[f64], is_task_free: bool, task_s: f64) -> Costs {
    let (mut own_task_s, mut record_s) = (task_s, 0.0);
    for round in 0..8 {
        let (mut tt, mut tr, mut rr, mut ty, mut ry) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (row, factor) in rows.iter().zip(factors) {
            let (tasks, records) = (row.tasks * factor, row.records * factor);
            let expected = if round == 0 { row.measured_s } else { own_task_s * tasks + record_s * records };
            let residual = (row.measured_s / expected.max(1e-9)).ln();
            let weight = 1.0 / (expected * expected).max(1e-12) / residual.hypot(SMOOTH);
            tt += weight * tasks * tasks;
            tr += weight * tasks * records;
            rr += weight * records * records;
            ty += weight * tasks * row.measured_s;
            ry += weight * records * row.measured_s;
        }
        let determinant = tt * rr - tr * tr;
        if is_task_free && determinant > 1e-9 * tt * rr {
            own_task_s = ((ty * rr - ry * tr) / determinant).max(0.0);
        }
        if rr > 0.0 {
            record_s = ((ry - own_task_s * tr) / rr).max(0.0);
        }
        if is_task_free && record_s == 0.0 && tt > 0.0 {
            own_task_s = ty / tt;
        }
    }
    let loss = rows
        .iter()
        .zip(factors)
        .map(|(row, factor)| {
            let expected = (own_task_s * row.tasks + record_s * row.records) * factor;
            (row.measured_s / expected.max(1e-9)).ln().hypot(SMOOTH) - SMOOTH
        })
        .sum();
    Costs { task_s: own_task_s, record_s, loss }
}
