//! `petrel verify`: is everything that a device saw acknowledged in the sink, once?

use crate::error::CommandError;
use crate::table::{grouped, two_columns};
use clap::Args;
use petrel_core::InvalidValue;
use petrel_core::seqset::SeqSet;
use petrel_edge::ledger::Ledger;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `petrel verify`.
#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// Directory of the job
    #[arg(long, env = "PETREL_DATA_DIR", default_value = "petrel-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// What the comparison found.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Check {
    /// Devices in the ledger.
    pub(crate) devices: u64,
    /// Records that a device saw acknowledged.
    pub(crate) acknowledged: u64,
    /// Different records in the sink.
    pub(crate) in_sink: u64,
    /// Acknowledged and not in the sink.
    pub(crate) lost: u64,
    /// In the sink more than once.
    pub(crate) doubled: u64,
    /// Sequence numbers missing in the sink below a device's highest one there.
    pub(crate) gaps: u64,
}

impl Check {
    fn in_order(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.gaps == 0
    }
}

pub(crate) fn run(args: &VerifyArgs) -> Result<ExitCode, CommandError> {
    crate::start_logging("warn");
    let check = check(&args.data_dir)?;
    if args.json {
        println!("{}", serde_json::to_string(&check).unwrap_or_default());
    } else {
        print!(
            "{}",
            two_columns(&[
                ("devices", grouped(check.devices)),
                ("acknowledged to devices", grouped(check.acknowledged)),
                ("in the sink", grouped(check.in_sink)),
                ("lost", grouped(check.lost)),
                ("doubled", grouped(check.doubled)),
                ("gaps", grouped(check.gaps)),
            ])
        );
    }
    Ok(if check.in_order() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Compares the fleet's ledger with the committed files of the sink.
pub(crate) fn check(data_dir: &Path) -> Result<Check, CommandError> {
    let ledger_dir = data_dir.join("ledger");
    if !ledger_dir.is_dir() {
        let expected = "a data directory of `petrel up` (it has a folder `ledger`)";
        return Err(InvalidValue::new("--data-dir", data_dir.display(), expected).into());
    }
    let ledger = Ledger::read(&ledger_dir)?;
    let mut check = Check { devices: ledger.len() as u64, ..Check::default() };
    let mut sink: BTreeMap<String, SeqSet> = BTreeMap::new();
    petrel_engine::sink::for_each_identity(data_dir, |device_id, seq| {
        if !sink.contains_key(device_id) {
            sink.insert(device_id.to_string(), SeqSet::new());
        }
        if let Some(seen) = sink.get_mut(device_id) {
            if seen.insert(seq) { check.in_sink += 1 } else { check.doubled += 1 }
        }
    })?;
    for (device_id, acknowledged) in &ledger {
        check.acknowledged += acknowledged.len();
        let empty = SeqSet::new();
        let seen = sink.get(device_id).unwrap_or(&empty);
        check.lost += acknowledged.len() - acknowledged.intersection_len(seen);
    }
    for seen in sink.values() {
        check.gaps += seen.max().unwrap_or(0) - seen.len();
    }
    Ok(check)
}
