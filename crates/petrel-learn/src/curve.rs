//! How did learning go? Return, violation rate and cost against environment steps, as CSV and as SVG with a band over
//! seeds.

use crate::checkpoint::write_atomically;
use crate::error::LearnError;
use kuva::backend::svg::SvgBackend;
use kuva::plot::LinePlot;
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;

/// One evaluation during training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Environment steps so far.
    pub steps: u64,
    /// Mean return of an episode.
    pub mean_return: f64,
    /// Share of intervals over the latency limit, 0 to 1.
    pub violation_rate: f64,
    /// Mean cost of a step, in the world's unit of cost.
    pub cost: f64,
}

/// The curve of one training run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Seed of the run.
    pub seed: u64,
    /// Points with increasing steps.
    pub points: Vec<CurvePoint>,
}

/// Median and outer quantiles over seeds at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BandPoint {
    /// Environment steps.
    pub steps: f64,
    /// Lower quantile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// Upper quantile.
    pub high: f64,
}

/// The lower quantile of the band; the upper one is its mirror. With few seeds these are close to the extremes.
pub const BAND_QUANTILE: f64 = 0.1;

const CSV_HEADER: &str = "seed,steps,mean_return,violation_rate,cost";

type Panel = (&'static str, &'static str, fn(&CurvePoint) -> f64);

const PANELS: [Panel; 3] = [
    ("Return", "mean return of an episode", |point| point.mean_return),
    ("Violations", "intervals over the limit, %", |point| point.violation_rate * 100.0),
    ("Cost", "mean cost of a step", |point| point.cost),
];

/// All curves as CSV, one row per seed and evaluation; numbers read back exactly.
pub fn to_csv(curves: &[LearningCurve]) -> String {
    let mut csv = format!("{CSV_HEADER}\n");
    for curve in curves {
        for point in &curve.points {
            let CurvePoint { steps, mean_return, violation_rate, cost } = point;
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{},{steps},{mean_return},{violation_rate},{cost}", curve.seed);
        }
    }
    csv
}

/// Reads what [`to_csv`] wrote; `path` is for error messages. Runs are in the order of their first row.
///
/// # Errors
/// [`LearnError::WrongFile`] names the line.
pub fn from_csv(csv: &str, path: &Path) -> Result<Vec<LearningCurve>, LearnError> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    if header != CSV_HEADER {
        return Err(LearnError::wrong_file(path, "line 1", header, CSV_HEADER));
    }
    let mut curves: Vec<LearningCurve> = Vec::new();
    for (line, row) in lines.enumerate() {
        let Some((seed, point)) = parse_row(row) else {
            return Err(LearnError::wrong_file(
                path,
                format!("line {}", line + 2),
                row,
                format!("numbers {CSV_HEADER}"),
            ));
        };
        match curves.iter_mut().find(|curve| curve.seed == seed) {
            Some(curve) => curve.points.push(point),
            None => curves.push(LearningCurve { seed, points: vec![point] }),
        }
    }
    Ok(curves)
}

fn parse_row(row: &str) -> Option<(u64, CurvePoint)> {
    let cells: Vec<&str> = row.split(',').collect();
    let [seed, steps, mean_return, violation_rate, cost] = cells.as_slice() else { return None };
    let point = CurvePoint {
        steps: steps.parse().ok()?,
        mean_return: mean_return.parse().ok()?,
        violation_rate: violation_rate.parse().ok()?,
        cost: cost.parse().ok()?,
    };
    Some((seed.parse().ok()?, point))
}

/// Median and quantile band over seeds of one figure.
///
/// Steps are those of the first curve as far as every curve reaches; other curves are read linearly between their
/// points.
pub fn band(curves: &[LearningCurve], figure: impl Fn(&CurvePoint) -> f64) -> Vec<BandPoint> {
    let curves: Vec<&LearningCurve> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    let Some(first) = curves.first() else { return Vec::new() };
    let from = curves.iter().map(|curve| curve.points[0].steps).max().unwrap_or(0);
    let to = curves.iter().map(|curve| curve.points[curve.points.len() - 1].steps).min().unwrap_or(0);
    let steps = first.points.iter().map(|point| point.steps).filter(|steps| (from..=to).contains(steps));
    steps
        .map(|steps| {
            let mut values: Vec<f64> = curves.iter().map(|curve| value_at(&curve.points, steps, &figure)).collect();
            values.sort_by(f64::total_cmp);
            BandPoint {
                steps: steps as f64,
                low: quantile(&values, BAND_QUANTILE),
                median: quantile(&values, 0.5),
                high: quantile(&values, 1.0 - BAND_QUANTILE),
            }
        })
        .collect()
}

/// Linear between the two points around `steps`, which lies within the curve.
fn value_at(points: &[CurvePoint], steps: u64, figure: &impl Fn(&CurvePoint) -> f64) -> f64 {
    let after = points.partition_point(|point| point.steps < steps).min(points.len() - 1);
    let right = &points[after];
    if after == 0 || right.steps <= steps {
        return figure(right);
    }
    let left = &points[after - 1];
    let share = (steps - left.steps) as f64 / (right.steps - left.steps) as f64;
    figure(left) + share * (figure(right) - figure(left))
}

/// The quantile of sorted values, linear between them (type 7 of Hyndman and Fan, 1996).
fn quantile(sorted: &[f64], level: f64) -> f64 {
    let position = level * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

/// Panels under one another: return, violations and cost; median over seeds with the band from 10 to 90 %. A figure that no
/// point has (not a number, as the cost of an episode that tells only its return) has no panel.
pub fn to_svg(curves: &[LearningCurve], title: &str) -> String {
    let seeds = curves.len();
    let (mut plots, mut layouts) = (Vec::new(), Vec::new());
    for (name, label, figure) in PANELS {
        let mut points = band(curves, figure);
        points.retain(|point| [point.low, point.median, point.high].iter().all(|value| value.is_finite()));
        if points.is_empty() && !curves.is_empty() {
            continue;
        }
        let mut line = LinePlot::new()
            .with_data(points.iter().map(|point| (point.steps, point.median)))
            .with_color("#1f5f8b")
            .with_stroke_width(1.8);
        if seeds > 1 {
            line = line.with_band(points.iter().map(|point| point.low), points.iter().map(|point| point.high));
        }
        let panel = vec![Plot::Line(line)];
        let layout =
            Layout::auto_from_plots(&panel).with_title(name).with_x_label("environment steps").with_y_label(label);
        plots.push(panel);
        layouts.push(layout);
    }
    let over = if seeds > 1 {
        format!("{title}: median of {seeds} seeds, band from 10 to 90 %")
    } else {
        format!("{title}: one seed")
    };
    let scene = Figure::new(plots.len().max(1), 1)
        .with_title(over)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_cell_size(720.0, 260.0)
        .render();
    renumbered(&SvgBackend.render_scene(&scene))
}

/// kuva numbers clip paths from a counter of the whole process; here they count from 0 in every picture.
fn renumbered(svg: &str) -> String {
    const PREFIX: &str = "kuva-clip-";
    let mut seen: Vec<&str> = Vec::new();
    let mut pieces = svg.split(PREFIX);
    let mut result = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let digits = piece.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(digits);
        let position = seen.iter().position(|known| *known == number).unwrap_or_else(|| {
            seen.push(number);
            seen.len() - 1
        });
        // Writing to a String cannot fail.
        let _ = write!(result, "{PREFIX}{position}{rest}");
    }
    result
}

/// Writes `<stem>.csv` and `<stem>.svg` into `directory`.
///
/// # Errors
/// [`LearnError::File`] when the disk fails.
pub fn write(curves: &[LearningCurve], title: &str, directory: &Path, stem: &str) -> Result<(), LearnError> {
    std::fs::create_dir_all(directory).map_err(LearnError::file("make", directory))?;
    write_atomically(&directory.join(format!("{stem}.csv")), to_csv(curves).as_bytes())?;
    write_atomically(&directory.join(format!("{stem}.svg")), to_svg(curves, title).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(seed: u64, returns: &[(u64, f64)]) -> LearningCurve {
        let points = returns
            .iter()
            .map(|(steps, mean_return)| CurvePoint {
                steps: *steps,
                mean_return: *mean_return,
                violation_rate: 0.1 / (*steps as f64 + 1.0),
                cost: 1.0 / 3.0,
            })
            .collect();
        LearningCurve { seed, points }
    }

    #[test]
    fn csv_reads_back_exactly() {
        let curves = [curve(1, &[(0, -1e-300), (10, 1.0 / 3.0)]), curve(u64::MAX, &[(5, 7.0)])];
        assert_eq!(from_csv(&to_csv(&curves), Path::new("curve.csv")).unwrap(), curves);
        let error = from_csv("seed,steps,mean_return,violation_rate,cost\n1,2,x,0,0\n", Path::new("curve.csv"));
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("curve.csv: line 2: got 1,2,x,0,0, expected numbers"), "{text}");
    }

    #[test]
    fn the_band_holds_the_quantiles_over_seeds_where_all_curves_reach() {
        let curves: Vec<LearningCurve> =
            (0..=10).map(|seed| curve(seed, &[(0, 0.0), (100, seed as f64), (200, 2.0 * seed as f64)])).collect();
        let mut curves_with_a_short_one = curves.clone();
        curves_with_a_short_one[3].points.pop();
        let points = band(&curves, |point| point.mean_return);
        assert_eq!(points.len(), 3);
        assert_eq!(points[1], BandPoint { steps: 100.0, low: 1.0, median: 5.0, high: 9.0 });
        assert_eq!(band(&curves_with_a_short_one, |point| point.mean_return).len(), 2);
        assert_eq!(band(&[], |point| point.cost), []);
    }

    #[test]
    fn curves_with_other_steps_are_read_between_their_points() {
        let curves = [curve(0, &[(0, 0.0), (50, 5.0), (100, 10.0)]), curve(1, &[(0, 0.0), (100, 10.0)])];
        let points = band(&curves, |point| point.mean_return);
        assert_eq!(points[1], BandPoint { steps: 50.0, low: 5.0, median: 5.0, high: 5.0 });
    }

    #[test]
    fn the_plot_shows_three_panels_and_the_number_of_seeds() {
        let curves: Vec<LearningCurve> =
            (0..3).map(|seed| curve(seed, &[(0, -5.0), (1_000, -1.0 - seed as f64), (2_000, 3.0)])).collect();
        let svg = to_svg(&curves, "ppo on classic");
        for text in ["<svg", "</svg>", "Return", "Violations", "Cost", "ppo on classic", "median of 3 seeds"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(svg == to_svg(&curves, "ppo on classic"), "the same curves give the same picture");
        assert!(svg != to_svg(&curves[..2], "ppo on classic"));
        assert!(to_svg(&[], "nothing yet").contains("<svg"));
    }

    #[test]
    fn a_figure_that_no_point_has_is_left_out() {
        let mut only_return = curve(1, &[(0, -5.0), (1_000, -1.0)]);
        for point in &mut only_return.points {
            (point.violation_rate, point.cost) = (f64::NAN, f64::NAN);
        }
        let svg = to_svg(&[only_return.clone()], "td3");
        assert!(svg.contains("Return") && !svg.contains("Violations") && !svg.contains("NaN"));
        let read = from_csv(&to_csv(&[only_return]), Path::new("curve.csv")).unwrap();
        assert!(read[0].points[1].cost.is_nan() && read[0].points[1].mean_return == -1.0);
    }
}
