//! How does a training run survive `kill -9`, and how is it continued exactly?
//!
//! A checkpoint is one `safetensors` file: tensors by name, and under the metadata key `petrel` a JSON object with the
//! algorithm, its settings and its progress. It is written to a temporary file, synced and renamed, so that a file with
//! the final name is always whole; a CRC32C over everything that matters finds what the disk did to it later. The same
//! content gives the same bytes.
//!
//! ```
//! use petrel_learn::checkpoint::{Checkpoint, CheckpointDirectory};
//!
//! let folder = tempfile::tempdir()?;
//! let directory = CheckpointDirectory::open(folder.path(), 3)?;
//! let mut checkpoint = Checkpoint::new("ppo", &serde_json::json!({"seed": 7}), &serde_json::json!({"steps": 2048}))?;
//! checkpoint.put_f32("actor", vec![2, 2], vec![1.0, 2.0, 3.0, 4.0])?;
//! directory.save(2048, &checkpoint)?;
//!
//! let resumed = directory.newest().found.expect("one was saved");
//! assert_eq!(resumed.checkpoint.f32("actor", &[2, 2])?, [1.0, 2.0, 3.0, 4.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::error::LearnError;
use petrel_core::InvalidValue;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the layout; a reader refuses any other.
pub const CHECKPOINT_VERSION: u32 = 1;

const METADATA_KEY: &str = "petrel";
const FILE_PREFIX: &str = "checkpoint-";
const FILE_SUFFIX: &str = ".safetensors";

/// Numbers of one tensor, row by row.
#[derive(Debug, Clone, PartialEq)]
enum Numbers {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U64(Vec<u64>),
}

#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    shape: Vec<usize>,
    numbers: Numbers,
}

/// Everything that a run needs to go on: tensors, settings, progress.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Which algorithm wrote it, for example `ppo`.
    pub algorithm: String,
    /// Settings of the run.
    pub settings: Value,
    /// How far the run is: steps, episodes, running statistics.
    pub progress: Value,
    tensors: BTreeMap<String, Tensor>,
    path: PathBuf,
}

/// The JSON under the metadata key.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    algorithm: String,
    settings: Value,
    progress: Value,
    /// Bits of every float in settings and progress, in order: `serde_json` reads floats to within the last place only.
    float_bits: Vec<u64>,
    crc32c: u32,
}

/// Calls `visit` on every number that is written with a fraction or exponent, in the order of the text.
fn visit_floats(value: &mut Value, visit: &mut impl FnMut(&mut Number)) {
    match value {
        Value::Number(number) if number.is_f64() => visit(number),
        Value::Array(values) => values.iter_mut().for_each(|value| visit_floats(value, visit)),
        Value::Object(entries) => entries.values_mut().for_each(|value| visit_floats(value, visit)),
        _ => {}
    }
}

impl Checkpoint {
    /// A checkpoint without tensors.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when settings or progress have no JSON form (a map with keys that are not strings). A float
    /// that is not finite becomes `null`.
    pub fn new(
        algorithm: impl Into<String>,
        settings: &impl Serialize,
        progress: &impl Serialize,
    ) -> Result<Self, LearnError> {
        let json = |field: &str, value: Result<Value, serde_json::Error>| {
            value.map_err(|error| InvalidValue::new(field, error, "values that have a JSON form"))
        };
        Ok(Self {
            algorithm: algorithm.into(),
            settings: json("settings", serde_json::to_value(settings))?,
            progress: json("progress", serde_json::to_value(progress))?,
            tensors: BTreeMap::new(),
            path: PathBuf::from("(checkpoint in memory)"),
        })
    }

    /// Adds or replaces a tensor of 32-bit floats.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when `shape` does not hold exactly `numbers`.
    pub fn put_f32(&mut self, name: &str, shape: Vec<usize>, numbers: Vec<f32>) -> Result<(), LearnError> {
        let count = numbers.len();
        self.put(name, shape, Numbers::F32(numbers), count)
    }

    /// Adds or replaces a tensor of 64-bit floats.
    ///
    /// # Errors
    /// As [`Checkpoint::put_f32`].
    pub fn put_f64(&mut self, name: &str, shape: Vec<usize>, numbers: Vec<f64>) -> Result<(), LearnError> {
        let count = numbers.len();
        self.put(name, shape, Numbers::F64(numbers), count)
    }

    /// Adds or replaces a tensor of unsigned integers, for example states of random generators.
    ///
    /// # Errors
    /// As [`Checkpoint::put_f32`].
    pub fn put_u64(&mut self, name: &str, shape: Vec<usize>, numbers: Vec<u64>) -> Result<(), LearnError> {
        let count = numbers.len();
        self.put(name, shape, Numbers::U64(numbers), count)
    }

    fn put(&mut self, name: &str, shape: Vec<usize>, numbers: Numbers, count: usize) -> Result<(), LearnError> {
        if shape.iter().product::<usize>() != count {
            let expected = format!("as many numbers as the shape {shape:?} holds");
            return Err(InvalidValue::new(format!("tensor `{name}`"), format!("{count} numbers"), expected).into());
        }
        self.tensors.insert(name.to_string(), Tensor { shape, numbers });
        Ok(())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The tensor `name`, which must have `shape`.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] names the tensor, what it is and what was expected.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<&[f32], LearnError> {
        match &self.tensor(name, shape, "F32")?.numbers {
            Numbers::F32(numbers) => Ok(numbers),
            other => Err(self.wrong_type(name, other, "F32")),
        }
    }

    /// The tensor `name` of 64-bit floats, which must have `shape`.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`].
    pub fn f64(&self, name: &str, shape: &[usize]) -> Result<&[f64], LearnError> {
        match &self.tensor(name, shape, "F64")?.numbers {
            Numbers::F64(numbers) => Ok(numbers),
            other => Err(self.wrong_type(name, other, "F64")),
        }
    }

    /// The tensor `name` of unsigned integers, which must have `shape`.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`].
    pub fn u64(&self, name: &str, shape: &[usize]) -> Result<&[u64], LearnError> {
        match &self.tensor(name, shape, "U64")?.numbers {
            Numbers::U64(numbers) => Ok(numbers),
            other => Err(self.wrong_type(name, other, "U64")),
        }
    }

    /// Settings as the type that the algorithm uses.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] when they are those of another algorithm or version.
    pub fn settings_as<T: DeserializeOwned>(&self) -> Result<T, LearnError> {
        self.part("settings", &self.settings)
    }

    /// Progress as the type that the algorithm uses.
    ///
    /// # Errors
    /// As [`Checkpoint::settings_as`].
    pub fn progress_as<T: DeserializeOwned>(&self) -> Result<T, LearnError> {
        self.part("progress", &self.progress)
    }

    /// Refuses a checkpoint of another algorithm.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] names both.
    pub fn expect_algorithm(&self, algorithm: &str) -> Result<(), LearnError> {
        if self.algorithm == algorithm {
            return Ok(());
        }
        Err(LearnError::wrong_file(&self.path, "algorithm", &self.algorithm, algorithm))
    }

    fn part<T: DeserializeOwned>(&self, field: &str, value: &Value) -> Result<T, LearnError> {
        T::deserialize(value).map_err(|error| {
            LearnError::wrong_file(&self.path, field, value, format!("those of {}: {error}", self.algorithm))
        })
    }

    fn tensor(&self, name: &str, shape: &[usize], kind: &str) -> Result<&Tensor, LearnError> {
        let field = format!("tensor `{name}`");
        let expected = format!("{kind} of shape {shape:?}");
        let Some(tensor) = self.tensors.get(name) else {
            return Err(LearnError::wrong_file(&self.path, field, "nothing", expected));
        };
        if tensor.shape != shape {
            return Err(LearnError::wrong_file(&self.path, field, format!("shape {:?}", tensor.shape), expected));
        }
        Ok(tensor)
    }

    fn wrong_type(&self, name: &str, numbers: &Numbers, expected: &str) -> LearnError {
        LearnError::wrong_file(&self.path, format!("tensor `{name}`"), format!("{:?}", numbers.dtype()), expected)
    }

    /// The file's bytes; equal checkpoints give equal bytes.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when the header would be larger than the format allows (100 MB).
    pub fn to_bytes(&self) -> Result<Vec<u8>, LearnError> {
        let mut header = Header {
            version: CHECKPOINT_VERSION,
            algorithm: self.algorithm.clone(),
            settings: self.settings.clone(),
            progress: self.progress.clone(),
            float_bits: Vec::new(),
            crc32c: self.checksum(),
        };
        let Header { settings, progress, float_bits, .. } = &mut header;
        for part in [settings, progress] {
            visit_floats(part, &mut |number| float_bits.push(number.as_f64().unwrap_or_default().to_bits()));
        }
        let refuse = |error: &dyn std::fmt::Display| InvalidValue::new("checkpoint", error, "a header under 100 MB");
        let header = serde_json::to_string(&header).map_err(|error| refuse(&error))?;
        // One key only: the order of several keys would change from run to run.
        let metadata = HashMap::from([(METADATA_KEY.to_string(), header)]);
        let bytes = safetensors::serialize(self.tensors.iter(), Some(metadata))
            .map_err(|error| refuse(&format!("{error:?}")))?;
        Ok(bytes)
    }

    /// Reads a file's bytes; `path` is for error messages.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] names the part that is wrong.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, LearnError> {
        let refuse = |field: &str, got: String, expected: &str| LearnError::wrong_file(path, field, got, expected);
        let layout = |error: safetensors::SafeTensorError| {
            refuse("layout", format!("{error:?} in {} bytes", bytes.len()), "a whole safetensors file")
        };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(layout)?;
        let files = SafeTensors::deserialize(bytes).map_err(layout)?;
        let header = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get(METADATA_KEY))
            .ok_or_else(|| refuse("metadata", "no key `petrel`".to_string(), "a checkpoint of petrel"))?;
        let mut header: Header = serde_json::from_str(header)
            .map_err(|error| refuse("metadata `petrel`", error.to_string(), "the JSON header of a checkpoint"))?;
        if header.version != CHECKPOINT_VERSION {
            return Err(refuse("version", header.version.to_string(), &CHECKPOINT_VERSION.to_string()));
        }
        let mut bits = header.float_bits.iter();
        for part in [&mut header.settings, &mut header.progress] {
            visit_floats(part, &mut |number| {
                let exact = bits.next().and_then(|bits| Number::from_f64(f64::from_bits(*bits)));
                *number = exact.unwrap_or_else(|| number.clone());
            });
        }
        let mut tensors = BTreeMap::new();
        for (name, view) in files.iter() {
            let numbers = Numbers::from_bytes(view.dtype(), view.data())
                .ok_or_else(|| refuse(&format!("tensor `{name}`"), format!("{:?}", view.dtype()), "F32, F64 or U64"))?;
            tensors.insert(name.to_string(), Tensor { shape: view.shape().to_vec(), numbers });
        }
        let checkpoint = Self {
            algorithm: header.algorithm,
            settings: header.settings,
            progress: header.progress,
            tensors,
            path: path.to_path_buf(),
        };
        let checksum = checkpoint.checksum();
        if checksum != header.crc32c {
            let expected = format!("{:08x} as when it was written; the file was changed or damaged", header.crc32c);
            return Err(refuse("checksum", format!("{checksum:08x}"), &expected));
        }
        Ok(checkpoint)
    }

    /// Writes the file so that under its name there is always a whole one: temporary file, sync, rename, sync of the
    /// directory.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails.
    pub fn write(&self, path: &Path) -> Result<(), LearnError> {
        write_atomically(path, &self.to_bytes()?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`LearnError::File`] when it cannot be read, [`LearnError::WrongFile`] when it is not a whole checkpoint.
    pub fn read(path: &Path) -> Result<Self, LearnError> {
        let bytes = fs::read(path).map_err(LearnError::file("read", path))?;
        Self::from_bytes(&bytes, path)
    }

    fn checksum(&self) -> u32 {
        let texts = [&self.algorithm, &self.settings.to_string(), &self.progress.to_string()]
            .iter()
            .fold(0, |crc, text| crc32c::crc32c_append(crc, text.as_bytes()));
        self.tensors.iter().fold(texts, |crc, (name, tensor)| {
            let crc = crc32c::crc32c_append(crc, format!("{name}{:?}", tensor.shape).as_bytes());
            crc32c::crc32c_append(crc, &tensor.data())
        })
    }
}

impl Numbers {
    fn dtype(&self) -> Dtype {
        match self {
            Numbers::F32(_) => Dtype::F32,
            Numbers::F64(_) => Dtype::F64,
            Numbers::U64(_) => Dtype::U64,
        }
    }

    fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Self> {
        let (fours, eights) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<8>().0);
        match dtype {
            Dtype::F32 => Some(Numbers::F32(fours.iter().map(|word| f32::from_le_bytes(*word)).collect())),
            Dtype::F64 => Some(Numbers::F64(eights.iter().map(|word| f64::from_le_bytes(*word)).collect())),
            Dtype::U64 => Some(Numbers::U64(eights.iter().map(|word| u64::from_le_bytes(*word)).collect())),
            _ => None,
        }
    }
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.numbers.dtype()
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match &self.numbers {
            Numbers::F32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Numbers::F64(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Numbers::U64(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match &self.numbers {
            Numbers::F32(numbers) => numbers.len() * 4,
            Numbers::F64(numbers) => numbers.len() * 8,
            Numbers::U64(numbers) => numbers.len() * 8,
        }
    }
}

/// Writes `bytes` so that `path` holds either what it held before or all of them, whatever interrupts it.
///
/// # Errors
/// [`LearnError::File`] when the disk fails.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), LearnError> {
    let failed = |source| LearnError::File { action: "write", path: path.to_path_buf(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        // The rename may have happened; then there is nothing to remove and that is no second error.
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

/// A directory of checkpoints of one run, named by step.
#[derive(Debug, Clone)]
pub struct CheckpointDirectory {
    path: PathBuf,
    kept: usize,
}

/// The newest whole checkpoint of a directory, and what was passed over on the way.
#[derive(Debug)]
pub struct Newest {
    /// The checkpoint; `None` when there is none.
    pub found: Option<Resumable>,
    /// Newer files that could not be used, each with its reason; worth a warning.
    pub passed_over: Vec<LearnError>,
}

/// A checkpoint with the step in its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumable {
    /// Environment steps done when it was written.
    pub step: u64,
    /// Its file.
    pub path: PathBuf,
    /// Its content.
    pub checkpoint: Checkpoint,
}

impl CheckpointDirectory {
    /// Opens or makes the directory; [`CheckpointDirectory::save`] keeps the newest `kept` files (at least one).
    ///
    /// # Errors
    /// [`LearnError::File`] when it cannot be made.
    pub fn open(path: &Path, kept: usize) -> Result<Self, LearnError> {
        fs::create_dir_all(path).map_err(LearnError::file("make", path))?;
        Ok(Self { path: path.to_path_buf(), kept: kept.max(1) })
    }

    /// The file name of the checkpoint at `step`.
    pub fn file_of(&self, step: u64) -> PathBuf {
        self.path.join(format!("{FILE_PREFIX}{step:012}{FILE_SUFFIX}"))
    }

    /// Writes the checkpoint of `step`, then removes the oldest ones beyond the number kept.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails; older checkpoints are then still there.
    pub fn save(&self, step: u64, checkpoint: &Checkpoint) -> Result<PathBuf, LearnError> {
        let path = self.file_of(step);
        checkpoint.write(&path)?;
        for (_, old) in self.files()?.into_iter().skip(self.kept) {
            fs::remove_file(&old).map_err(LearnError::file("remove", &old))?;
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole: what `--resume` continues from.
    pub fn newest(&self) -> Newest {
        let mut newest = Newest { found: None, passed_over: Vec::new() };
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return Newest { found: None, passed_over: vec![error] },
        };
        for (step, path) in files {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => {
                    newest.found = Some(Resumable { step, path, checkpoint });
                    return newest;
                }
                Err(error) => newest.passed_over.push(error),
            }
        }
        newest
    }

    /// Steps and files, newest first.
    fn files(&self) -> Result<Vec<(u64, PathBuf)>, LearnError> {
        let entries = fs::read_dir(&self.path).map_err(LearnError::file("list", &self.path))?;
        let mut files: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?;
                let step = name.strip_prefix(FILE_PREFIX)?.strip_suffix(FILE_SUFFIX)?.parse().ok()?;
                Some((step, path))
            })
            .collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.0));
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample() -> Checkpoint {
        let settings = json!({"learning_rate": 0.0003, "seed": 18_446_744_073_709_551_615_u64});
        let mut checkpoint = Checkpoint::new("ppo", &settings, &json!({"steps": 4096, "best": -1.25})).unwrap();
        checkpoint
            .put_f32("actor.0.weight", vec![2, 3], vec![0.1, -0.0, f32::MIN_POSITIVE, 3.0, f32::INFINITY, 1e-40])
            .unwrap();
        checkpoint.put_f64("statistics", vec![2], vec![1.0 / 3.0, 1e300]).unwrap();
        checkpoint.put_u64("random", vec![1], vec![u64::MAX]).unwrap();
        checkpoint
    }

    #[test]
    fn what_was_written_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        sample().write(&path).unwrap();
        let back = Checkpoint::read(&path).unwrap();
        assert_eq!(back.to_bytes().unwrap(), sample().to_bytes().unwrap());
        assert_eq!(back.settings, sample().settings);
        let bits = |checkpoint: &Checkpoint| -> Vec<u32> {
            checkpoint.f32("actor.0.weight", &[2, 3]).unwrap().iter().map(|number| number.to_bits()).collect()
        };
        assert_eq!(bits(&back), bits(&sample()));
        assert_eq!(back.u64("random", &[1]).unwrap(), [u64::MAX]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn equal_checkpoints_give_equal_bytes() {
        let first = sample().to_bytes().unwrap();
        assert!((0..20).all(|_| sample().to_bytes().unwrap() == first));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample().to_bytes().unwrap();
        let path = Path::new("damaged.safetensors");
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            // Damage to what is written twice, the decimal form of a float, is mended.
            let unnoticed =
                Checkpoint::from_bytes(&damaged, path).is_ok_and(|checkpoint| checkpoint.to_bytes().unwrap() != bytes);
            assert!(!unnoticed, "bit {} of byte {position}", position % 8);
            assert!(Checkpoint::from_bytes(&bytes[..position], path).is_err(), "cut at {position}");
        }
    }

    #[test]
    fn errors_name_file_field_and_expectation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.safetensors");
        sample().write(&path).unwrap();
        let back = Checkpoint::read(&path).unwrap();
        let text = back.f32("actor.0.weight", &[3, 3]).unwrap_err().to_string();
        assert!(
            text.ends_with("b.safetensors: tensor `actor.0.weight`: got shape [2, 3], expected F32 of shape [3, 3]"),
            "{text}"
        );
        let text = back.f32("critic", &[1]).unwrap_err().to_string();
        assert!(text.ends_with("tensor `critic`: got nothing, expected F32 of shape [1]"), "{text}");
        let text = back.f32("random", &[1]).unwrap_err().to_string();
        assert!(text.ends_with("tensor `random`: got U64, expected F32"), "{text}");
        let text = back.expect_algorithm("td3").unwrap_err().to_string();
        assert!(text.ends_with("algorithm: got ppo, expected td3"), "{text}");
        #[derive(Debug, Deserialize)]
        struct Other {
            #[allow(dead_code)]
            noise: f32,
        }
        let text = back.settings_as::<Other>().unwrap_err().to_string();
        assert!(text.contains("settings: got") && text.contains("missing field `noise`"), "{text}");
        fs::write(&path, b"not a checkpoint at all").unwrap();
        let text = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(
            text.contains("b.safetensors: layout: got") && text.contains("expected a whole safetensors file"),
            "{text}"
        );
    }

    #[test]
    fn a_tensor_that_does_not_fill_its_shape_is_refused() {
        let text = sample().put_f32("x", vec![2, 2], vec![1.0]).unwrap_err().to_string();
        assert_eq!(text, "tensor `x`: got `1 numbers`, expected as many numbers as the shape [2, 2] holds");
    }

    #[test]
    fn resume_takes_the_newest_whole_one_and_says_what_it_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CheckpointDirectory::open(folder.path(), 3).unwrap();
        assert!(directory.newest().found.is_none());
        for step in [100, 200, 1_000, 2_000] {
            let mut checkpoint = sample();
            checkpoint.progress = json!({ "steps": step });
            directory.save(step, &checkpoint).unwrap();
        }
        assert!(!directory.file_of(100).exists(), "only three are kept");
        let bytes = fs::read(directory.file_of(2_000)).unwrap();
        fs::write(directory.file_of(2_000), &bytes[..bytes.len() - 1]).unwrap();
        fs::write(folder.path().join(".checkpoint-000000003000.safetensors.77.tmp"), &bytes[..40]).unwrap();
        let newest = directory.newest();
        let found = newest.found.unwrap();
        assert_eq!((found.step, &found.checkpoint.progress), (1_000, &json!({"steps": 1_000})));
        assert_eq!(newest.passed_over.len(), 1);
        assert!(newest.passed_over[0].to_string().contains("checkpoint-000000002000.safetensors: layout"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Checkpoint::from_bytes(&bytes, Path::new("any")).is_err());
        }

        #[test]
        fn any_figure_of_the_progress_comes_back(bits in prop::collection::vec(any::<u64>(), 1..20)) {
            let figures: Vec<f64> = bits.iter().map(|bits| f64::from_bits(*bits)).filter(|figure| figure.is_finite()).collect();
            let checkpoint = Checkpoint::new("ppo", &json!({}), &json!({ "a": figures, "b": {"c": 0.1} })).unwrap();
            let back = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap(), Path::new("any"));
            prop_assert_eq!(back.unwrap().progress, checkpoint.progress);
        }

        #[test]
        fn any_tensor_comes_back(numbers in prop::collection::vec(any::<f32>(), 0..200)) {
            let mut checkpoint = sample();
            checkpoint.put_f32("any", vec![numbers.len()], numbers.clone()).unwrap();
            let back = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap(), Path::new("any")).unwrap();
            let same = back.f32("any", &[numbers.len()]).unwrap().iter().zip(&numbers).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same);
        }
    }
}
