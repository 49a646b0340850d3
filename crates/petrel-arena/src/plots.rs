//! How does a tournament look? Pictures as SVG and PNG.

use crate::error::ArenaError;
use crate::game::TimelinePoint;
use crate::players::Kind;
use crate::run::World;
use crate::stats::{pareto_front, quantile};
use crate::tables::{AblationRow, AggregateRow, TOLERATED_VIOLATION_RATE};
use kuva::backend::raster::RasterBackend;
use kuva::backend::svg::SvgBackend;
use kuva::plot::legend::{LegendEntry, LegendPosition, LegendShape};
use kuva::plot::{BandPlot, ForestPlot, LinePlot, ScatterPlot};
use kuva::render::annotations::{ReferenceLine, ShadedRegion};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Scene, render_multiple};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Colours that people with colour blindness tell apart (Okabe and Ito, 2008).
const BLUE: &str = "#0072b2";
const ORANGE: &str = "#d55e00";
const GREEN: &str = "#009e73";
const PURPLE: &str = "#cc79a7";
const SKY: &str = "#56b4e9";
const GREY: &str = "#8a8a8a";

/// Pixels of a PNG per unit of the drawing.
const PNG_SCALE: f32 = 2.0;

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Rule => BLUE,
        Kind::Planner => PURPLE,
        Kind::Learned => ORANGE,
        Kind::Optimum => GREEN,
    }
}

/// A finished drawing.
pub struct Picture {
    /// Name of the files without ending.
    pub name: String,
    /// What it shows, for people who cannot see it and for the caption.
    pub caption: String,
    scene: Scene,
}

impl Picture {
    fn new(name: impl Into<String>, caption: impl Into<String>, scene: Scene) -> Self {
        Self { name: name.into(), caption: caption.into(), scene }
    }

    /// The drawing as SVG.
    pub fn svg(&self) -> String {
        SvgBackend::new().render_scene(&self.scene)
    }

    /// Writes `<name>.svg` and `<name>.png` into `folder`.
    ///
    /// # Errors
    /// [`ArenaError::Io`], or [`ArenaError::Plot`] when the drawing library fails.
    pub fn write(&self, folder: &Path) -> Result<(), ArenaError> {
        let path = folder.join(format!("{}.svg", self.name));
        std::fs::write(&path, self.svg()).map_err(ArenaError::io("cannot write", &path))?;
        let path = folder.join(format!("{}.png", self.name));
        let png = RasterBackend::new()
            .with_scale(PNG_SCALE)
            .render_scene(&self.scene)
            .map_err(|reason| ArenaError::Plot { path: path.clone(), reason })?;
        std::fs::write(&path, png).map_err(ArenaError::io("cannot write", &path))
    }
}

fn legend(label: &str, colour: &str, shape: LegendShape, dasharray: Option<&str>) -> LegendEntry {
    LegendEntry { label: label.to_string(), color: colour.to_string(), shape, dasharray: dasharray.map(str::to_string) }
}

/// A round number of at least a fifth of `range`, for the distance between ticks.
fn tick_step(range: f64) -> f64 {
    let rough = (range / 5.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * power >= rough).unwrap_or(10.0);
    step * power
}

/// Cost against violations of all players of `world`, with intervals and the Pareto front of those who do not know the
/// future. Violations are on a square-root scale, which keeps the few per mille that matter apart.
pub fn cost_against_violations(world: World, rows: &[AggregateRow], kind_of: &dyn Fn(&str) -> Kind) -> Option<Picture> {
    let rows: Vec<&AggregateRow> =
        rows.iter().filter(|row| row.world == world && row.cost.estimate.is_finite()).collect();
    if rows.is_empty() {
        return None;
    }
    let place = |rate: f64| (100.0 * rate.max(0.0)).sqrt();
    let rivals: Vec<&AggregateRow> = rows.iter().copied().filter(|row| kind_of(&row.player) != Kind::Optimum).collect();
    let points: Vec<(f64, f64)> = rivals.iter().map(|row| (row.violation_rate.estimate, row.cost.estimate)).collect();
    let front: Vec<(f64, f64)> = pareto_front(&points).into_iter().map(|index| points[index]).collect();

    let mut plots: Vec<Plot> = Vec::new();
    let highest_cost = rows.iter().map(|row| row.cost.hi).fold(0.0, f64::max);
    let lowest_cost = rows.iter().map(|row| row.cost.lo).fold(f64::INFINITY, f64::min);
    let widest = rows.iter().map(|row| place(row.violation_rate.hi)).fold(1.2, f64::max);
    let room = (highest_cost - lowest_cost).max(0.05 * highest_cost);
    let (bottom, top) = ((lowest_cost - 0.12 * room).max(0.0), highest_cost + 0.12 * room);
    let right = widest.ceil().max(2.0) + 0.4;

    if !front.is_empty() {
        // A step: between two points of the front nobody is better on both axes than the corner.
        let mut steps = vec![(place(front[0].0), top)];
        for (index, (rate, cost)) in front.iter().enumerate() {
            if index > 0 {
                steps.push((place(*rate), front[index - 1].1));
            }
            steps.push((place(*rate), *cost));
        }
        steps.push((right, front[front.len() - 1].1));
        plots.push(LinePlot::new().with_data(steps).with_color(GREY).with_stroke_width(1.4).with_dashed().into());
    }
    for row in &rows {
        let (x, colour) = (place(row.violation_rate.estimate), colour(kind_of(&row.player)));
        let (lo, hi) = (place(row.violation_rate.lo), place(row.violation_rate.hi));
        for line in [[(lo, row.cost.estimate), (hi, row.cost.estimate)], [(x, row.cost.lo), (x, row.cost.hi)]] {
            plots.push(LinePlot::new().with_data(line.to_vec()).with_color(colour).with_stroke_width(1.2).into());
        }
    }
    // One plot for all points, so that no label covers another one.
    let points: Vec<(f64, f64)> =
        rows.iter().map(|row| (place(row.violation_rate.estimate), row.cost.estimate)).collect();
    let colours: Vec<&str> = rows.iter().map(|row| colour(kind_of(&row.player))).collect();
    let labels: Vec<&str> = rows.iter().map(|row| row.player.as_str()).collect();
    plots.push(
        ScatterPlot::new()
            .with_data(points)
            .with_colors(colours)
            .with_size(5.0)
            .with_labels(labels)
            .with_repel_labels()
            .into(),
    );

    let mut entries = vec![
        legend("rule", BLUE, LegendShape::Circle, None),
        legend("planner", PURPLE, LegendShape::Circle, None),
        legend("learned", ORANGE, LegendShape::Circle, None),
        legend("knows the future", GREEN, LegendShape::Circle, None),
    ];
    entries.retain(|entry| rows.iter().any(|row| colour(kind_of(&row.player)) == entry.color));
    entries.push(legend("Pareto front", GREY, LegendShape::Line, Some("8 4")));
    let unit = match world {
        World::Classic => "cost (sum of $/h over 500 steps)",
        World::Queue => "cost of a game, $",
    };
    let layout = Layout::auto_from_plots(&plots)
        .with_width(900.0)
        .with_height(600.0)
        .with_title(format!("Cost against violations, world {world}"))
        .with_x_label("decision intervals above the objective, % (square-root scale)")
        .with_y_label(unit)
        .with_x_axis_min(-0.15)
        .with_x_axis_max(right)
        .with_y_axis_min(bottom)
        .with_y_axis_max(top)
        .with_x_tick_step(1.0)
        .with_y_tick_step(tick_step(top - bottom))
        .with_x_tick_format(TickFormat::Custom(Arc::new(|root: f64| {
            if root < -1e-9 { String::new() } else { format!("{:.0}", root * root) }
        })))
        .with_reference_line(
            ReferenceLine::vertical(place(TOLERATED_VIOLATION_RATE))
                .with_color(GREY)
                .with_dasharray("2 3")
                .with_label("1 %"),
        )
        .with_legend_entries(entries)
        .with_legend_position(LegendPosition::InsideTopRight);
    let caption = format!(
        "Mean cost and mean violation rate of every player of world {world} over all traces and seeds, with 95 % bootstrap \
         intervals. Lower left is better; the dashed line joins the players that no other player beats on both figures."
    );
    Some(Picture::new(format!("cost-violations-{world}"), caption, render_multiple(plots, layout)))
}

/// One player's intervals around a burst.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// The player.
    pub player: String,
    /// What it is.
    pub kind: Kind,
    /// Its intervals.
    pub points: Vec<TimelinePoint>,
}

fn steps(points: &[TimelinePoint], figure: impl Fn(&TimelinePoint) -> f64) -> Vec<(f64, f64)> {
    points.iter().map(|point| (point.time_s, figure(point))).collect()
}

/// Red where the objective was missed, one region per stretch of intervals.
fn with_violations(mut layout: Layout, points: &[TimelinePoint]) -> Layout {
    let mut from: Option<f64> = None;
    let mut before = points.first().map_or(0.0, |point| point.time_s - 5.0);
    for point in points {
        match (from, point.violated) {
            (None, true) => from = Some(before),
            (Some(start), false) => {
                layout = layout
                    .with_shaded_region(ShadedRegion::vertical(start, before).with_color("#d62728").with_opacity(0.16));
                from = None;
            }
            _ => {}
        }
        before = point.time_s;
    }
    if let Some(start) = from {
        layout =
            layout.with_shaded_region(ShadedRegion::vertical(start, before).with_color("#d62728").with_opacity(0.16));
    }
    layout
}

fn violated_share(points: &[TimelinePoint]) -> f64 {
    points.iter().filter(|point| point.violated).count() as f64 / points.len().max(1) as f64
}

/// All players around the same burst: executors asked for, running and needed.
pub fn timelines(trace: &str, timelines: &[Timeline], records_per_executor: f64) -> Option<Picture> {
    let columns = 3;
    let rows = timelines.len().div_ceil(columns);
    let first = timelines.first()?;
    let (from_s, to_s) = (first.points.first()?.time_s, first.points.last()?.time_s);
    let needed = steps(&first.points, |point| point.arrival_rate / records_per_executor.max(1.0));
    let most = timelines
        .iter()
        .flat_map(|timeline| timeline.points.iter().map(|point| f64::from(point.target.max(point.running))))
        .chain(needed.iter().map(|point| point.1))
        .fold(1.0, f64::max);
    let mut plots: Vec<Vec<Plot>> = Vec::new();
    let mut layouts: Vec<Layout> = Vec::new();
    for (index, timeline) in timelines.iter().enumerate() {
        let colour = colour(timeline.kind);
        let cell: Vec<Plot> = vec![
            LinePlot::new()
                .with_data(needed.clone())
                .with_color("#b5b5b5")
                .with_fill()
                .with_fill_opacity(0.35)
                .with_stroke_width(1.0)
                .into(),
            LinePlot::new()
                .with_data(steps(&timeline.points, |point| f64::from(point.target)))
                .with_color(SKY)
                .with_step()
                .with_stroke_width(1.0)
                .into(),
            LinePlot::new()
                .with_data(steps(&timeline.points, |point| f64::from(point.running)))
                .with_color(colour)
                .with_step()
                .with_stroke_width(2.0)
                .into(),
        ];
        let cost: f64 = timeline.points.iter().map(|point| point.cost_usd).sum();
        let mut layout = Layout::auto_from_plots(&cell)
            .with_title(format!(
                "{}: {:.0} % missed, ${cost:.3}",
                timeline.player,
                100.0 * violated_share(&timeline.points)
            ))
            .with_title_size(13)
            .with_tick_size(10)
            .with_label_size(11)
            .with_x_axis_min(from_s)
            .with_x_axis_max(to_s)
            .with_y_axis_min(0.0)
            .with_y_axis_max((most * 1.05).ceil())
            .with_y_tick_step(tick_step(most));
        if index % columns == 0 {
            layout = layout.with_y_label("executors");
        }
        if index + columns >= timelines.len() {
            layout = layout.with_x_label("seconds");
        }
        layouts.push(with_violations(layout, &timeline.points));
        plots.push(cell);
    }
    let entries = vec![
        legend("needed for what arrives", "#b5b5b5", LegendShape::Rect, None),
        legend("asked for", SKY, LegendShape::Line, None),
        legend("running (colour: kind of player)", BLUE, LegendShape::Line, None),
        legend("objective missed", "#f4c7c7", LegendShape::Rect, None),
    ];
    let scene = Figure::new(rows, columns)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_cell_size(370.0, 215.0)
        .with_spacing(8.0)
        .with_title(format!("One burst of trace {trace}"))
        .with_title_size(18)
        .with_shared_legend_bottom()
        .with_shared_legend_entries(entries)
        .render();
    let caption = format!(
        "Every player around the same burst of trace {trace}, with the same records and the same start-up draws: executors \
         needed for the records of each interval, asked for and running. Red: the objective was missed."
    );
    Some(Picture::new("timelines", caption, scene))
}

/// One player around a burst: rate, executors, latency.
pub fn timeline(trace: &str, timeline: &Timeline, slo_p95_ms: f64) -> Option<Picture> {
    let points = &timeline.points;
    let (from_s, to_s) = (points.first()?.time_s, points.last()?.time_s);
    let colour = colour(timeline.kind);
    let rate: Vec<Plot> = vec![
        LinePlot::new()
            .with_data(steps(points, |point| point.arrival_rate / 1e3))
            .with_color(GREY)
            .with_fill()
            .with_fill_opacity(0.25)
            .with_stroke_width(1.5)
            .into(),
    ];
    let line = |figure: &dyn Fn(&TimelinePoint) -> f64, colour: &str, label: &str, width: f64| -> Plot {
        LinePlot::new()
            .with_data(steps(points, figure))
            .with_color(colour)
            .with_step()
            .with_stroke_width(width)
            .with_legend(label)
            .into()
    };
    let mut executors = vec![
        line(&|point| f64::from(point.target), SKY, "asked for", 1.5),
        line(&|point| f64::from(point.running), colour, "running", 2.0),
    ];
    if points.iter().any(|point| point.warm > 0) {
        executors.push(line(&|point| f64::from(point.warm), GREY, "kept warm", 1.5));
    }
    let latency: Vec<Plot> = vec![line(&|point| (point.p95_ms / 1e3).max(0.01), colour, "p95", 2.0)];
    let most = |figure: &dyn Fn(&TimelinePoint) -> f64| points.iter().map(figure).fold(0.0, f64::max);
    let dress = |plots: &[Plot], label: &str, top: f64| {
        let layout = Layout::auto_from_plots(plots)
            .with_y_label(label)
            .with_x_axis_min(from_s)
            .with_x_axis_max(to_s)
            .with_y_axis_min(0.0)
            .with_y_axis_max(top)
            .with_y_tick_step(tick_step(top))
            .with_label_size(12)
            .with_tick_size(11)
            .with_legend_position(LegendPosition::InsideTopRight);
        with_violations(layout, points)
    };
    let slowest_s = most(&|point| point.p95_ms / 1e3).max(slo_p95_ms / 1e3);
    let layouts = vec![
        dress(&rate, "thousand records/s", 1.1 * most(&|point| point.arrival_rate / 1e3).max(1e-3)),
        dress(
            &executors,
            "executors",
            (1.25 * most(&|point| f64::from(point.target.max(point.running).max(point.warm)))).ceil().max(2.0),
        ),
        dress(&latency, "p95 latency, s", 1.1 * slowest_s)
            .with_reference_line(
                ReferenceLine::horizontal(slo_p95_ms / 1e3).with_color("#d62728").with_label("objective"),
            )
            .with_x_label("seconds"),
    ];
    let scene = Figure::new(3, 1)
        .with_plots(vec![rate, executors, latency])
        .with_layouts(layouts)
        .with_cell_size(860.0, 210.0)
        .with_spacing(4.0)
        .with_title(format!("{} on a burst of trace {trace}", timeline.player))
        .with_title_size(17)
        .with_keep_panel_legends()
        .render();
    let caption = format!(
        "{}: arrivals, executors and latency around a burst of trace {trace}. Red: the objective was missed.",
        timeline.player
    );
    Some(Picture::new(format!("timeline-{}", timeline.player), caption, scene))
}

/// The window of at most `window_s` around the steepest rise of a timeline.
pub fn burst_window(points: &[TimelinePoint], window_s: f64) -> (f64, f64) {
    // Mean rate of half a minute against the half minute before.
    let half = 6;
    let mean =
        |part: &[TimelinePoint]| part.iter().map(|point| point.arrival_rate).sum::<f64>() / part.len().max(1) as f64;
    let rise = |index: usize| {
        let before = mean(&points[index.saturating_sub(half)..index]);
        mean(&points[index..(index + half).min(points.len())]) - before
    };
    let onset = (half..points.len().saturating_sub(half)).max_by(|a, b| rise(*a).total_cmp(&rise(*b))).unwrap_or(0);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return (0.0, 0.0) };
    let onset_s = points[onset].time_s;
    let from_s = (onset_s - window_s / 3.0).min(last.time_s - window_s).max(first.time_s - 5.0);
    (from_s, from_s + window_s)
}

/// A curve of `petrel train`: one row per seed and evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningCurve {
    /// Name for the picture.
    pub name: String,
    /// Steps and, per step, the mean return, violation rate and cost of every seed.
    pub points: BTreeMap<u64, [Vec<f64>; 3]>,
}

/// Header of the CSV that `petrel train` writes.
const CURVE_HEADER: &str = "seed,steps,mean_return,violation_rate,cost";

impl LearningCurve {
    /// Reads the CSV that `petrel train` writes.
    ///
    /// # Errors
    /// [`ArenaError::Io`], or [`ArenaError::Invalid`] with the line.
    pub fn read(path: &Path) -> Result<Self, ArenaError> {
        let text = std::fs::read_to_string(path).map_err(ArenaError::io("cannot read", path))?;
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        if header != CURVE_HEADER {
            return Err(ArenaError::invalid(format!("{} line 1", path.display()), header, CURVE_HEADER));
        }
        let mut points: BTreeMap<u64, [Vec<f64>; 3]> = BTreeMap::new();
        for (index, line) in lines.enumerate() {
            let figures: Option<Vec<f64>> = line.split(',').map(|cell| cell.parse().ok()).collect();
            let Some([_, steps, figures @ ..]) = figures.as_deref().filter(|figures| figures.len() == 5) else {
                let place = format!("{} line {}", path.display(), index + 2);
                return Err(ArenaError::invalid(place, line, "five figures"));
            };
            let place = points.entry(*steps as u64).or_default();
            for (values, figure) in place.iter_mut().zip(figures) {
                values.push(*figure);
            }
        }
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, points })
    }
}

/// Return, violations and cost of training runs against environment steps: median over seeds, with the band between the
/// 10 % and 90 % quantiles.
pub fn learning_curves(curves: &[LearningCurve]) -> Option<Picture> {
    let colours = [ORANGE, BLUE, GREEN, PURPLE, SKY, GREY];
    if curves.iter().all(|curve| curve.points.is_empty()) {
        return None;
    }
    let labels = ["mean return", "intervals above the objective, %", "mean cost of an episode"];
    let mut plots: Vec<Vec<Plot>> = Vec::new();
    let mut layouts: Vec<Layout> = Vec::new();
    for (figure, label) in labels.into_iter().enumerate() {
        let factor = if figure == 1 { 100.0 } else { 1.0 };
        let mut cell: Vec<Plot> = Vec::new();
        for (curve, colour) in curves.iter().zip(colours.into_iter().cycle()) {
            let at = |level: f64| -> Vec<f64> {
                curve.points.values().map(|values| factor * quantile(&values[figure], level)).collect()
            };
            let steps: Vec<f64> = curve.points.keys().map(|steps| *steps as f64 / 1e3).collect();
            let line: Vec<(f64, f64)> = steps.iter().copied().zip(at(0.5)).collect();
            cell.push(BandPlot::new(steps, at(0.1), at(0.9)).with_color(colour).with_opacity(0.18).into());
            let line = LinePlot::new().with_data(line).with_color(colour).with_stroke_width(2.0);
            cell.push(if figure == 0 && curves.len() > 1 { line.with_legend(&curve.name) } else { line }.into());
        }
        layouts.push(
            Layout::auto_from_plots(&cell)
                .with_y_label(label)
                .with_x_label("thousand environment steps")
                .with_label_size(12)
                .with_tick_size(11)
                .with_legend_position(LegendPosition::InsideBottomRight),
        );
        plots.push(cell);
    }
    let scene = Figure::new(1, 3)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_cell_size(400.0, 320.0)
        .with_title("Learning curves")
        .with_title_size(17)
        .with_keep_panel_legends()
        .render();
    let caption = "Evaluations during training: median over seeds, with the band between the 10 % and 90 % quantiles.";
    Some(Picture::new("learning-curves", caption, scene))
}

/// What is lost without something: change of violations and of cost with 95 % intervals, one picture per world.
pub fn ablations(world: World, rows: &[AblationRow]) -> Option<Picture> {
    let rows: Vec<&AblationRow> = rows.iter().filter(|row| row.world == world).collect();
    if rows.is_empty() {
        return None;
    }
    let players = {
        let mut names: Vec<&str> = rows.iter().map(|row| row.player.as_str()).collect();
        names.dedup();
        names
    };
    let colour_of = |player: &str| {
        let place = players.iter().position(|name| *name == player).unwrap_or(0);
        [ORANGE, BLUE, PURPLE, GREEN, SKY, GREY][place % 6]
    };
    let label = |row: &AblationRow| {
        let words: Vec<&str> = row.without.list().iter().map(|ablation| ablation.words()).collect();
        format!("{}, no {}", row.player, words.join(" and "))
    };
    let mut violations = ForestPlot::new().with_null_value(0.0).with_cap_size(3.0).with_marker_size(5.0);
    let mut cost = ForestPlot::new().with_null_value(0.0).with_cap_size(3.0).with_marker_size(5.0);
    for row in &rows {
        let change = row.violation_change;
        let colour = colour_of(&row.player);
        violations = violations.with_colored_row(
            label(row),
            100.0 * change.estimate,
            100.0 * change.lo,
            100.0 * change.hi,
            colour,
        );
        let change = row.cost_change;
        // The labels of the left panel are those of both.
        cost = cost.with_colored_row(" ", 100.0 * change.estimate, 100.0 * change.lo, 100.0 * change.hi, colour);
    }
    let plots: Vec<Vec<Plot>> = vec![vec![violations.into()], vec![cost.into()]];
    let layouts = vec![
        Layout::auto_from_plots(&plots[0])
            .with_x_label("change of violations, percentage points")
            .with_label_size(12)
            .with_tick_size(11),
        Layout::auto_from_plots(&plots[1]).with_x_label("change of cost, %").with_label_size(12).with_tick_size(11),
    ];
    let height = 110.0 + 26.0 * rows.len() as f64;
    let scene = Figure::new(1, 2)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_cell_size(520.0, height)
        .with_col_width(0, 640.0)
        .with_col_width(1, 420.0)
        .with_title(format!("What each part is worth, world {world}"))
        .with_title_size(17)
        .render();
    let caption = format!(
        "What changes on world {world} when one thing is taken away, on the same games: mean over traces and seeds with 95 % \
         bootstrap intervals of the paired differences. Right of zero the thing is worth having."
    );
    Some(Picture::new(format!("ablations-{world}"), caption, scene))
}
