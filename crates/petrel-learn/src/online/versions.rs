//! Which policy is in service, which was before, and why? A directory of versions with a manifest.
//!
//! ```text
//! DIR/manifest.json               promoted and previous version, every version with its reasons and checksum
//! DIR/policy-000001.safetensors   one file per version, never changed
//! DIR/policy.safetensors          the promoted version's bytes: what the controller loads
//! ```
//!
//! The manifest decides. It is replaced atomically, and the copy after it; a copy that a crash left behind is renewed when
//! the directory is opened.

use crate::checkpoint::write_atomically;
use crate::error::LearnError;
use petrel_core::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// One version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub number: u32,
    /// File name in the directory.
    pub file: String,
    /// CRC32C of the file.
    pub crc32c: u32,
    /// Why it is here: verdicts of the gates, or where it came from.
    pub reasons: Vec<String>,
}

/// One change of the policy in service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Version that went into service.
    pub to: u32,
    /// Version that was in service before.
    pub from: u32,
    /// `promoted`, or `rolled back: ` and the reason.
    pub reason: String,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version in service.
    pub promoted: u32,
    /// Version that [`Versions::roll_back`] returns to; `None` after a roll back or with the first version.
    pub previous: Option<u32>,
    /// All versions by number.
    pub versions: Vec<Version>,
    /// What happened, oldest first.
    pub changes: Vec<Change>,
}

/// A directory of versions.
#[derive(Debug, Clone)]
pub struct Versions {
    directory: PathBuf,
    manifest: Manifest,
}

const MANIFEST: &str = "manifest.json";
const IN_SERVICE: &str = "policy.safetensors";

impl Versions {
    /// A new directory whose first version is `bytes`.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when there is a manifest already, [`LearnError::File`] when the disk fails.
    pub fn create(directory: &Path, bytes: &[u8], reason: &str) -> Result<Self, LearnError> {
        fs::create_dir_all(directory).map_err(LearnError::file("make", directory))?;
        let path = directory.join(MANIFEST);
        if path.exists() {
            let expected = "a directory without versions";
            return Err(InvalidValue::new("directory", path.display(), expected).into());
        }
        let manifest = Manifest { promoted: 1, previous: None, versions: Vec::new(), changes: Vec::new() };
        let mut versions = Self { directory: directory.to_path_buf(), manifest };
        versions.keep(1, bytes, vec![reason.to_string()])?;
        versions.write_manifest()?;
        versions.renew_copy()?;
        Ok(versions)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`LearnError::File`] or [`LearnError::WrongFile`] when manifest or promoted version cannot be read or are damaged.
    pub fn open(directory: &Path) -> Result<Self, LearnError> {
        let path = directory.join(MANIFEST);
        let bytes = fs::read(&path).map_err(LearnError::file("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| LearnError::wrong_file(&path, "manifest", error, "the JSON of a manifest"))?;
        let versions = Self { directory: directory.to_path_buf(), manifest };
        versions.renew_copy()?;
        Ok(versions)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file that the controller loads.
    pub fn in_service(&self) -> PathBuf {
        self.directory.join(IN_SERVICE)
    }

    /// The bytes of the version in service.
    ///
    /// # Errors
    /// As [`Versions::bytes`].
    pub fn promoted_bytes(&self) -> Result<Vec<u8>, LearnError> {
        self.bytes(self.manifest.promoted)
    }

    /// The bytes of a version, as they were written.
    ///
    /// # Errors
    /// [`LearnError::WrongFile`] when there is no such version or its file was changed.
    pub fn bytes(&self, number: u32) -> Result<Vec<u8>, LearnError> {
        let manifest_path = self.directory.join(MANIFEST);
        let Some(version) = self.manifest.versions.iter().find(|version| version.number == number) else {
            let known = format!("one of 1 to {}", self.manifest.versions.len());
            return Err(LearnError::wrong_file(&manifest_path, "version", number, known));
        };
        let path = self.directory.join(&version.file);
        let bytes = fs::read(&path).map_err(LearnError::file("read", &path))?;
        let checksum = crc32c::crc32c(&bytes);
        if checksum != version.crc32c {
            let expected = format!("{:08x} as in the manifest", version.crc32c);
            return Err(LearnError::wrong_file(&path, "checksum", format!("{checksum:08x}"), expected));
        }
        Ok(bytes)
    }

    /// Keeps a version without promoting it; its number comes back.
    ///
    /// # Errors
    /// [`LearnError::File`] when the disk fails.
    pub fn add(&mut self, bytes: &[u8], reasons: &[String]) -> Result<u32, LearnError> {
        let number = self.manifest.versions.iter().map(|version| version.number).max().unwrap_or(0) + 1;
        self.keep(number, bytes, reasons.to_vec())?;
        self.write_manifest()?;
        Ok(number)
    }

    /// Puts a version into service.
    ///
    /// # Errors
    /// [`LearnError`] when there is no such version, its file was changed, or the disk fails.
    pub fn promote(&mut self, number: u32) -> Result<(), LearnError> {
        let before = self.manifest.promoted;
        self.serve(number, Some(before), "promoted".to_string())
    }

    /// Returns to the version that was in service before; its number comes back.
    ///
    /// # Errors
    /// [`LearnError::Setting`] when there is none.
    pub fn roll_back(&mut self, reason: &str) -> Result<u32, LearnError> {
        let Some(previous) = self.manifest.previous else {
            let now = format!("version {}", self.manifest.promoted);
            return Err(InvalidValue::new("policy in service", now, "one that was promoted over another").into());
        };
        self.serve(previous, None, format!("rolled back: {reason}"))?;
        Ok(previous)
    }

    fn serve(&mut self, to: u32, previous: Option<u32>, reason: String) -> Result<(), LearnError> {
        // What cannot be read is not put into service.
        self.bytes(to)?;
        let from = self.manifest.promoted;
        let mut changed = self.manifest.clone();
        changed.promoted = to;
        changed.previous = previous;
        changed.changes.push(Change { to, from, reason });
        let before = std::mem::replace(&mut self.manifest, changed);
        if let Err(error) = self.write_manifest() {
            self.manifest = before;
            return Err(error);
        }
        self.renew_copy()
    }

    fn keep(&mut self, number: u32, bytes: &[u8], reasons: Vec<String>) -> Result<(), LearnError> {
        let file = format!("policy-{number:06}.safetensors");
        write_atomically(&self.directory.join(&file), bytes)?;
        self.manifest.versions.push(Version { number, file, crc32c: crc32c::crc32c(bytes), reasons });
        Ok(())
    }

    fn write_manifest(&self) -> Result<(), LearnError> {
        let path = self.directory.join(MANIFEST);
        let json = serde_json::to_vec_pretty(&self.manifest)
            .map_err(|error| LearnError::wrong_file(&path, "manifest", error, "values that have a JSON form"))?;
        write_atomically(&path, &json)
    }

    fn renew_copy(&self) -> Result<(), LearnError> {
        let bytes = self.promoted_bytes()?;
        let path = self.in_service();
        match fs::read(&path) {
            Ok(copy) if copy == bytes => Ok(()),
            _ => write_atomically(&path, &bytes),
        }
    }
}
