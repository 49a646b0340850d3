//! Which traces does one learn on, and which ones judge? Synthetic families and recorded traces, split so that nothing that is
//! tested on was ever learned on.
//!
//! - Synthetic families: other seeds for each [`Split`].
//! - Recorded traces: the first 60 % of the time train, the next 15 % validate, the rest tests. They are read from a directory
//!   of the user (`*.csv` or `*.csv.gz` with the header `bin_start_s,count`) and are never part of Petrel.
//!
//! Recorded traces are turned into one-second bins before they are played ([`playable`]):
//!
//! - A trace with fewer than [`TraceSettings::min_records_per_bin`] records per bin on average is smoothed over the last few
//!   bins that hold so many. Scaled to a load, it stands for many such sources, whose counting noise averages out.
//! - A trace with bins longer than [`TraceSettings::bin_play_s`] is played at one bin per so many seconds, linear from the
//!   middle of one bin to the next: its time is compressed (a five-minute bin at 10 s: thirtyfold).

use crate::queue::{Arrivals, QueueParams, auto_scale};
use flate2::read::MultiGzDecoder;
use petrel_core::trace::{Family, RateTrace};
use petrel_core::{InvalidValue, Limits};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What an episode may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Learning and tuning.
    Train,
    /// Choosing among what was learned.
    Validate,
    /// Judging; looked at once.
    Test,
}

impl Split {
    /// Part of a recorded trace's time, from and to as shares.
    pub fn part(self) -> (f64, f64) {
        match self {
            Split::Train => (0.0, 0.60),
            Split::Validate => (0.60, 0.75),
            Split::Test => (0.75, 1.0),
        }
    }
}

/// How traces are cut into episodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TraceSettings {
    /// Length of an episode, seconds.
    pub duration_s: usize,
    /// Seconds before an episode that the forecasters see; a recorded test window may look back into earlier parts.
    pub warmup_s: usize,
    /// Seconds that a longer bin is played in.
    pub bin_play_s: f64,
    /// Records per bin on average below which a trace is smoothed.
    pub min_records_per_bin: f64,
    /// Most windows per recorded trace that train.
    pub train_windows: usize,
    /// Most windows per recorded trace that validate.
    pub validate_windows: usize,
    /// Most windows per recorded trace that test.
    pub test_windows: usize,
    /// Traces per synthetic family that train.
    pub train_seeds: u64,
    /// Traces per synthetic family that validate.
    pub validate_seeds: u64,
    /// Traces per synthetic family that test.
    pub test_seeds: u64,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            duration_s: 600,
            warmup_s: QueueParams::default().signal.warmup_s as usize,
            bin_play_s: 10.0,
            min_records_per_bin: 10.0,
            train_windows: 24,
            validate_windows: 3,
            test_windows: 6,
            train_seeds: 8,
            validate_seeds: 2,
            test_seeds: 2,
        }
    }
}

/// One stretch of a trace to play.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Name of the trace and of the stretch in it, for example `nasa-http@923400`.
    pub name: String,
    /// Name of the trace alone: the row of a table.
    pub trace_name: String,
    /// Rates in one-second bins, unscaled; begins with the warm-up.
    pub trace: RateTrace,
    /// Second of `trace` at which the episode begins.
    pub offset_s: usize,
    /// Length of the episode, seconds.
    pub duration_s: usize,
    /// Mean rate of the whole trace that this is a stretch of, records/s: what it is scaled by.
    pub mean_rate: f64,
}

impl Episode {
    /// The stretch, scaled so that the mean of the whole trace becomes `mean_rate` records/s.
    pub fn scaled_to_mean(&self, mean_rate: f64) -> RateTrace {
        let factor = if self.mean_rate > 0.0 { mean_rate / self.mean_rate } else { 1.0 };
        self.trace.clone().scaled(factor)
    }

    /// Arrivals at the automatic scale ([`auto_scale`] of the whole trace) times `load`.
    pub fn arrivals(&self, params: &QueueParams, limits: &Limits, load: f64, seed: u64) -> Arrivals {
        Arrivals::prepare(&self.auto_scaled(params, limits, load), self.offset_s, self.duration_s, seed, params)
    }

    /// The stretch at the automatic scale times `load`.
    pub fn auto_scaled(&self, params: &QueueParams, limits: &Limits, load: f64) -> RateTrace {
        let whole = RateTrace { name: String::new(), bin_s: 1.0, rates: vec![self.mean_rate], bursts: Vec::new() };
        self.trace.clone().scaled(auto_scale(&whole, params, limits) * load)
    }
}

/// Why traces could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not a trace.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
}

/// Largest file that is read after unpacking, bytes.
const LARGEST_FILE: u64 = 1 << 30;
const HEADER: &str = "bin_start_s,count";

/// Reads one trace, plain or gzip-compressed (`.gz`), as it was recorded.
///
/// # Errors
/// [`TraceError`] with the path, or with the line and what was expected there.
pub fn load_file(path: &Path) -> Result<RateTrace, TraceError> {
    let text = read_text(path)?;
    Ok(RateTrace::from_csv(&trace_name(path), &text)?)
}

fn read_text(path: &Path) -> Result<String, TraceError> {
    let unreadable = |source| TraceError::Unreadable { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let read = if is_compressed {
        MultiGzDecoder::new(file).take(LARGEST_FILE).read_to_string(&mut text)
    } else {
        file.take(LARGEST_FILE).read_to_string(&mut text)
    };
    read.map_err(unreadable)?;
    Ok(text)
}

fn trace_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.trim_end_matches(".gz").trim_end_matches(".csv").to_string()
}

/// The trace in one-second bins as it is played; see the module's page for what is smoothed and what is compressed.
pub fn playable(trace: &RateTrace, settings: &TraceSettings) -> RateTrace {
    let records_per_bin = trace.mean_rate() * trace.bin_s;
    let window = if records_per_bin > 0.0 && records_per_bin < settings.min_records_per_bin {
        ((settings.min_records_per_bin / records_per_bin).ceil() as usize).min(trace.rates.len().max(1))
    } else {
        1
    };
    let rates = smooth(&trace.rates, window);
    let played_s = trace.bin_s.min(settings.bin_play_s);
    let seconds = (rates.len() as f64 * played_s).round().max(1.0) as usize;
    let last = rates.len().saturating_sub(1);
    let rates = if played_s == 1.0 {
        rates
    } else {
        (0..seconds)
            .map(|second| {
                // In bins, from the middle of the first one.
                let place = ((second as f64 + 0.5) / played_s - 0.5).clamp(0.0, last as f64);
                let (bin, share) = (place as usize, place.fract());
                let next = rates.get(bin + 1).or(rates.get(bin)).copied().unwrap_or(0.0);
                let here = rates.get(bin).copied().unwrap_or(0.0);
                here + share * (next - here)
            })
            .collect()
    };
    RateTrace { name: trace.name.clone(), bin_s: 1.0, rates, bursts: trace.bursts.clone() }
}

/// Mean of the last `window` bins.
fn smooth(rates: &[f64], window: usize) -> Vec<f64> {
    let mut before = Vec::with_capacity(rates.len() + 1);
    before.push(0.0);
    let mut total = 0.0;
    for rate in rates {
        total += rate;
        before.push(total);
    }
    (1..=rates.len())
        .map(|end| {
            let begin = end.saturating_sub(window);
            ((before[end] - before[begin]) / (end - begin) as f64).max(0.0)
        })
        .collect()
}

/// The traces of an experiment.
#[derive(Debug, Clone)]
pub struct TraceSet {
    settings: TraceSettings,
    recorded: Vec<RateTrace>,
}

impl TraceSet {
    /// Synthetic families only.
    pub fn synthetic(settings: TraceSettings) -> Self {
        Self { settings, recorded: Vec::new() }
    }

    /// Synthetic families and every recorded trace in `directory`, in the order of their names; files without the header of a
    /// trace are passed over.
    ///
    /// # Errors
    /// [`TraceError`] names the file that cannot be read and why.
    pub fn load(directory: &Path, settings: TraceSettings) -> Result<Self, TraceError> {
        let unreadable = |source| TraceError::Unreadable { path: directory.to_path_buf(), source };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.to_string_lossy();
            if name.ends_with(".csv") || name.ends_with(".csv.gz") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut set = Self::synthetic(settings);
        for path in paths {
            let text = read_text(&path)?;
            if text.starts_with(HEADER) {
                set.add(&RateTrace::from_csv(&trace_name(&path), &text)?);
            }
        }
        Ok(set)
    }

    /// Adds a recorded trace.
    pub fn add(&mut self, trace: &RateTrace) {
        self.recorded.push(playable(trace, &self.settings));
    }

    /// The recorded traces as they are played.
    pub fn recorded(&self) -> &[RateTrace] {
        &self.recorded
    }

    /// The settings.
    pub fn settings(&self) -> &TraceSettings {
        &self.settings
    }

    /// All episodes of a split: synthetic families first, then recorded traces.
    pub fn episodes(&self, split: Split) -> Vec<Episode> {
        let mut episodes = self.synthetic_episodes(split);
        for trace in &self.recorded {
            episodes.extend(self.windows(trace, split));
        }
        episodes
    }

    /// Episodes of the synthetic families of a split.
    pub fn synthetic_episodes(&self, split: Split) -> Vec<Episode> {
        let settings = &self.settings;
        let (first_seed, seeds) = match split {
            Split::Train => (1_000_000, settings.train_seeds),
            Split::Validate => (2_000_000, settings.validate_seeds),
            Split::Test => (3_000_000, settings.test_seeds),
        };
        // Families without chance (steady, diurnal) differ by where in their day they begin.
        const DAY_S: u64 = 600;
        let seconds = settings.warmup_s + settings.duration_s;
        let episode = |family: Family, seed: u64| {
            let begin = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % DAY_S;
            let mut trace = RateTrace::synthetic(family, 1_000.0, (begin as usize + seconds) as u32, seed);
            trace.rates.drain(..begin as usize);
            let shift = begin as f64;
            trace.bursts.retain_mut(|burst| {
                burst.onset_s -= shift;
                burst.peak_s -= shift;
                burst.end_s -= shift;
                burst.onset_s >= 0.0
            });
            Episode {
                name: format!("{family}@{seed}"),
                trace_name: family.name().to_string(),
                mean_rate: trace.mean_rate(),
                trace,
                offset_s: settings.warmup_s,
                duration_s: settings.duration_s,
            }
        };
        Family::ALL
            .into_iter()
            .flat_map(|family| (first_seed..first_seed + seeds.min(1_000_000)).map(move |seed| (family, seed)))
            .map(|(family, seed)| episode(family, seed))
            .collect()
    }

    /// Evenly spaced windows of the part of a recorded trace that belongs to `split`; at least one when the part has any
    /// second, which is shorter than asked for when the part is. Test and validation windows do not overlap.
    fn windows(&self, trace: &RateTrace, split: Split) -> Vec<Episode> {
        let settings = &self.settings;
        let seconds = trace.rates.len() as f64;
        let (from, to) = split.part();
        let begin = (from * seconds) as usize;
        let end = (to * seconds) as usize;
        // The beginning of a trace is warm-up, but never more than half of what there is to learn from.
        let begin = begin.max(settings.warmup_s.min((begin + end) / 2));
        let length = settings.duration_s.min(end.saturating_sub(begin));
        if length == 0 {
            return Vec::new();
        }
        let room = end - begin - length;
        let most = match split {
            // Windows that overlap by half still teach something new.
            Split::Train => settings.train_windows.min(1 + 2 * room / length),
            Split::Validate => settings.validate_windows.min(1 + room / length),
            Split::Test => settings.test_windows.min(1 + room / length),
        };
        let place = |index: usize| match most {
            1 => begin + room / 2,
            _ => begin + (room as f64 * index as f64 / (most - 1) as f64).round() as usize,
        };
        let mean_rate = trace.mean_rate();
        (0..most)
            .map(|index| {
                let start = place(index);
                let first = start.saturating_sub(settings.warmup_s);
                let rates = trace.rates[first..start + length].to_vec();
                Episode {
                    name: format!("{}@{start}", trace.name),
                    trace_name: trace.name.clone(),
                    trace: RateTrace { name: trace.name.clone(), bin_s: 1.0, rates, bursts: Vec::new() },
                    offset_s: start - first,
                    duration_s: length,
                    mean_rate,
                }
            })
            .collect()
    }
}
