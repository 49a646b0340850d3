//! How fast is a shuffle through the server, against bytes that merely cross the loopback?
//!
//! `cargo run --release -p petrel-shuffle --example shuffle_bench [-- MAPS REDUCES BLOCK_KIB]`
//!
//! Prints MB/s (raw payload) of writing and of reading per tier and codec with one client thread, and
//! in the same run the physical limit: the same number of bytes sent over a loopback socket by one
//! thread and read by another, nothing else done to them. The rows are machine-like JSON, so codecs
//! have something to do.

use petrel_core::{Codec, Tier};
use petrel_shuffle::{MapBlock, Shuffle, ShuffleClient, ShuffleServer, ShuffleSettings, ShuffleSpec, ShuffleStore};
use std::error::Error;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (maps, reduces, block_kib) = (next(16)? as u32, next(8)? as u32, next(512)?);
    let block = rows(block_kib << 10);
    let total_bytes = block.len() * maps as usize * reduces as usize;
    println!(
        "{maps} maps x {reduces} reduces x {block_kib} KiB, {} MB in all, best of {ROUNDS}",
        total_bytes / 1_000_000
    );

    let folder = std::env::temp_dir().join(format!("petrel-shuffle-bench-{}", std::process::id()));
    let settings = ShuffleSettings { memory_budget_bytes: 4 << 30, ..ShuffleSettings::new(&folder) };
    let store = Arc::new(ShuffleStore::open(settings)?);
    let server = ShuffleServer::start(Arc::clone(&store), "127.0.0.1:0".parse()?)?;
    let client = ShuffleClient::connect(server.address())?;

    let limit = best(|| loopback(&block, total_bytes / block.len()))?;
    println!("{:<26}{:>14}{:>14}{:>10}", "", "write MB/s", "read MB/s", "stored");
    println!(
        "{:<26}{:>14.0}{:>14.0}{:>10}",
        "loopback socket (limit)",
        rate(total_bytes, limit),
        rate(total_bytes, limit),
        "100 %"
    );

    let mut shuffle_id = 0;
    for tier in [Tier::Memory, Tier::Nvme] {
        for codec in Codec::ALL {
            let (mut write_s, mut read_s, mut share) = (f64::INFINITY, f64::INFINITY, 1.0);
            for _ in 0..ROUNDS {
                shuffle_id += 1;
                client.register(ShuffleSpec { shuffle_id, maps, reduces, tier, codec })?;
                // Copies are made beforehand: the caller hands over its buffers, it does not copy them.
                let outputs: Vec<Vec<MapBlock>> =
                    (0..maps).map(|_| (0..reduces).map(|_| MapBlock::new(block.clone(), 1)).collect()).collect();
                let start = Instant::now();
                for (map, blocks) in outputs.into_iter().enumerate() {
                    client.write_map(shuffle_id, map as u32, 0, blocks, codec)?;
                }
                write_s = write_s.min(start.elapsed().as_secs_f64());
                let stats = client.stats()?;
                share = (stats.memory_bytes + stats.disk_bytes) as f64 / total_bytes as f64;
                let start = Instant::now();
                for reduce in 0..reduces {
                    assert_eq!(client.read(shuffle_id, reduce)?.len(), maps as usize);
                }
                read_s = read_s.min(start.elapsed().as_secs_f64());
                client.drop_shuffle(shuffle_id)?;
            }
            let name = format!("{tier}, {codec}");
            let (write_rate, read_rate) = (rate(total_bytes, write_s), rate(total_bytes, read_s));
            println!("{name:<26}{write_rate:>14.0}{read_rate:>14.0}{:>8.0} %", share * 100.0);
        }
    }
    drop(server);
    drop(store);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn rate(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 / seconds / 1e6
}

fn best(mut once: impl FnMut() -> std::io::Result<f64>) -> std::io::Result<f64> {
    let mut seconds = f64::INFINITY;
    for _ in 0..ROUNDS {
        seconds = seconds.min(once()?);
    }
    Ok(seconds)
}

/// Seconds to send `block` `times` times over a loopback socket and read it on the other side.
fn loopback(block: &[u8], times: usize) -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let mut landing = vec![0; block.len()];
    std::thread::scope(|scope| {
        let start = Instant::now();
        let sending = scope.spawn(move || (0..times).try_for_each(|_| sender.write_all(block)));
        for _ in 0..times {
            receiver.read_exact(&mut landing)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(seconds)
    })
}

/// Sensor rows that differ like real ones do.
fn rows(bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 200);
    let mut state = 1_u64;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (device, reading) = ((state >> 40) % 5_000, (state >> 33) % 100_000);
        let time_ms = 1_700_000_000_000 + text.len() as u64 * 3;
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            r#"{{"device_id":"sensor-{device}","event_time":{time_ms},"value":{}}}"#,
            reading as f64 / 100.0
        );
    }
    text.truncate(bytes);
    text.into_bytes()
}
