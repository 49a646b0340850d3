//! How good are the forecasts? Rolling-origin evaluation of every forecaster on recorded and synthetic series.
//!
//! A [`Series`] has one rate per second. Every forecaster runs through it from its first second, as a gateway would, and
//! is judged on the last quarter only (the first 60 % are there to learn from, the next 15 % to choose settings by).
//! Losses are divided by the mean rate of the series, so that they can be averaged over traces; synthetic families
//! come in several seeds, which are averaged first.

use petrel_core::trace::{Burst, CoxProcess, Family, RateTrace};
use petrel_forecast::ensemble::EXPERTS;
use petrel_forecast::{ForecastSettings, Forecaster, Regime};
use rayon::prelude::*;
use serde::Serialize;
use std::io::{self, Write};

/// Seconds that a rival may see at each origin.
pub const RIVAL_WINDOW_S: usize = 480;
/// Quiet rate of the synthetic series, records/s: what one gateway of four sees in `petrel up`.
const SYNTHETIC_RATE: f64 = 2_000.0;
/// Length of a synthetic series, seconds.
const SYNTHETIC_S: u32 = 7_200;
/// Spread of the rate factor of the synthetic arrivals, as in the device fleet.
const SYNTHETIC_SPREAD: f64 = 0.1;
/// Seconds of a day.
const DAY_S: f64 = 86_400.0;

/// A series of arrivals, one value per second.
#[derive(Debug, Clone)]
pub struct Series {
    /// Trace or family; losses are averaged over its series first.
    pub trace: String,
    /// Which of the trace's series: the seed, 0 for recorded ones.
    pub seed: u64,
    /// Records in each second.
    pub rates: Vec<f64>,
    /// Length of its day, seconds.
    pub season_s: u32,
    /// Known bursts; empty for recorded traces.
    pub bursts: Vec<Burst>,
}

/// Which part of a series is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Seconds between 60 % and 75 %: settings are chosen by these.
    Validate,
    /// The last quarter.
    Test,
}

impl Series {
    /// A recorded trace, compressed in time so that one bin is one second: a trace with bins of 300 s has a day of 288 s.
    pub fn recorded(trace: &RateTrace) -> Self {
        Self {
            trace: trace.name.clone(),
            seed: 0,
            rates: trace.rates.iter().map(|rate| (rate * trace.bin_s).round()).collect(),
            season_s: (DAY_S / trace.bin_s).round() as u32,
            bursts: Vec::new(),
        }
    }

    /// Two hours of a synthetic family with the arrivals of one gateway.
    pub fn synthetic(family: Family, seed: u64) -> Self {
        let trace = RateTrace::synthetic(family, SYNTHETIC_RATE, SYNTHETIC_S, seed);
        let mut arrivals = CoxProcess::new(SYNTHETIC_SPREAD, seed ^ 0xfeed);
        let count = |second: u32| {
            let second = f64::from(second);
            arrivals.count(trace.rate_at(second), second, 1.0) as f64
        };
        Self {
            trace: trace.name.clone(),
            seed,
            rates: (0..SYNTHETIC_S).map(count).collect(),
            season_s: if family == Family::Diurnal { 600 } else { DAY_S as u32 },
            bursts: trace.bursts,
        }
    }

    /// Every synthetic family with every seed.
    pub fn all_synthetic(seeds: std::ops::Range<u64>) -> Vec<Self> {
        let of_family = |family| seeds.clone().map(move |seed| Self::synthetic(family, seed));
        Family::ALL.into_iter().flat_map(of_family).collect()
    }

    /// Mean over the whole series, records/s; at least a tiny positive number.
    pub fn mean_rate(&self) -> f64 {
        (self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64).max(1e-9)
    }

    /// Seconds of `part` from which every horizon still has an outcome.
    pub fn origins(&self, part: Part) -> std::ops::Range<usize> {
        let at = |share: f64| (share * self.rates.len() as f64) as usize;
        let longest_s = petrel_core::HORIZONS_S.into_iter().max().unwrap_or(0) as usize;
        match part {
            Part::Validate => at(0.6)..at(0.75).saturating_sub(longest_s),
            Part::Test => at(0.75)..self.rates.len().saturating_sub(longest_s),
        }
    }

    /// At most `count` origins of `part`, evenly spread.
    pub fn spread_origins(&self, part: Part, count: usize) -> Vec<usize> {
        let range = self.origins(part);
        let chosen = count.min(range.len());
        (0..chosen).map(|index| range.start + index * range.len() / chosen).collect()
    }
}

/// Writes what a rival needs to forecast at exactly the same origins: one row per origin with the outcomes and the
/// [`RIVAL_WINDOW_S`] seconds up to and including the origin, separated by spaces, oldest first.
///
/// # Errors
/// Those of the writer.
pub fn write_windows(series: &[Series], origins_per_trace: usize, out: &mut impl Write) -> io::Result<()> {
    let columns: Vec<String> =
        petrel_core::HORIZONS_S.iter().map(|horizon_s| format!("outcome_{horizon_s}s")).collect();
    writeln!(out, "trace,seed,origin_s,mean_rate,{},window", columns.join(","))?;
    for one in series {
        for origin in one.spread_origins(Part::Test, origins_of(series, one, origins_per_trace)) {
            let outcomes: Vec<String> = petrel_core::HORIZONS_S
                .iter()
                .map(|horizon_s| one.rates[origin + *horizon_s as usize].to_string())
                .collect();
            let window: Vec<String> =
                one.rates[(origin + 1).saturating_sub(RIVAL_WINDOW_S)..=origin].iter().map(f64::to_string).collect();
            let (outcomes, window) = (outcomes.join(","), window.join(" "));
            writeln!(out, "{},{},{origin},{},{outcomes},{window}", one.trace, one.seed, one.mean_rate())?;
        }
    }
    Ok(())
}

/// Origins that fall to one series when its trace gets `origins_per_trace`.
fn origins_of(series: &[Series], one: &Series, origins_per_trace: usize) -> usize {
    let siblings = series.iter().filter(|other| other.trace == one.trace).count();
    origins_per_trace.div_ceil(siblings.max(1))
}

/// The name of what gateways publish.
pub const MIXTURE: &str = "mixture";
/// The mixture before calibration.
pub const UNCALIBRATED: &str = "mixture-uncalibrated";
const LEVELS: [f64; 3] = petrel_core::QUANTILES;
const HORIZONS: usize = petrel_core::HORIZONS_S.len();
/// An alarm this long after a burst has begun to fall still belongs to it, seconds.
const ALARM_GRACE_S: f64 = 5.0;

/// How one forecaster did at one horizon.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// Trace or family.
    pub trace: String,
    /// An expert, [`MIXTURE`] or [`UNCALIBRATED`].
    pub forecaster: &'static str,
    /// Horizon, seconds.
    pub horizon_s: u32,
    /// Mean pinball loss of the 0.1, 0.5 and 0.9 quantile over the mean rate.
    pub pinball: [f64; 3],
    /// Share of outcomes within the 0.1 and 0.9 quantile, both included.
    pub coverage: f64,
    /// Share of outcomes below the 0.1 quantile.
    pub below: f64,
    /// Share of outcomes above the 0.9 quantile.
    pub above: f64,
    /// Forecasts judged.
    pub origins: u64,
}

impl Score {
    /// Mean over the three quantiles.
    pub fn loss(&self) -> f64 {
        self.pinball.iter().sum::<f64>() / LEVELS.len() as f64
    }
}

/// How onsets were seen on a family with known bursts.
#[derive(Debug, Clone, Serialize)]
pub struct OnsetScore {
    /// Family.
    pub trace: String,
    /// Bursts that began in the judged part.
    pub bursts: u32,
    /// Bursts with an alarm between their onset and three seconds after their peak.
    pub seen: u32,
    /// Mean time from the alarm to the peak over the bursts seen, seconds; negative: after the peak.
    pub lead_s: f64,
    /// Alarms outside of bursts.
    pub false_alarms_per_hour: f64,
}

/// One forecast at one of the rivals' origins.
#[derive(Debug, Clone)]
pub struct AtOrigin {
    /// Trace or family.
    pub trace: String,
    /// Seed of the series.
    pub seed: u64,
    /// Second of the forecast.
    pub origin_s: usize,
    /// As [`Score::forecaster`].
    pub forecaster: &'static str,
    /// Quantiles by horizon, records/s.
    pub table: [[f64; 3]; HORIZONS],
}

/// Everything that one evaluation finds.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One per trace, forecaster and horizon.
    pub scores: Vec<Score>,
    /// One per synthetic family with bursts or without (then only its false alarms say something).
    pub onsets: Vec<OnsetScore>,
    /// Forecasts at the rivals' origins (test part only).
    pub at_origins: Vec<AtOrigin>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    pinball: [f64; 3],
    below: f64,
    above: f64,
}

#[derive(Debug, Default)]
struct SeriesSums {
    /// Forecaster-major, then horizons.
    sums: Vec<[Sums; HORIZONS]>,
    origins: f64,
    bursts: u32,
    seen: u32,
    lead_s: f64,
    false_alarms: f64,
    judged_s: f64,
    at_origins: Vec<AtOrigin>,
}

fn forecasters() -> Vec<&'static str> {
    EXPERTS.into_iter().chain([UNCALIBRATED, MIXTURE]).collect()
}

fn pinball(outcome: f64, quantile: f64, level: f64) -> f64 {
    let error = outcome - quantile;
    (level * error).max((level - 1.0) * error)
}

/// Runs the forecaster of a gateway, with the season of each series, through all `series` (in parallel) and judges every
/// second of `part`; also every expert by itself.
pub fn evaluate(series: &[Series], part: Part, settings: ForecastSettings, origins_per_trace: usize) -> Report {
    let sums: Vec<SeriesSums> = series
        .par_iter()
        .map(|one| run(one, part, settings, &one.spread_origins(part, origins_of(series, one, origins_per_trace))))
        .collect();
    let mut traces: Vec<&str> = series.iter().map(|one| one.trace.as_str()).collect();
    traces.dedup();
    let mut report = Report::default();
    for trace in traces {
        let of_trace: Vec<&SeriesSums> =
            series.iter().zip(&sums).filter(|(one, _)| one.trace == trace).map(|(_, sums)| sums).collect();
        report.scores.extend(scores(trace, &of_trace));
        let is_synthetic = trace.parse::<Family>().is_ok();
        report.onsets.extend(is_synthetic.then(|| onset_score(trace, &of_trace)));
    }
    report.at_origins = sums.into_iter().flat_map(|one| one.at_origins).collect();
    report
}

fn run(series: &Series, part: Part, settings: ForecastSettings, rival_origins: &[usize]) -> SeriesSums {
    let names = forecasters();
    let mut forecaster = Forecaster::new(ForecastSettings { season_s: series.season_s, ..settings });
    let judged = series.origins(part);
    let scale = 1.0 / series.mean_rate();
    let mut result = SeriesSums { sums: vec![Default::default(); names.len()], ..SeriesSums::default() };
    let mut alarms = Vec::new();
    let mut before = Regime::Quiet;
    for (second, rate) in series.rates.iter().enumerate().take(judged.end) {
        forecaster.observe(second as i64 * 1_000, *rate);
        let regime = forecaster.regime();
        if regime == Regime::Climb && before != Regime::Climb && judged.contains(&second) {
            alarms.push(second as f64);
        }
        before = regime;
        if !judged.contains(&second) {
            continue;
        }
        result.origins += 1.0;
        let is_rival_origin = rival_origins.binary_search(&second).is_ok();
        for (place, sums) in result.sums.iter_mut().enumerate() {
            let table = table_of(&forecaster, place);
            for ((sums, row), horizon_s) in sums.iter_mut().zip(table).zip(petrel_core::HORIZONS_S) {
                let outcome = series.rates[second + horizon_s as usize];
                for ((sum, quantile), level) in sums.pinball.iter_mut().zip(row).zip(LEVELS) {
                    *sum += pinball(outcome, quantile, level) * scale;
                }
                sums.below += f64::from(outcome < row[0]);
                sums.above += f64::from(outcome > row[2]);
            }
            if is_rival_origin {
                let (trace, forecaster) = (series.trace.clone(), names[place]);
                result.at_origins.push(AtOrigin { trace, seed: series.seed, origin_s: second, forecaster, table });
            }
        }
    }
    judge_onsets(series, &judged, &alarms, &mut result);
    result
}

/// What the forecaster at `place` of [`forecasters`] says now.
fn table_of(forecaster: &Forecaster, place: usize) -> [[f64; 3]; HORIZONS] {
    let ensemble = forecaster.ensemble();
    let table = match ensemble.tables().get(place) {
        Some(table) => table,
        None if place == EXPERTS.len() => ensemble.mixed(),
        None => return forecaster.forecast(),
    };
    table.map(|[lower, median, upper, _]| [f64::from(lower), f64::from(median), f64::from(upper)])
}

fn judge_onsets(series: &Series, judged: &std::ops::Range<usize>, alarms: &[f64], result: &mut SeriesSums) {
    let (start_s, end_s) = (judged.start as f64, judged.end as f64);
    for burst in series.bursts.iter().filter(|burst| burst.onset_s >= start_s && burst.end_s < end_s) {
        result.bursts += 1;
        let last_s = burst.peak_s + 3.0;
        if let Some(alarm) = alarms.iter().find(|alarm| (burst.onset_s..=last_s).contains(*alarm)) {
            result.seen += 1;
            result.lead_s += burst.peak_s - alarm;
        }
    }
    let is_explained =
        |alarm: f64| series.bursts.iter().any(|burst| (burst.onset_s..=burst.end_s + ALARM_GRACE_S).contains(&alarm));
    result.false_alarms = alarms.iter().filter(|alarm| !is_explained(**alarm)).count() as f64;
    result.judged_s = end_s - start_s;
}

fn scores(trace: &str, of_trace: &[&SeriesSums]) -> Vec<Score> {
    let mut scores = Vec::new();
    for (place, forecaster) in forecasters().into_iter().enumerate() {
        for (index, horizon_s) in petrel_core::HORIZONS_S.into_iter().enumerate() {
            // Each series weighs the same.
            let mean = |of: &dyn Fn(&Sums) -> f64| {
                let shares = of_trace.iter().map(|one| of(&one.sums[place][index]) / one.origins.max(1.0));
                shares.sum::<f64>() / of_trace.len().max(1) as f64
            };
            let (below, above) = (mean(&|sums| sums.below), mean(&|sums| sums.above));
            scores.push(Score {
                trace: trace.to_string(),
                forecaster,
                horizon_s,
                pinball: [mean(&|sums| sums.pinball[0]), mean(&|sums| sums.pinball[1]), mean(&|sums| sums.pinball[2])],
                coverage: 1.0 - below - above,
                below,
                above,
                origins: of_trace.iter().map(|one| one.origins as u64).sum(),
            });
        }
    }
    scores
}

fn onset_score(trace: &str, of_trace: &[&SeriesSums]) -> OnsetScore {
    let seen: u32 = of_trace.iter().map(|one| one.seen).sum();
    let hours = of_trace.iter().map(|one| one.judged_s).sum::<f64>() / 3_600.0;
    OnsetScore {
        trace: trace.to_string(),
        bursts: of_trace.iter().map(|one| one.bursts).sum(),
        seen,
        lead_s: of_trace.iter().map(|one| one.lead_s).sum::<f64>() / f64::from(seen.max(1)),
        false_alarms_per_hour: of_trace.iter().map(|one| one.false_alarms).sum::<f64>() / hours.max(1e-9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(family: Family, seed: u64) -> Series {
        let mut series = Series::synthetic(family, seed);
        series.rates.truncate(2_400);
        series.bursts.retain(|burst| burst.end_s < 2_400.0);
        series
    }

    #[test]
    fn recorded_bins_become_seconds_and_their_day_shrinks_alike() {
        let trace = RateTrace::from_csv("t", "bin_start_s,count\n0,30\n300,60\n600,90\n").unwrap();
        let series = Series::recorded(&trace);
        assert_eq!((series.rates, series.season_s), (vec![30.0, 60.0, 90.0], 288));
    }

    #[test]
    fn only_origins_of_the_part_are_judged_and_each_has_every_outcome() {
        let series = short(Family::Steady, 1);
        assert_eq!(series.origins(Part::Validate), 1_440..1_680);
        assert_eq!(series.origins(Part::Test), 1_800..2_280);
        let spread = series.spread_origins(Part::Test, 100);
        assert_eq!((spread.len(), spread[0]), (100, 1_800));
        assert!(spread.windows(2).all(|pair| pair[0] < pair[1]) && spread[99] < 2_280);
    }

    #[test]
    fn losses_are_those_computed_by_hand_at_the_exported_origins() {
        let series = [short(Family::FlashCrowd, 5)];
        // Every second of the part is an origin of the rivals, so that both ways judge the same forecasts.
        let report = evaluate(&series, Part::Test, ForecastSettings::default(), 480);
        let scale = series[0].mean_rate();
        let of_last_value = report.at_origins.iter().filter(|one| one.forecaster == "last-value");
        let losses: Vec<f64> = of_last_value
            .map(|one| {
                let outcome = series[0].rates[one.origin_s + 15];
                let median = one.table[1][1];
                0.5 * (outcome - median).abs() / scale
            })
            .collect();
        let by_hand = losses.iter().sum::<f64>() / losses.len() as f64;
        let score =
            report.scores.iter().find(|score| score.forecaster == "last-value" && score.horizon_s == 15).unwrap();
        assert_eq!(losses.len(), 480);
        assert!((score.pinball[1] - by_hand).abs() < 1e-9, "{} {by_hand}", score.pinball[1]);
    }

    #[test]
    fn flash_crowds_are_seen_before_their_peak() {
        let report = evaluate(&[short(Family::FlashCrowd, 7)], Part::Test, ForecastSettings::default(), 10);
        let onset = &report.onsets[0];
        assert!(onset.bursts >= 3 && onset.seen == onset.bursts && onset.lead_s > 8.0, "{onset:?}");
        assert_eq!(report.at_origins.len(), (EXPERTS.len() + 2) * 10);
    }

    #[test]
    fn seeds_of_a_family_are_one_trace_and_windows_end_at_their_origin() {
        let series = [short(Family::Steady, 1), short(Family::Steady, 2)];
        let report = evaluate(&series, Part::Test, ForecastSettings::default(), 10);
        assert_eq!(report.scores.len(), (EXPERTS.len() + 2) * HORIZONS);
        let mut windows = Vec::new();
        write_windows(&series, 10, &mut windows).unwrap();
        let windows = String::from_utf8(windows).unwrap();
        assert_eq!(windows.lines().count(), 11);
        let first: Vec<&str> = windows.lines().nth(1).unwrap().split(',').collect();
        let window: Vec<&str> = first[9].split(' ').collect();
        assert_eq!((first[2], window.len()), ("1800", RIVAL_WINDOW_S));
        assert_eq!(window[RIVAL_WINDOW_S - 1].parse::<f64>().unwrap(), series[0].rates[1_800]);
        assert_eq!(first[4].parse::<f64>().unwrap(), series[0].rates[1_805]);
    }
}
