//! Which small files of the sink should become one?

use crate::commit_log::{CommitState, CommittedFile};
use crate::task::FileKind;
use petrel_core::Domain;
use std::collections::BTreeMap;
use std::path::Path;

/// A group is merged when it has more files than this.
pub const MIN_FILES: usize = 30;
/// At most this many files are merged at a time, so that the task stays short.
pub const MAX_FILES: usize = 64;
/// A file must have been committed this many batches ago.
pub const MIN_AGE_BATCHES: u64 = 5;
/// Upper size of each class: files are merged with files of their own size, so that no byte is rewritten often.
const CLASS_BYTES: [u64; 3] = [256 << 10, 4 << 20, 32 << 20];

/// Files of one kind, domain, hour and folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// What is in them.
    pub kind: FileKind,
    /// Domain.
    pub domain: Domain,
    /// Hour.
    pub hour: String,
    /// Their paths, oldest first.
    pub inputs: Vec<String>,
}

/// The largest group that is worth a merge, of a kind that `wanted` accepts. Files whose lines are not published yet
/// (batches after `published`) are left alone.
pub fn choose(state: &CommitState, published: u64, wanted: impl Fn(FileKind) -> bool) -> Option<Merge> {
    let newest = state.batch.saturating_sub(MIN_AGE_BATCHES);
    let mut groups: BTreeMap<(FileKind, Domain, &str, &Path, usize), Vec<&CommittedFile>> = BTreeMap::new();
    for committed in state.files.values() {
        let file = &committed.file;
        let unpublished = file.kind.topic().is_some() && committed.batch > published;
        if committed.batch > newest || unpublished || !wanted(file.kind) {
            continue;
        }
        let Some(class) = CLASS_BYTES.iter().position(|bytes| file.bytes < *bytes) else { continue };
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        groups.entry((file.kind, file.domain, &file.hour, folder, class)).or_default().push(committed);
    }
    let ((kind, domain, hour, _, _), mut files) =
        groups.into_iter().filter(|(_, files)| files.len() > MIN_FILES).max_by_key(|(_, files)| files.len())?;
    files.sort_by(|a, b| (a.batch, &a.file.path).cmp(&(b.batch, &b.file.path)));
    let inputs = files.iter().take(MAX_FILES).map(|committed| committed.file.path.clone()).collect();
    Some(Merge { kind, domain, hour: hour.to_owned(), inputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::StagedFile;

    fn state(files: impl IntoIterator<Item = (u64, FileKind, &'static str, u64)>) -> CommitState {
        let mut state = CommitState { batch: 100, ..CommitState::default() };
        for (index, (batch, kind, hour, bytes)) in files.into_iter().enumerate() {
            let path = format!("sink/{kind:?}/hour={hour}/{index:04}");
            let file = StagedFile {
                kind,
                domain: Domain::SmartCity,
                hour: hour.into(),
                staged: String::new(),
                path: path.clone(),
                rows: 1,
                bytes,
            };
            state.files.insert(path, CommittedFile { batch, file });
        }
        state
    }

    #[test]
    fn only_enough_old_files_of_one_size_and_hour_are_merged() {
        let many = |count: u64, hour| (0..count).map(move |batch| (batch, FileKind::Validated, hour, 1_000));
        assert_eq!(choose(&state(many(30, "10")), 100, |_| true), None);
        let merge = choose(&state(many(31, "10")), 100, |_| true).unwrap();
        assert_eq!((merge.inputs.len(), merge.hour.as_str()), (31, "10"));
        assert_eq!(choose(&state(many(90, "10")), 100, |_| true).unwrap().inputs.len(), MAX_FILES);
        assert_eq!(choose(&state(many(20, "10").chain(many(20, "11"))), 100, |_| true), None);
        let large = (0..40).map(|batch| (batch, FileKind::Validated, "10", 64 << 20));
        assert_eq!(choose(&state(large), 100, |_| true), None);
        let young = (0..40).map(|_| (99, FileKind::Validated, "10", 10));
        assert_eq!(choose(&state(young), 100, |_| true), None);
    }

    #[test]
    fn lines_wait_for_their_publication() {
        let alerts = || (0..40).map(|batch| (batch, FileKind::Alerts, "10", 1_000));
        assert_eq!(choose(&state(alerts()), 20, |_| true), None);
        assert!(choose(&state(alerts()), 40, |kind| kind == FileKind::Alerts).is_some());
        assert_eq!(choose(&state(alerts()), 40, |kind| kind == FileKind::Validated), None);
    }
}
