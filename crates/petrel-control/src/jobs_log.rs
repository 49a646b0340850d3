//! What was decided for each of many jobs? One transactional file for all of them, one durable transaction a look.

use crate::decision_log::{Changes, Failure, LoggedDecision, Newest, decode, encode, in_one_transaction, with_effect};
use crate::error::ControlError;
use crate::job::Remembered;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// By name of the job and number of the decision.
const DECISIONS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("decisions");
/// Every job that was heard, by name.
const JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jobs");
/// Pages that are kept in memory: those that the next rows of ten thousand jobs go to.
const CACHE_BYTES: usize = 96 * 1024 * 1024;
/// Old rows that one new row takes with it at most, when a job's share of the log has become smaller.
const MOST_DROPPED: usize = 4;

/// What is kept of a job beside its decisions.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct JobRow {
    pin: Option<u32>,
}

/// A job that the log knows.
pub(crate) struct KnownJob {
    pub(crate) name: String,
    pub(crate) remembered: Remembered,
}

/// Changes of one job.
pub(crate) struct JobChanges<'a> {
    pub(crate) job: &'a str,
    pub(crate) changes: &'a Changes,
    /// Newest decisions that stay.
    pub(crate) rows_kept: u64,
}

/// The log of many jobs, `jobs.redb` in the data directory.
pub(crate) struct JobsLog {
    database: Database,
    path: PathBuf,
}

impl JobsLog {
    /// Opens the log in `directory`, or makes it. A log that was cut off by kill -9 is repaired.
    pub(crate) fn open(directory: &Path) -> Result<Self, ControlError> {
        let path = directory.join("jobs.redb");
        let refuse = |detail: String| ControlError::DecisionLog { path: path.display().to_string(), detail };
        std::fs::create_dir_all(directory).map_err(|error| refuse(error.to_string()))?;
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(&path).map_err(|error| refuse(error.to_string()))?;
        let log = Self { database, path };
        log.change(|transaction| {
            transaction.open_table(DECISIONS)?;
            transaction.open_table(JOBS)?;
            Ok(())
        })?;
        Ok(log)
    }

    /// Every job with its last decision. Rows that cannot be read are passed over with a warning: one job's must not keep all
    /// others from being steered.
    pub(crate) fn known(&self) -> Result<Vec<KnownJob>, ControlError> {
        let look = || -> Result<Vec<KnownJob>, Failure> {
            let transaction = self.database.begin_read()?;
            let (decisions, jobs) = (transaction.open_table(DECISIONS)?, transaction.open_table(JOBS)?);
            let mut known = Vec::new();
            for entry in jobs.iter()? {
                let (name, row) = entry?;
                let name = name.value();
                let JobRow { pin } = serde_json::from_slice(row.value()).unwrap_or_else(|error| {
                    tracing::warn!(job = name, %error, "pin passed over: its row cannot be read");
                    JobRow::default()
                });
                let last = newest(&decisions, name)?;
                known.push(KnownJob { name: name.to_string(), remembered: Remembered { last, pin } });
            }
            Ok(known)
        };
        look().map_err(|failure| self.failed(failure))
    }

    /// Writes which jobs there are beside those known, and what changed in jobs, in one durable transaction.
    pub(crate) fn write(&self, arrived: &[Arc<str>], changes: &[JobChanges<'_>]) -> Result<(), ControlError> {
        if arrived.is_empty() && changes.is_empty() {
            return Ok(());
        }
        self.change(|transaction| {
            let (mut decisions, mut jobs) = (transaction.open_table(DECISIONS)?, transaction.open_table(JOBS)?);
            for name in arrived {
                let name: &str = name;
                if jobs.get(name)?.is_none() {
                    set_pin(&mut jobs, name, None)?;
                }
            }
            for JobChanges { job, changes, rows_kept } in changes {
                for (id, effect) in &changes.effects {
                    let row = decisions.get((*job, *id))?.and_then(|row| with_effect(row.value(), effect));
                    if let Some(row) = row {
                        decisions.insert((*job, *id), row.as_slice())?;
                    }
                }
                if let Some(decision) = &changes.decision {
                    decisions.insert((*job, decision.id), encode(decision)?.as_slice())?;
                    drop_oldest(&mut decisions, job, decision.id.saturating_sub(*rows_kept))?;
                }
                if let Some(pin) = changes.pin {
                    set_pin(&mut jobs, job, pin)?;
                }
            }
            Ok(())
        })
    }

    /// Forgets jobs and everything about them.
    pub(crate) fn forget(&self, names: &[Arc<str>]) -> Result<(), ControlError> {
        if names.is_empty() {
            return Ok(());
        }
        self.change(|transaction| {
            let (mut decisions, mut jobs) = (transaction.open_table(DECISIONS)?, transaction.open_table(JOBS)?);
            for name in names {
                let name: &str = name;
                jobs.remove(name)?;
                decisions.retain_in((name, 0)..=(name, u64::MAX), |_, _| false)?;
            }
            Ok(())
        })
    }

    /// Decisions of `job` with numbers from `first` on, of at most `limit` rows; those that cannot be read are left out.
    pub(crate) fn decisions(&self, job: &str, first: u64, limit: usize) -> Result<Vec<LoggedDecision>, ControlError> {
        let look = || -> Result<Vec<LoggedDecision>, Failure> {
            let decisions = self.database.begin_read()?.open_table(DECISIONS)?;
            let mut rows = Vec::new();
            for row in decisions.range((job, first)..=(job, u64::MAX))?.take(limit) {
                rows.extend(decode(row?.1.value()).ok());
            }
            Ok(rows)
        };
        look().map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> ControlError {
        ControlError::DecisionLog { path: self.path.display().to_string(), detail: failure.0 }
    }

    fn change(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), Failure>) -> Result<(), ControlError> {
        in_one_transaction(&self.database, change).map_err(|failure| self.failed(failure))
    }
}

fn newest(
    decisions: &ReadOnlyTable<(&'static str, u64), &'static [u8]>,
    job: &str,
) -> Result<Option<LoggedDecision>, Failure> {
    let mut newest = Newest::of(&job);
    for row in decisions.range((job, 0)..=(job, u64::MAX))?.rev() {
        let (key, row) = row?;
        if newest.takes(key.value().1, row.value()) {
            break;
        }
    }
    Ok(newest.decision)
}

fn set_pin(jobs: &mut Table<'_, &'static str, &'static [u8]>, job: &str, pin: Option<u32>) -> Result<(), Failure> {
    let row = serde_json::to_vec(&JobRow { pin }).map_err(|error| Failure(error.to_string()))?;
    jobs.insert(job, row.as_slice())?;
    Ok(())
}

/// Drops decisions of `job` up to number `last`, a few at a time.
fn drop_oldest(
    decisions: &mut Table<'_, (&'static str, u64), &'static [u8]>,
    job: &str,
    last: u64,
) -> Result<(), Failure> {
    for _ in 0..MOST_DROPPED {
        let oldest = decisions.range((job, 0)..=(job, last))?.next().transpose()?.map(|(key, _)| key.value().1);
        let Some(id) = oldest else { return Ok(()) };
        decisions.remove((job, id))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::followed::tests::row;

    fn decided(id: u64) -> Changes {
        Changes { decision: Some(row(id, 0, 1_000 * id as i64, 1.0)), ..Changes::default() }
    }

    fn write(log: &JobsLog, changes: &[(&str, &Changes)]) {
        let changes: Vec<JobChanges<'_>> =
            changes.iter().map(|(job, changes)| JobChanges { job, changes, rows_kept: 9 }).collect();
        log.write(&[Arc::from("a"), Arc::from("b")], &changes).unwrap();
    }

    #[test]
    fn a_row_that_cannot_be_read_is_passed_over_and_spoils_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let log = JobsLog::open(folder.path()).unwrap();
        for id in 1..=3 {
            write(&log, &[("a", &decided(id)), ("b", &decided(id))]);
        }
        let spoil = |transaction: &WriteTransaction| {
            transaction.open_table(DECISIONS)?.insert(("a", 3), b"{\"id\":null}".as_slice())?;
            transaction.open_table(JOBS)?.insert("b", b"?".as_slice())?;
            Ok(())
        };
        log.change(spoil).unwrap();
        let known = log.known().unwrap();
        let last: Vec<_> = known.iter().map(|job| (job.name.as_str(), job.remembered.last.as_ref().unwrap())).collect();
        let seen: Vec<_> = last.iter().map(|(name, row)| (*name, row.id, row.time_ms)).collect();
        assert_eq!(seen, [("a", 3, 2_000), ("b", 3, 3_000)], "numbers never decrease");

        let effect = Changes { effects: vec![(3, "met".to_string())], ..Changes::default() };
        write(&log, &[("a", &effect), ("b", &effect)]);
        assert_eq!(log.decisions("b", 3, 9).unwrap()[0].effect, "met");
        let left: Vec<u64> = log.decisions("a", 1, 9).unwrap().iter().map(|row| row.id).collect();
        assert_eq!(left, [1, 2]);
    }
}
