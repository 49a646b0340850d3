//! A store with small budgets, alone or behind a server, for the behaviour tests.
#![allow(dead_code, clippy::unwrap_used)] // Each test file uses its own part; this is test code.

use petrel_core::{Codec, Tier};
use petrel_shuffle::{MapBlock, Shuffle, ShuffleClient, ShuffleServer, ShuffleSettings, ShuffleSpec, ShuffleStore};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub struct World {
    pub store: Arc<ShuffleStore>,
    pub server: ShuffleServer,
    pub client: ShuffleClient,
    pub dir: PathBuf,
    pub folder: TempDir,
}

pub const TTL: Duration = Duration::from_secs(3_600);

pub fn world(memory_budget_bytes: u64, disk_budget_bytes: u64) -> World {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("shuffle");
    let settings = ShuffleSettings { dir: dir.clone(), memory_budget_bytes, disk_budget_bytes, ttl: TTL };
    let store = Arc::new(ShuffleStore::open(settings).unwrap());
    let server = ShuffleServer::start(Arc::clone(&store), "127.0.0.1:0".parse().unwrap()).unwrap();
    let client = ShuffleClient::connect(server.address()).unwrap();
    World { store, server, client, dir, folder }
}

impl World {
    /// The same case runs in process and over the socket.
    pub fn both(&self) -> [(&'static str, &dyn Shuffle); 2] {
        [("in process", &*self.store), ("over the socket", &self.client)]
    }

    pub fn block_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.dir).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "blocks")).collect()
    }
}

pub fn spec(shuffle_id: u64, maps: u32, reduces: u32, tier: Tier) -> ShuffleSpec {
    ShuffleSpec { shuffle_id, maps, reduces, tier, codec: Codec::Lz4 }
}

/// Recognisable bytes that differ between any two (map, attempt, reduce).
pub fn payload(map: u32, attempt: u32, reduce: u32, bytes: usize) -> Vec<u8> {
    let label = format!("map {map} attempt {attempt} reduce {reduce};");
    label.bytes().cycle().take(bytes.max(label.len())).collect()
}

pub fn output(map: u32, attempt: u32, reduces: u32, bytes: usize) -> Vec<MapBlock> {
    (0..reduces).map(|reduce| MapBlock::new(payload(map, attempt, reduce, bytes), 1)).collect()
}
