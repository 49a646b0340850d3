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
use kuva::render::annotations::{ReferenceLine, ShadedRegion, TextAnnotation};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Scene, render_multiple};
use petrel_sim::calibration::twin::{TwinInterval, TwinRun};
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

/// Inner width and height of the scatter plot, pixels; its margins depend on the labels of the ticks, so this is near enough
/// to keep labels apart.
const PLOT_PX: (f64, f64) = (825.0, 495.0);

/// Height of a label's letters, pixels.
const LABEL_PX: u32 = 12;

#[derive(Clone, Copy)]
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Rect {
    /// Of a text around its middle.
    fn of_label(text: &str, (x, y): (f64, f64)) -> Self {
        let width = 7.2 * text.chars().count() as f64;
        Self { x: x - 0.5 * width, y: y - 7.5, width, height: 15.0 }
    }

    /// Of a horizontal or vertical line.
    fn of_line([from, to]: [(f64, f64); 2]) -> Self {
        let (x, y) = (from.0.min(to.0) - 1.5, from.1.min(to.1) - 1.5);
        Self { x, y, width: (from.0 - to.0).abs() + 3.0, height: (from.1 - to.1).abs() + 3.0 }
    }

    /// Area that two have in common.
    fn overlap(&self, other: &Self) -> f64 {
        let along = |a: f64, a_size: f64, b: f64, b_size: f64| ((a + a_size).min(b + b_size) - a.max(b)).max(0.0);
        along(self.x, self.width, other.x, other.width) * along(self.y, self.height, other.y, other.height)
    }
}

/// Labels and the pixels of their points; players on the same spot share a label.
fn named_points(
    rows: &[&AggregateRow],
    points: &[(f64, f64)],
    in_pixels: impl Fn((f64, f64)) -> (f64, f64),
) -> Vec<(String, (f64, f64))> {
    let mut named: Vec<(String, (f64, f64))> = Vec::new();
    for (row, point) in rows.iter().zip(points) {
        let (x, y) = in_pixels(*point);
        match named.iter_mut().find(|(_, (other_x, other_y))| (x - other_x).hypot(y - other_y) < 1.0) {
            Some((label, _)) => {
                label.push_str(" = ");
                label.push_str(&row.player);
            }
            None => named.push((row.player.clone(), (x, y))),
        }
    }
    named
}

/// Middles of the labels, pixels: each beside its point where it covers least of what is there already.
fn place_labels(
    labels: &[String],
    places: &[(f64, f64)],
    points: &[(f64, f64)],
    lines: &[Rect],
    legend: Rect,
) -> Vec<(f64, f64)> {
    let mut taken: Vec<Rect> =
        points.iter().map(|(x, y)| Rect { x: x - 6.0, y: y - 6.0, width: 12.0, height: 12.0 }).collect();
    taken.push(legend);
    taken.extend_from_slice(lines);
    labels
        .iter()
        .zip(places)
        .map(|(label, (x, y))| {
            let half = 3.6 * label.chars().count() as f64 + 10.0;
            let mut candidates =
                vec![(half, 0.0), (half, -12.0), (half, 12.0), (-half, 0.0), (-half, -12.0), (-half, 12.0)];
            candidates.extend([(0.0, -14.0), (0.0, 14.0)]);
            for away in [20.0, 34.0, 51.0, 68.0, 85.0] {
                candidates.extend([(half, -away), (half, away), (-half, -away), (-half, away)]);
                candidates.extend([(half + away, -away), (half + away, away)]);
            }
            let cost = |(dx, dy): &(f64, f64)| {
                let rect = Rect::of_label(label, (x + dx, y + dy));
                let outside = (-rect.x).max(0.0) + (rect.x + rect.width - PLOT_PX.0).max(0.0);
                let covered: f64 = taken.iter().map(|other| rect.overlap(other)).sum();
                covered + 60.0 * outside + 0.2 * dy.abs() + 0.05 * (dx.abs() - half).abs()
            };
            let (dx, dy) = candidates.into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or((half, 0.0));
            taken.push(Rect::of_label(label, (x + dx, y + dy)));
            (x + dx, y + dy)
        })
        .collect()
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
    // What labels should keep off.
    let mut lines: Vec<[(f64, f64); 2]> = Vec::new();
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
        lines.extend(steps.windows(2).map(|pair| [pair[0], pair[1]]));
        plots.push(LinePlot::new().with_data(steps).with_color(GREY).with_stroke_width(1.4).with_dashed().into());
    }
    for row in &rows {
        let (x, colour) = (place(row.violation_rate.estimate), colour(kind_of(&row.player)));
        let (lo, hi) = (place(row.violation_rate.lo), place(row.violation_rate.hi));
        for line in [[(lo, row.cost.estimate), (hi, row.cost.estimate)], [(x, row.cost.lo), (x, row.cost.hi)]] {
            lines.push(line);
            plots.push(LinePlot::new().with_data(line.to_vec()).with_color(colour).with_stroke_width(1.2).into());
        }
    }
    let points: Vec<(f64, f64)> =
        rows.iter().map(|row| (place(row.violation_rate.estimate), row.cost.estimate)).collect();
    let colours: Vec<&str> = rows.iter().map(|row| colour(kind_of(&row.player))).collect();
    let left = -0.03 * right;
    let in_pixels =
        |(x, y): (f64, f64)| ((x - left) / (right - left) * PLOT_PX.0, (top - y) / (top - bottom) * PLOT_PX.1);
    let in_data = |(x, y): (f64, f64)| (left + x / PLOT_PX.0 * (right - left), top - y / PLOT_PX.1 * (top - bottom));
    let (labels, places): (Vec<String>, Vec<(f64, f64)>) = named_points(&rows, &points, in_pixels).into_iter().unzip();
    let legend_box = Rect { x: PLOT_PX.0 - 190.0, y: 0.0, width: 190.0, height: 125.0 };
    let points_px: Vec<(f64, f64)> = points.iter().map(|point| in_pixels(*point)).collect();
    let lines_px: Vec<Rect> = lines.iter().map(|line| Rect::of_line(line.map(in_pixels))).collect();
    let label_places = place_labels(&labels, &places, &points_px, &lines_px, legend_box);
    for (from, (x, y)) in places.iter().zip(&label_places) {
        // A label that had to move away is joined to its point.
        if (y - from.1).abs() > 16.0 {
            let line = vec![in_data(*from), in_data((*x, *y))];
            plots.push(LinePlot::new().with_data(line).with_color("#c4c4c4").with_stroke_width(0.8).into());
        }
    }
    plots.push(ScatterPlot::new().with_data(points).with_colors(colours).with_size(5.0).into());

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
    let mut layout = Layout::auto_from_plots(&plots)
        .with_width(900.0)
        .with_height(600.0)
        .with_title(format!("Cost against violations, world {world}"))
        .with_x_label("decision intervals above the objective, % (square-root scale)")
        .with_y_label(unit)
        .with_x_axis_min(left)
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
    for (label, (x, y)) in labels.iter().zip(label_places) {
        // The library writes a text six pixels above its place; four below the middle is a line's height.
        let (x, y) = in_data((x, y + 10.0));
        layout = layout.with_annotation(TextAnnotation::new(label, x, y).with_font_size(LABEL_PX));
    }
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

/// A staircase: each figure holds for its interval.
fn steps(points: &[TimelinePoint], figure: impl Fn(&TimelinePoint) -> f64) -> Vec<(f64, f64)> {
    let last = points.last().map(|point| (point.time_s, figure(point)));
    points.iter().map(|point| (point.from_s, figure(point))).chain(last).collect()
}

/// A line through the middles of the intervals.
fn middles(points: &[TimelinePoint], figure: impl Fn(&TimelinePoint) -> f64) -> Vec<(f64, f64)> {
    points.iter().map(|point| (0.5 * (point.from_s + point.time_s), figure(point))).collect()
}

/// One panel of a timeline: time of `span_s` from left to right, a figure from 0 to `top` upwards.
fn panel_layout(plots: &[Plot], label: &str, span_s: (f64, f64), top: f64) -> Layout {
    Layout::auto_from_plots(plots)
        .with_y_label(label)
        .with_x_axis_min(span_s.0)
        .with_x_axis_max(span_s.1)
        .with_y_axis_min(0.0)
        .with_y_axis_max(top)
        .with_y_tick_step(tick_step(top))
        .with_label_size(12)
        .with_tick_size(11)
        .with_legend_position(LegendPosition::InsideTopRight)
}

/// Red where the objective was missed, one region per stretch of intervals.
fn with_violations(mut layout: Layout, points: &[TimelinePoint]) -> Layout {
    for stretch in points.chunk_by(|a, b| a.violated == b.violated) {
        if let ([first, ..], [.., last]) = (stretch, stretch)
            && first.violated
        {
            let region = ShadedRegion::vertical(first.from_s, last.time_s).with_color("#d62728").with_opacity(0.16);
            layout = layout.with_shaded_region(region);
        }
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
    let (from_s, to_s) = (first.points.first()?.from_s, first.points.last()?.time_s);
    let needed = middles(&first.points, |point| point.arrival_rate / records_per_executor.max(1.0));
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
    let (from_s, to_s) = (points.first()?.from_s, points.last()?.time_s);
    let colour = colour(timeline.kind);
    let rate: Vec<Plot> = vec![
        LinePlot::new()
            .with_data(middles(points, |point| point.arrival_rate / 1e3))
            .with_color(GREY)
            .with_fill()
            .with_fill_opacity(0.25)
            .with_stroke_width(1.5)
            .into(),
    ];
    let plain = |figure: &dyn Fn(&TimelinePoint) -> f64, colour: &str, width: f64| {
        LinePlot::new().with_data(steps(points, figure)).with_color(colour).with_step().with_stroke_width(width)
    };
    let line = |figure: &dyn Fn(&TimelinePoint) -> f64, colour: &str, label: &str, width: f64| -> Plot {
        plain(figure, colour, width).with_legend(label).into()
    };
    let mut executors = vec![
        line(&|point| f64::from(point.target), SKY, "asked for", 1.5),
        line(&|point| f64::from(point.running), colour, "running", 2.0),
    ];
    if points.iter().any(|point| point.warm > 0) {
        executors.push(line(&|point| f64::from(point.warm), GREY, "kept warm", 1.5));
    }
    let latency: Vec<Plot> = vec![plain(&|point| point.p95_ms / 1e3, colour, 2.0).into()];
    let most = |figure: &dyn Fn(&TimelinePoint) -> f64| points.iter().map(figure).fold(0.0, f64::max);
    let dress = |plots: &[Plot], label: &str, top: f64| {
        with_violations(panel_layout(plots, label, (from_s, to_s), top), points)
    };
    let slowest_s = most(&|point| point.p95_ms / 1e3).max(slo_p95_ms / 1e3);
    let layouts = vec![
        dress(&rate, "thousand records/s", 1.1 * most(&|point| point.arrival_rate / 1e3).max(1e-3)),
        dress(
            &executors,
            "executors",
            (2.0 * most(&|point| f64::from(point.target.max(point.running).max(point.warm)))).ceil().max(2.0),
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

/// A recorded run beside its replay in the world: rate, executors, latency.
pub fn twin(run: &TwinRun, interval_s: u32) -> Option<Picture> {
    let intervals = &run.intervals;
    let (first, last) = (intervals.first()?, intervals.last()?);
    let (from_s, to_s) = (f64::from(first.from_s), f64::from(last.from_s + interval_s));
    let line = |figure: &dyn Fn(&TwinInterval) -> f64, colour: &str, label: &str, width: f64| -> Plot {
        let points = intervals.iter().map(|interval| (f64::from(interval.from_s), figure(interval)));
        let points: Vec<(f64, f64)> = points.chain([(to_s, figure(last))]).collect();
        LinePlot::new()
            .with_data(points)
            .with_color(colour)
            .with_step()
            .with_stroke_width(width)
            .with_legend(label)
            .into()
    };
    let most = |figure: &dyn Fn(&TwinInterval) -> f64| intervals.iter().map(figure).fold(0.0, f64::max);
    let rate = |interval: &TwinInterval| interval.arrived / f64::from(interval_s);
    let rates = vec![line(&rate, GREY, "arrivals", 1.5)];
    let executors = vec![
        line(&|interval| f64::from(interval.target), SKY, "asked for", 1.5),
        line(&|interval| interval.real.running, BLUE, "running, real", 2.0),
        line(&|interval| interval.world.running, ORANGE, "running, world", 1.5),
    ];
    let latency = vec![
        line(&|interval| interval.real.p95_ms / 1e3, BLUE, "real", 2.0),
        line(&|interval| interval.world.p95_ms / 1e3, ORANGE, "world", 1.5),
    ];
    let dress = |plots: &[Plot], label: &str, top: f64| panel_layout(plots, label, (from_s, to_s), top);
    let fleet =
        |interval: &TwinInterval| f64::from(interval.target).max(interval.real.running).max(interval.world.running);
    let slowest_s = most(&|interval| interval.real.p95_ms.max(interval.world.p95_ms) / 1e3).max(run.slo_p95_ms / 1e3);
    let layouts = vec![
        dress(&rates, "records/s", 1.2 * most(&rate).max(1.0)),
        dress(&executors, "executors", (1.4 * most(&fleet)).ceil().max(2.0)),
        dress(&latency, "p95 latency, s", 1.1 * slowest_s)
            .with_reference_line(
                ReferenceLine::horizontal(run.slo_p95_ms / 1e3).with_color("#d62728").with_label("objective"),
            )
            .with_x_label("seconds"),
    ];
    let scene = Figure::new(3, 1)
        .with_plots(vec![rates, executors, latency])
        .with_layouts(layouts)
        .with_cell_size(860.0, 210.0)
        .with_spacing(4.0)
        .with_title(format!("{}: {} as recorded and in the world", run.name, run.player))
        .with_title_size(17)
        .with_keep_panel_legends()
        .render();
    let caption = format!(
        "{}: policy {} as recorded and replayed in the world with the same arrivals and the same desired state.",
        run.name, run.player
    );
    Some(Picture::new(format!("twin-{}", run.name), caption, scene))
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
    let from_s = (onset_s - window_s / 3.0).min(last.time_s - window_s).max(first.from_s);
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
         bootstrap intervals of the paired differences. Right of zero: more violations, or more cost, without it."
    );
    Some(Picture::new(format!("ablations-{world}"), caption, scene))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(index: usize, arrival_rate: f64, violated: bool) -> TimelinePoint {
        let from_s = 5.0 * index as f64;
        TimelinePoint {
            from_s,
            time_s: from_s + 5.0,
            arrival_rate,
            running: 3,
            target: 4,
            warm: 0,
            p95_ms: 900.0,
            violated,
            backlog_records: 0.0,
            cost_usd: 0.01,
        }
    }

    #[test]
    fn labels_of_a_crowd_do_not_cover_each_other() {
        let labels: Vec<String> = (0..6).map(|index| format!("player-number-{index}")).collect();
        let places: Vec<(f64, f64)> = (0..6).map(|index| (10.0, 300.0 + 4.0 * f64::from(index))).collect();
        let legend = Rect { x: 700.0, y: 0.0, width: 100.0, height: 100.0 };
        let placed = place_labels(&labels, &places, &places, &[], legend);
        for first in 0..6 {
            for second in first + 1..6 {
                let [a, b] = [first, second].map(|index| Rect::of_label(&labels[index], placed[index]));
                assert_eq!(a.overlap(&b), 0.0, "{first} and {second}: {placed:?}");
            }
        }
    }

    #[test]
    fn the_window_holds_the_steepest_rise() {
        let points: Vec<TimelinePoint> = (0..240)
            .map(|index| point(index, if (100..120).contains(&index) { 9_000.0 } else { 1_000.0 }, false))
            .collect();
        let (from_s, to_s) = burst_window(&points, 300.0);
        assert!(from_s < 500.0 && to_s > 600.0 && (to_s - from_s - 300.0).abs() < 1e-9, "{from_s} to {to_s}");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!([0.23, 9.0, 20.0, 3_000.0].map(tick_step), [0.05, 2.0, 5.0, 1_000.0]);
    }

    #[test]
    fn a_timeline_is_drawn_in_both_formats_and_shades_what_was_missed() {
        let folder = tempfile::tempdir().unwrap();
        let shown = |violated: bool| Timeline {
            player: "hpa".to_string(),
            kind: Kind::Rule,
            points: (0..20).map(|index| point(index, 1_000.0, violated && index > 9)).collect(),
        };
        let shaded =
            |violated: bool| timeline("shock", &shown(violated), 3_000.0).unwrap().svg().matches("#d62728").count();
        assert!(shaded(true) > shaded(false));
        timelines("shock", &[shown(true), shown(false)], 5_000.0).unwrap().write(folder.path()).unwrap();
        let png = std::fs::read(folder.path().join("timelines.png")).unwrap();
        assert_eq!(&png[1..4], b"PNG");
    }

    #[test]
    fn a_learning_curve_is_read_and_what_is_wrong_in_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ppo.csv");
        std::fs::write(&path, format!("{CURVE_HEADER}\n1,1000,-5,0.2,9\n2,1000,-6,0.3,8\n1,2000,-1,0.0,7\n")).unwrap();
        let curve = LearningCurve::read(&path).unwrap();
        assert_eq!(curve.name, "ppo");
        assert_eq!(curve.points[&1000][1], [0.2, 0.3]);
        assert!(learning_curves(&[curve]).is_some());
        std::fs::write(&path, format!("{CURVE_HEADER}\n1,many,-5,0.2,9\n")).unwrap();
        let error = LearningCurve::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("line 2: got `1,many,-5,0.2,9`, expected five figures"), "{error}");
    }
}
