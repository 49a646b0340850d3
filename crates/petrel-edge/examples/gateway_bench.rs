//! The processes of `bench/gateway.py`, each in a role of its own so that their CPU time can be told apart:
//!
//! - `log DIR`: an embedded log with its server; prints its address.
//! - `gateway DIR LOG LISTEN`: a gateway; prints its address, then its status for every line on standard input.
//! - `fleet DIR GATEWAY CONNECTIONS RATE RECORDS`: devices that send one record a message at QoS 1 until so many are
//!   acknowledged; prints its status every 50 ms, the last one when all are acknowledged.
//! - `verify DIR LOG`: compares the ledger of the fleet with the log.

use petrel_core::Domain;
use petrel_core::seqset::SeqSet;
use petrel_core::trace::{Family, RateTrace};
use petrel_edge::fleet::{Fleet, FleetSettings};
use petrel_edge::ledger::Ledger;
use petrel_edge::{Gateway, GatewaySettings};
use petrel_ingest::log::TopicPartition;
use petrel_ingest::topics::standard_topics;
use petrel_ingest::{DiskLog, DiskLogSettings, LogServer};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const DOMAIN: Domain = Domain::SmartCity;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["log", directory] => log(Path::new(directory)),
        ["gateway", directory, log, listen] => gateway(Path::new(directory), log, listen),
        ["fleet", directory, gateway, connections, rate, records] => {
            fleet(Path::new(directory), gateway, connections.parse()?, rate.parse()?, records.parse()?)
        }
        ["verify", directory, log] => verify(Path::new(directory), log),
        _ => Err("expected log, gateway, fleet or verify with their arguments; see bench/gateway.py".into()),
    }
}

/// Prints a line at once. False when nobody reads any more.
fn print(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn log(directory: &Path) -> Result<(), Box<dyn Error>> {
    let log = DiskLog::open(directory.join("log"), DiskLogSettings::default())?;
    petrel_ingest::log::Log::create_topics(log.as_ref(), &standard_topics(&Domain::ALL, 4))?;
    let server = LogServer::start(log, "127.0.0.1:0".parse()?)?;
    print(&server.local_addr().to_string());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn gateway(directory: &Path, log: &str, listen: &str) -> Result<(), Box<dyn Error>> {
    let log = petrel_ingest::connect(log)?;
    let settings = GatewaySettings { listen: listen.parse()?, ..GatewaySettings::new("bench", directory) };
    let gateway = Gateway::start(settings, log)?;
    print(&gateway.local_addr().to_string());
    for line in std::io::stdin().lines() {
        line?;
        if !print(&serde_json::to_string(&gateway.status())?) {
            break;
        }
    }
    Ok(())
}

fn fleet(directory: &Path, gateway: &str, connections: usize, rate: f64, records: u64) -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::start(FleetSettings {
        domains: vec![DOMAIN],
        devices: connections,
        gateways: vec![gateway.parse()?],
        trace: RateTrace::synthetic(Family::Steady, rate, 3_600, 1),
        max_pending: 20_000,
        data_dir: directory.to_path_buf(),
        ..FleetSettings::default()
    })?;
    while fleet.is_running() && fleet.status().acknowledged < records {
        if !print(&serde_json::to_string(&fleet.status())?) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    print(&serde_json::to_string(&fleet.stop(Duration::from_secs(60))?)?);
    Ok(())
}

/// The identity of a record.
#[derive(Deserialize)]
struct Identity {
    device_id: String,
    seq: u64,
}

fn verify(directory: &Path, log: &str) -> Result<(), Box<dyn Error>> {
    let log = petrel_ingest::connect(log)?;
    let (mut devices, mut doubled, mut bytes, mut records) = (BTreeMap::<String, SeqSet>::new(), 0_u64, 0, 0_u64);
    for (partition, range) in log.offsets(DOMAIN.raw_topic())?.into_iter().enumerate() {
        let at = TopicPartition { topic: DOMAIN.raw_topic().to_string(), partition: u32::try_from(partition)? };
        let mut from = range.start;
        while from < range.end {
            let fetched = log.fetch(&at, from, range.end, 4 << 20)?;
            for record in fetched.batch.iter() {
                let Identity { device_id, seq } = serde_json::from_slice(record.value)?;
                doubled += u64::from(!devices.entry(device_id).or_default().insert(seq));
                bytes += record.value.len();
                records += 1;
            }
            from = fetched.next_offset;
        }
    }
    let mut lost = 0;
    for (device, acknowledged) in Ledger::read(&directory.join("ledger"))? {
        let found = devices.get(&device).map_or(0, |seen| seen.intersection_len(&acknowledged));
        lost += acknowledged.len() - found;
    }
    let figures = serde_json::json!({
        "records": records,
        "lost": lost,
        "doubled": doubled,
        "record_bytes": bytes as f64 / records.max(1) as f64,
    });
    print(&figures.to_string());
    Ok(())
}
