//! What was decided, on what grounds, and what came of it? One transactional file that survives kill -9.

use crate::error::ControlError;
use petrel_core::{Action, Observation};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const DECISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("decisions");

/// Rows kept; the oldest go first. At one decision every five seconds this is two months.
const ROWS_KEPT: u64 = 1_000_000;

/// What one look at a job adds to its log, all or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// What came of earlier decisions, by number.
    pub(crate) effects: Vec<(u64, String)>,
    /// A new decision.
    pub(crate) decision: Option<LoggedDecision>,
    /// What the operator has pinned, if that changed.
    pub(crate) pin: Option<Option<u32>>,
}

impl Changes {
    /// True when there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.decision.is_none() && self.pin.is_none()
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedDecision {
    /// Number of the decision, from 1.
    pub id: u64,
    /// When, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Policy that decided.
    pub policy: String,
    /// What it saw.
    pub observation: Observation,
    /// What it wished.
    pub wish: Action,
    /// Probability with which it wished that, when it explored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What the guardrails let through.
    pub action: Action,
    /// Why, in words.
    pub reason: String,
    /// Time that policy and guardrails took, microseconds.
    pub took_us: f64,
    /// What came of it, in words; empty until it is known.
    pub effect: String,
}

/// The log of decisions, `decisions.redb` in the data directory.
pub struct DecisionLog {
    database: Database,
    path: PathBuf,
}

impl DecisionLog {
    /// Opens the log in `directory`, or makes it. A log that was cut off by kill -9 is repaired.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the file cannot be opened, for example because another process has it.
    pub fn open(directory: &Path) -> Result<Self, ControlError> {
        let path = directory.join("decisions.redb");
        let refuse = |detail: String| ControlError::DecisionLog { path: path.display().to_string(), detail };
        std::fs::create_dir_all(directory).map_err(|error| refuse(error.to_string()))?;
        let database = Database::create(&path).map_err(|error| refuse(error.to_string()))?;
        let log = Self { database, path };
        log.make_tables()?;
        Ok(log)
    }

    /// Opens the log of a job that has ended, for reading: nothing is made where there is none.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when there is no log, or a running job has it open.
    pub fn open_ended(directory: &Path) -> Result<Self, ControlError> {
        let path = directory.join("decisions.redb");
        let refuse = |detail: String| ControlError::DecisionLog { path: path.display().to_string(), detail };
        if !path.is_file() {
            return Err(refuse("there is none; expected the data directory of a job that has decided".to_string()));
        }
        let database = Database::open(&path).map_err(|error| {
            refuse(match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    "a running job has it open; end that job first (Ctrl-C drains it), its log stays".to_string()
                }
                other => other.to_string(),
            })
        })?;
        let log = Self { database, path };
        // A job that was killed before its first decision has left a file without tables.
        log.make_tables()?;
        Ok(log)
    }

    /// Writes a decision durably (fsync) before it returns.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the disk fails.
    pub fn append(&self, decision: &LoggedDecision) -> Result<(), ControlError> {
        self.write(|transaction| append(&mut transaction.open_table(DECISIONS)?, decision))
    }

    /// Writes what came of decision `id`; nothing happens if its row is gone.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the disk fails.
    pub fn set_effect(&self, id: u64, effect: &str) -> Result<(), ControlError> {
        self.write(|transaction| set_effect(&mut transaction.open_table(DECISIONS)?, id, effect))
    }

    /// Writes effects and decision of `changes` in one durable transaction; there is no pin of a single job.
    pub(crate) fn apply(&self, changes: &Changes) -> Result<(), ControlError> {
        debug_assert!(changes.pin.is_none());
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut decisions = transaction.open_table(DECISIONS)?;
            for (id, effect) in &changes.effects {
                set_effect(&mut decisions, *id, effect)?;
            }
            if let Some(decision) = &changes.decision {
                append(&mut decisions, decision)?;
            }
            Ok(())
        })
    }

    /// One decision.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the file cannot be read.
    pub fn get(&self, id: u64) -> Result<Option<LoggedDecision>, ControlError> {
        self.read(|table| table.get(id)?.map(|row| decode(row.value())).transpose())
    }

    /// The newest decision. A row that does not decode is passed over, with a warning; its number is that of the newest all
    /// the same, as numbers never decrease.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the file cannot be read.
    pub fn last(&self) -> Result<Option<LoggedDecision>, ControlError> {
        self.read(|table| {
            let whose = self.path.display();
            let mut newest = Newest::of(&whose);
            for row in table.iter()?.rev() {
                let (id, row) = row?;
                if newest.takes(id.value(), row.value()) {
                    break;
                }
            }
            Ok(newest.decision)
        })
    }

    /// Decisions with numbers from `first` on, at most `limit`.
    ///
    /// # Errors
    /// [`ControlError::DecisionLog`] when the file cannot be read.
    pub fn from(&self, first: u64, limit: usize) -> Result<Vec<LoggedDecision>, ControlError> {
        self.read(|table| {
            let mut decisions = Vec::new();
            for row in table.range(first..)?.take(limit) {
                decisions.push(decode(row?.1.value())?);
            }
            Ok(decisions)
        })
    }

    fn failed(&self, failure: Failure) -> ControlError {
        ControlError::DecisionLog { path: self.path.display().to_string(), detail: failure.0 }
    }

    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failure>) -> Result<(), ControlError> {
        in_one_transaction(&self.database, change).map_err(|failure| self.failed(failure))
    }

    /// Makes the tables that are not there.
    fn make_tables(&self) -> Result<(), ControlError> {
        self.write(|transaction| {
            transaction.open_table(DECISIONS)?;
            Ok(())
        })
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadOnlyTable<u64, &'static [u8]>) -> Result<T, Failure>,
    ) -> Result<T, ControlError> {
        let outcome = || -> Result<T, Failure> { look(&self.database.begin_read()?.open_table(DECISIONS)?) };
        outcome().map_err(|failure| self.failed(failure))
    }
}

/// Makes a change durable as a whole, or not at all.
pub(crate) fn in_one_transaction(
    database: &Database,
    change: impl FnOnce(&redb::WriteTransaction) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    change(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn append(table: &mut redb::Table<'_, u64, &'static [u8]>, decision: &LoggedDecision) -> Result<(), Failure> {
    table.insert(decision.id, encode(decision)?.as_slice())?;
    if table.len()? > ROWS_KEPT {
        table.pop_first()?;
    }
    Ok(())
}

fn set_effect(table: &mut redb::Table<'_, u64, &'static [u8]>, id: u64, effect: &str) -> Result<(), Failure> {
    let row = table.get(id)?.and_then(|row| with_effect(row.value(), effect));
    if let Some(row) = row {
        table.insert(id, row.as_slice())?;
    }
    Ok(())
}

/// The bytes of a row.
pub(crate) fn encode(decision: &LoggedDecision) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(decision).map_err(|error| Failure(error.to_string()))
}

/// The row of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<LoggedDecision, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure(error.to_string()))
}

/// The row of `bytes` with another effect; `None` of a row that does not decode, which is nobody else's fault.
pub(crate) fn with_effect(bytes: &[u8], effect: &str) -> Option<Vec<u8>> {
    let mut decision = decode(bytes).ok()?;
    decision.effect = effect.to_string();
    encode(&decision).ok()
}

/// Looks for the newest decision that can be read, from the newest row on.
pub(crate) struct Newest<'a> {
    /// Found.
    pub(crate) decision: Option<LoggedDecision>,
    /// Whose decisions these are, for the warning.
    whose: &'a dyn std::fmt::Display,
    id: Option<u64>,
}

impl<'a> Newest<'a> {
    /// Nothing looked at yet.
    pub(crate) fn of(whose: &'a dyn std::fmt::Display) -> Self {
        Self { decision: None, whose, id: None }
    }

    /// Looks at row `id`; true when it can be read. The first that cannot is warned of.
    pub(crate) fn takes(&mut self, id: u64, bytes: &[u8]) -> bool {
        let newest = *self.id.get_or_insert(id);
        match decode(bytes) {
            Ok(decision) => self.decision = Some(LoggedDecision { id: newest, ..decision }),
            Err(Failure(error)) if id == newest => {
                tracing::warn!(of = %self.whose, decision = id, error, "decision passed over: its row cannot be read");
            }
            Err(_) => {}
        }
        self.decision.is_some()
    }
}

/// What the store said; it gets its path on the way out.
pub(crate) struct Failure(pub(crate) String);

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.into().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::followed::tests::row;

    #[test]
    fn the_newest_decision_that_can_be_read_is_taken_up_under_the_newest_number() {
        let folder = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(folder.path()).unwrap();
        assert_eq!(log.last().unwrap(), None);
        for id in 1..=2 {
            log.append(&row(id, 0, 1_000 * id as i64, 1.0)).unwrap();
        }
        let spoil = |transaction: &redb::WriteTransaction| {
            transaction.open_table(DECISIONS)?.insert(2, b"{}".as_slice())?;
            Ok(())
        };
        log.write(spoil).unwrap();
        let last = log.last().unwrap().unwrap();
        assert_eq!((last.id, last.time_ms), (2, 1_000));
        log.set_effect(2, "nothing to add it to").unwrap();
    }
}
