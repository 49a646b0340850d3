//! What does `petrel arena forecast` do? Judges every forecaster on the test parts of the traces and writes what rivals from
//! other libraries need to be judged at the same origins (`bench/forecast_rivals.py`).
//!
//! | file | one row per |
//! |---|---|
//! | `forecasts.csv` | trace, forecaster and horizon: pinball losses over the mean rate, coverage of the 80 % interval |
//! | `onsets.csv` | synthetic family: bursts seen, lead time, false alarms |
//! | `windows.csv` | origin for the rivals: outcomes and the seconds before |
//! | `at_origins.csv` | origin, forecaster and horizon: the quantiles |

use crate::csv::{cell, rounded, write};
use crate::error::ArenaError;
use crate::forecasts::{MIXTURE, Part, Report, Series, evaluate, write_windows};
use crate::stats::mean;
use crate::tables::text_table;
use crate::tournament::{Progress, Tell};
use petrel_core::HORIZONS_S;
use petrel_core::trace::RateTrace;
use petrel_forecast::ForecastSettings;
use petrel_sim::traces::{TraceError, TraceSet, TraceSettings, load_file};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// First seed of the synthetic series that judge.
const TEST_SEED: u64 = 1_000;

/// Settings of `petrel arena forecast`.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecastRun {
    /// Folder of recorded traces; synthetic families only without one.
    pub traces: Option<PathBuf>,
    /// Series per synthetic family.
    pub seeds: u64,
    /// Origins per trace at which rivals are judged.
    pub origins: usize,
    /// Threads; as many as there are processors when 0.
    pub threads: usize,
    /// Folder of the results.
    pub out: PathBuf,
}

impl Default for ForecastRun {
    fn default() -> Self {
        Self { traces: None, seeds: 2, origins: 200, threads: 0, out: PathBuf::from("petrel-forecasts") }
    }
}

/// Judges all forecasters, writes the folder and returns a table for the terminal.
///
/// # Errors
/// [`ArenaError`] names a trace that cannot be read, or a file that cannot be written.
pub fn forecast(settings: &ForecastRun, tell: Tell<'_>) -> Result<String, ArenaError> {
    if settings.seeds == 0 || settings.origins == 0 {
        return Err(ArenaError::invalid("seeds or origins", 0, "at least 1 of each"));
    }
    let mut series = match &settings.traces {
        Some(folder) => recorded(folder)?,
        None => Vec::new(),
    };
    series.extend(Series::all_synthetic(TEST_SEED..TEST_SEED + settings.seeds));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(settings.threads)
        .build()
        .map_err(|source| ArenaError::Threads { threads: settings.threads, source })?;
    std::fs::create_dir_all(&settings.out).map_err(ArenaError::io("cannot make", &settings.out))?;
    tell(Progress::Stage("forecasting"));
    let report = pool.install(|| evaluate(&series, Part::Test, ForecastSettings::default(), settings.origins));
    tell(Progress::Stage("writing"));
    let file = |name: &str, text: String| write(&settings.out.join(name), text.as_bytes());
    file("forecasts.csv", scores_csv(&report))?;
    file("onsets.csv", onsets_csv(&report))?;
    file("at_origins.csv", at_origins_csv(&report))?;
    let path = settings.out.join("windows.csv");
    let windows = std::fs::File::create(&path).map_err(ArenaError::io("cannot write", &path))?;
    let mut windows = BufWriter::new(windows);
    write_windows(&series, settings.origins, &mut windows)
        .and_then(|()| std::io::Write::flush(&mut windows))
        .map_err(ArenaError::io("cannot write", &path))?;
    Ok(text(&report))
}

/// Every trace of a folder, in the order of the names; files that do not begin as a trace are passed over.
fn recorded(folder: &Path) -> Result<Vec<Series>, ArenaError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ArenaError::io("cannot read", folder))? {
        let path = entry.map_err(ArenaError::io("cannot read", folder))?.path();
        let name = path.to_string_lossy();
        if name.ends_with(".csv") || name.ends_with(".csv.gz") {
            paths.push(path);
        }
    }
    paths.sort();
    let set = TraceSet::load(folder, TraceSettings::default())?;
    let is_trace = |trace: &RateTrace| set.recorded().iter().any(|known| known.name == trace.name);
    let mut series = Vec::new();
    for path in paths {
        match load_file(&path) {
            Ok(trace) if is_trace(&trace) => series.push(Series::recorded(&trace)),
            Ok(_) => {}
            // What the set passed over is not a trace.
            Err(TraceError::Invalid(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(series)
}

fn scores_csv(report: &Report) -> String {
    let mut text =
        "trace,forecaster,horizon_s,loss,loss_q10,loss_q50,loss_q90,coverage,below,above,origins\n".to_string();
    for score in &report.scores {
        let [low, median, high] = score.pinball;
        let figures =
            [score.loss(), low, median, high, score.coverage, score.below, score.above].map(rounded).join(",");
        text.push_str(&format!(
            "{},{},{},{figures},{}\n",
            cell(&score.trace),
            score.forecaster,
            score.horizon_s,
            score.origins
        ));
    }
    text
}

fn onsets_csv(report: &Report) -> String {
    let mut text = "trace,bursts,seen,seen_share,lead_s,false_alarms_per_hour\n".to_string();
    for onset in &report.onsets {
        let share = if onset.bursts == 0 { f64::NAN } else { f64::from(onset.seen) / f64::from(onset.bursts) };
        let figures = [share, onset.lead_s, onset.false_alarms_per_hour].map(rounded).join(",");
        text.push_str(&format!("{},{},{},{figures}\n", onset.trace, onset.bursts, onset.seen));
    }
    text
}

fn at_origins_csv(report: &Report) -> String {
    let mut text = "trace,seed,origin_s,forecaster,horizon_s,q10,q50,q90\n".to_string();
    for one in &report.at_origins {
        for (row, horizon_s) in one.table.iter().zip(HORIZONS_S) {
            let [low, median, high] = row;
            text.push_str(&format!(
                "{},{},{},{},{horizon_s},{low},{median},{high}\n",
                cell(&one.trace),
                one.seed,
                one.origin_s,
                one.forecaster
            ));
        }
    }
    text
}

/// Mean losses over traces, coverage of what is published, and onsets.
fn text(report: &Report) -> String {
    let mut forecasters: Vec<&str> = Vec::new();
    for score in &report.scores {
        if !forecasters.contains(&score.forecaster) {
            forecasters.push(score.forecaster);
        }
    }
    let of = |forecaster: &str, horizon_s: u32, figure: &dyn Fn(&crate::forecasts::Score) -> f64| {
        let own = report.scores.iter().filter(|score| score.forecaster == forecaster && score.horizon_s == horizon_s);
        mean(&own.map(figure).collect::<Vec<f64>>())
    };
    let horizons: Vec<String> = HORIZONS_S.iter().map(|horizon_s| format!("{horizon_s} s")).collect();
    let mut header = vec!["pinball loss over mean rate"];
    header.extend(horizons.iter().map(String::as_str));
    let row = |name: &str, cells: &dyn Fn(u32) -> String| {
        let mut row = vec![name.to_string()];
        row.extend(HORIZONS_S.iter().map(|horizon_s| cells(*horizon_s)));
        row
    };
    let mut rows: Vec<Vec<String>> = forecasters
        .iter()
        .map(|name| row(name, &|horizon_s| format!("{:.4}", of(name, horizon_s, &|score| score.loss()))))
        .collect();
    rows.push(row("coverage of the mixture, %", &|horizon_s| {
        format!("{:.1}", 100.0 * of(MIXTURE, horizon_s, &|score| score.coverage))
    }));
    let losses = text_table(&header, &rows);
    let onsets: Vec<Vec<String>> = report
        .onsets
        .iter()
        .map(|onset| {
            vec![
                onset.trace.clone(),
                format!("{} of {}", onset.seen, onset.bursts),
                if onset.seen == 0 { "-".to_string() } else { format!("{:.1}", onset.lead_s) },
                format!("{:.2}", onset.false_alarms_per_hour),
            ]
        })
        .collect();
    format!("{losses}\n{}", text_table(&["onsets", "seen", "lead s", "false alarms/h"], &onsets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_for_people_and_for_the_rivals_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let traces = folder.path().join("traces");
        std::fs::create_dir(&traces).unwrap();
        let rows: String = (0..1_200).map(|second| format!("{second},{}\n", 50 + second % 60)).collect();
        std::fs::write(traces.join("saw.csv"), format!("bin_start_s,count\n{rows}")).unwrap();
        std::fs::write(traces.join("notes.csv"), "who,what\n").unwrap();
        let out = folder.path().join("out");
        let settings = ForecastRun { traces: Some(traces), seeds: 1, origins: 4, threads: 2, out: out.clone() };
        let said = forecast(&settings, &|_| {}).unwrap();
        assert!(said.contains("mixture") && said.contains("flash-crowd"), "{said}");
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        let scores = read("forecasts.csv");
        assert!(scores.lines().skip(1).any(|line| line.starts_with("saw,mixture,5,")), "{scores}");
        let columns = |text: &str| text.lines().map(|line| line.split(',').count()).collect::<Vec<usize>>();
        assert!(columns(&scores).iter().all(|count| *count == 11));
        // Four origins of the saw and of each of the six families, every forecaster, five horizons.
        let forecasters = scores.lines().filter(|line| line.starts_with("saw,") && line.contains(",5,")).count();
        assert!(forecasters > 3);
        assert_eq!(read("windows.csv").lines().count(), 1 + 7 * 4);
        assert!(read("at_origins.csv").lines().skip(1).any(|line| line.starts_with("saw,0,")));
        assert!(read("onsets.csv").lines().count() > 6);
    }
}
