//! `petrel verify`: is everything that a device saw acknowledged in the sink, once?

use super::print;
use super::spark::SparkFolder;
use crate::error::CommandError;
use crate::table::{grouped, two_columns};
use clap::Args;
use petrel_core::InvalidValue;
use petrel_core::seqset::SeqSet;
use petrel_edge::ledger::Ledger;
use petrel_engine::sink;
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `petrel verify`.
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// Directory of the job; while the job runs, what is on its way counts as lost
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Devices in the ledger.
    pub(crate) devices: u64,
    /// Records that a device saw acknowledged.
    pub(crate) acknowledged: u64,
    /// Different records in the sink.
    pub(crate) in_sink: u64,
    /// Records that the engine refused, with a reason, and that are not in the sink.
    pub(crate) refused: u64,
    /// Acknowledged and neither in the sink nor refused.
    pub(crate) lost: u64,
    /// In the sink more than once.
    pub(crate) doubled: u64,
    /// Sequence numbers below the highest one of a device of the ledger that are neither in the sink nor refused.
    pub(crate) gaps: u64,
}

impl Check {
    fn is_in_order(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.gaps == 0
    }
}

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    let check = check(&args.data_dir)?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&check).unwrap_or_default()));
    } else {
        print(&two_columns(&[
            ("devices", grouped(check.devices)),
            ("acknowledged to devices", grouped(check.acknowledged)),
            ("in the sink", grouped(check.in_sink)),
            ("refused with a reason", grouped(check.refused)),
            ("lost", grouped(check.lost)),
            ("doubled", grouped(check.doubled)),
            ("gaps", grouped(check.gaps)),
        ]));
    }
    Ok(if check.is_in_order() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares the fleet's ledger with the committed files of the sink.
pub(crate) fn check(data_dir: &Path) -> Result<Check, CommandError> {
    let ledger_dir = data_dir.join("ledger");
    if !ledger_dir.is_dir() {
        let expected = "a data directory of `petrel up` with devices of its own (it has a folder `ledger`)";
        return Err(InvalidValue::new("--data-dir", data_dir.display(), expected).into());
    }
    let ledger = Ledger::read(&ledger_dir)?;
    let mut settled = HashMap::new();
    let mut check = Check { devices: ledger.len() as u64, ..read_sink(data_dir, &mut settled)? };
    let nothing = SeqSet::new();
    for (device_id, acknowledged) in &ledger {
        let here = settled.get(device_id).unwrap_or(&nothing);
        check.acknowledged += acknowledged.len();
        check.lost += acknowledged.len() - acknowledged.intersection_len(here);
        check.gaps += here.max().unwrap_or(0).saturating_sub(here.len());
    }
    Ok(check)
}

/// Reads the committed files: counts in the sink, and per device what is in the sink or refused.
pub(crate) fn read_sink(data_dir: &Path, settled: &mut HashMap<String, SeqSet>) -> Result<Check, CommandError> {
    let mut check = Check::default();
    let mut count = |device_id: &str, seq| {
        if insert(settled, device_id, seq) {
            check.in_sink += 1;
        } else {
            check.doubled += 1;
        }
    };
    let spark = SparkFolder::of(data_dir);
    if spark.is_there() {
        // What Spark refuses goes to the dead-letter topic alone.
        sink::for_each_spark_identity(&spark.sink(), count)?;
        return Ok(check);
    }
    sink::for_each_identity(data_dir, &mut count)?;
    sink::for_each_dead_letter_identity(data_dir, |device_id, seq| {
        check.refused += u64::from(insert(settled, device_id, seq));
    })?;
    Ok(check)
}

/// False when it was there already.
fn insert(settled: &mut HashMap<String, SeqSet>, device_id: &str, seq: u64) -> bool {
    // A name is copied once per device, not once per record.
    if let Some(here) = settled.get_mut(device_id) {
        return here.insert(seq);
    }
    settled.entry(device_id.to_string()).or_default().insert(seq)
}
