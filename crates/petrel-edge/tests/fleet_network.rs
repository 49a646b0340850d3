//! Does what devices see acknowledged reach the gateway, whole and in the ledger, over lost connections and restarts?
//! The gateway here is a small MQTT sink of this test, which drops connections as its case says.

#![allow(clippy::unwrap_used)]

use petrel_core::Domain;
use petrel_core::trace::{Family, RateTrace};
use petrel_edge::fleet::{Fleet, FleetSettings, FleetStatus, ProtocolVersion};
use petrel_edge::ledger::Ledger;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Seen {
    /// How often each (device, seq) came.
    records: BTreeMap<(String, u64), u32>,
    /// Sequence numbers whose message was acknowledged.
    acknowledged: BTreeMap<String, BTreeSet<u64>>,
    metadata: BTreeMap<String, u32>,
    malformed: u64,
    messages: u64,
    repeated: u64,
    /// The first record seen under each identity, and how many came later with other content.
    lines: HashMap<(String, u64), Vec<u8>>,
    changed: u64,
    largest_batch: usize,
}

/// How the sink behaves.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    /// Drops a connection after so many PUBLISH packets, without acknowledging the last ones.
    drop_after: Option<u64>,
    /// Reads and never acknowledges records.
    silent: bool,
}

#[derive(Clone)]
struct Sink {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    manners: Arc<Mutex<Manners>>,
}

impl Sink {
    fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sink = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            manners: Arc::new(Mutex::new(manners)),
        };
        let accepting = sink.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = accepting.clone();
                std::thread::spawn(move || sink.serve(stream));
            }
        });
        sink
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut bytes, mut chunk) = (bytes::BytesMut::new(), [0; 16384]);
        let (mut version, mut published) = (0, 0_u64);
        loop {
            let Ok(count @ 1..) = stream.read(&mut chunk) else { return };
            bytes.extend_from_slice(&chunk[..count]);
            let mut answers = Vec::new();
            loop {
                if version == 0 && bytes.len() >= 10 {
                    // The level byte follows the fixed header (2 bytes here) and the protocol name (6 bytes).
                    version = bytes[8];
                }
                let publish = match version {
                    4 => match v4::Packet::read(&mut bytes, 1 << 20) {
                        Ok(v4::Packet::Connect(_)) => Err(&[0x20, 2, 0, 0][..]),
                        Ok(v4::Packet::PingReq) => Err(&[0xd0, 0][..]),
                        Ok(v4::Packet::Publish(publish)) => {
                            Ok((publish.topic, publish.pkid, publish.dup, publish.payload))
                        }
                        Ok(_) => Err(&[][..]),
                        Err(_) => break,
                    },
                    5 => match v5::Packet::read(&mut bytes, Some(1 << 20)) {
                        Ok(v5::Packet::Connect(..)) => Err(&[0x20, 6, 0, 0, 3, 0x21, 0, 9][..]),
                        Ok(v5::Packet::PingReq(_)) => Err(&[0xd0, 0][..]),
                        Ok(v5::Packet::Publish(publish)) => {
                            let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                            Ok((topic, publish.pkid, publish.dup, publish.payload))
                        }
                        Ok(_) => Err(&[][..]),
                        Err(_) => break,
                    },
                    _ => break,
                };
                let (topic, packet_id, dup, payload) = match publish {
                    Ok(publish) => publish,
                    Err(answer) => {
                        answers.extend_from_slice(answer);
                        continue;
                    }
                };
                published += 1;
                let manners = *self.manners.lock().unwrap();
                let drops = manners.drop_after.is_some_and(|limit| published >= limit);
                let is_metadata = topic.ends_with("/meta");
                let answered = packet_id > 0 && !drops && (is_metadata || !manners.silent);
                self.note(&topic, dup, &payload, answered);
                if answered {
                    answers.extend_from_slice(&[0x40, 2]);
                    answers.extend_from_slice(&packet_id.to_be_bytes());
                }
                if drops {
                    return;
                }
            }
            if stream.write_all(&answers).is_err() {
                return;
            }
        }
    }

    fn note(&self, topic: &str, dup: bool, payload: &[u8], answered: bool) {
        let mut seen = self.seen.lock().unwrap();
        let device = topic.split('/').nth(2).unwrap().to_string();
        if topic.ends_with("/meta") {
            let meta: Value = serde_json::from_slice(payload).unwrap();
            assert_eq!(meta["device_id"], device.as_str());
            *seen.metadata.entry(device).or_default() += 1;
            return;
        }
        seen.messages += 1;
        seen.repeated += u64::from(dup);
        let lines: Vec<&[u8]> = payload.split(|byte| *byte == b'\n').collect();
        seen.largest_batch = seen.largest_batch.max(lines.len());
        for line in lines {
            let record = serde_json::from_slice::<Value>(line).ok();
            let seq = record
                .filter(|record| record["device_id"] == device.as_str())
                .and_then(|record| record["seq"].as_u64());
            let Some(seq) = seq.filter(|seq| *seq > 0) else {
                seen.malformed += 1;
                continue;
            };
            let identity = (device.clone(), seq);
            let first = seen.lines.entry(identity.clone()).or_insert_with(|| line.to_vec());
            let changed = first != line;
            seen.changed += u64::from(changed);
            *seen.records.entry(identity).or_default() += 1;
            if answered {
                seen.acknowledged.entry(device.clone()).or_default().insert(seq);
            }
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn settings(directory: &Path, gateways: &[&Sink], rate: f64) -> FleetSettings {
    FleetSettings {
        devices: 12,
        gateways: gateways.iter().map(|sink| sink.address).collect(),
        trace: RateTrace::synthetic(Family::Steady, rate, 60, 1),
        data_dir: directory.to_path_buf(),
        in_flight: 8,
        seed: 42,
        ..FleetSettings::default()
    }
}

fn assert_balanced(status: &FleetStatus) {
    let accounted = status.acknowledged + status.unconfirmed + status.in_flight + status.pending;
    assert_eq!(status.produced, accounted, "{status:?}");
}

/// The ledger says that every device saw 1..=n acknowledged, and the sink has all of it.
fn assert_ledger_is_whole(directory: &Path, status: &FleetStatus, seen: &Seen) {
    let ledger = Ledger::read(&directory.join("ledger")).unwrap();
    let mut total = 0;
    for (device, set) in &ledger {
        assert!(
            set.is_empty() || (set.intervals().len() == 1 && set.min() == Some(1)),
            "{device}: {:?}",
            set.intervals()
        );
        total += set.len();
        for seq in 1..=set.max().unwrap_or(0) {
            assert!(
                seen.records.contains_key(&(device.clone(), seq)),
                "{device} {seq} is acknowledged and not in the sink"
            );
        }
    }
    assert_eq!(total, status.acknowledged);
    assert_eq!(total, seen.records.len() as u64);
}

#[test]
fn all_records_are_acknowledged_in_both_versions() {
    for protocol in [ProtocolVersion::V4, ProtocolVersion::V5] {
        let (directory, one, two) =
            (tempfile::tempdir().unwrap(), Sink::start(Manners::default()), Sink::start(Manners::default()));
        let fleet =
            Fleet::start(FleetSettings { protocol, ..settings(directory.path(), &[&one, &two], 3_000.0) }).unwrap();
        wait_until("1,000 records", || fleet.status().acknowledged >= 1_000);
        wait_until("all devices", || fleet.status().connected == 12);
        assert_balanced(&fleet.status());
        let status = fleet.stop(DEADLINE).unwrap();
        assert_eq!((status.in_flight, status.pending, status.resent_messages), (0, 0, 0));
        assert_balanced(&status);
        let (one, two) = (one.seen.lock().unwrap(), two.seen.lock().unwrap());
        assert_eq!((one.metadata.len(), two.metadata.len()), (6, 6), "devices take turns over the gateways");
        assert!(one.records.values().chain(two.records.values()).all(|times| *times == 1));
        assert_eq!(one.records.len() + two.records.len(), status.acknowledged as usize);
    }
}

#[test]
fn lost_connections_lose_nothing_and_repeat_the_same_bytes() {
    let (directory, sink) =
        (tempfile::tempdir().unwrap(), Sink::start(Manners { drop_after: Some(40), silent: false }));
    let fleet = Fleet::start(settings(directory.path(), &[&sink], 4_000.0)).unwrap();
    wait_until("connections are lost", || fleet.status().connections_lost >= 40);
    wait_until("2,000 records", || fleet.status().acknowledged >= 2_000);
    let status = fleet.stop(DEADLINE).unwrap();
    assert_eq!((status.in_flight, status.pending), (0, 0));
    assert_balanced(&status);
    let seen = sink.seen.lock().unwrap();
    assert_ledger_is_whole(directory.path(), &status, &seen);
    assert_eq!(seen.changed, 0, "a repeated record differs from the first one");
    assert!(seen.repeated > 0 && status.resent_messages >= seen.repeated, "{status:?}");
    assert_eq!(seen.metadata.values().map(|times| u64::from(*times)).max().map(|most| most > 1), Some(true));
}

#[test]
fn a_fleet_that_ended_abruptly_uses_unacknowledged_numbers_again() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners { drop_after: None, silent: true }));
    let fleet = Fleet::start(settings(directory.path(), &[&sink], 2_000.0)).unwrap();
    wait_until("all windows are full", || fleet.status().in_flight == 12 * 8);
    assert_eq!(fleet.status().acknowledged, 0);
    wait_until("they have arrived", || sink.seen.lock().unwrap().records.len() == 12 * 8);
    drop(fleet);
    let ledger = Ledger::read(&directory.path().join("ledger")).unwrap();
    assert_eq!((ledger.len(), ledger.values().all(|set| set.is_empty())), (12, true));

    *sink.manners.lock().unwrap() = Manners::default();
    let fleet = Fleet::start(settings(directory.path(), &[&sink], 2_000.0)).unwrap();
    wait_until("records again", || fleet.status().acknowledged >= 500);
    let status = fleet.stop(DEADLINE).unwrap();
    let seen = sink.seen.lock().unwrap();
    assert_ledger_is_whole(directory.path(), &status, &seen);
    assert!(seen.records.values().any(|times| *times > 1));
}

#[test]
fn a_restarted_fleet_goes_on_and_fills_its_holes_first() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    let device = "traffic-00000";
    {
        let mut ledger = Ledger::open(&directory.path().join("ledger")).unwrap();
        let slot = ledger.slot(device);
        ledger.acknowledge(slot, 3, 5);
        ledger.acknowledge(slot, 9, 10);
        ledger.flush().unwrap();
    }
    let fleet = Fleet::start(settings(directory.path(), &[&sink], 1_000.0)).unwrap();
    wait_until("300 records", || fleet.status().acknowledged >= 300);
    let status = fleet.stop(DEADLINE).unwrap();
    assert_balanced(&status);
    let ledger = Ledger::read(&directory.path().join("ledger")).unwrap();
    assert!(ledger.values().all(|set| set.intervals().len() == 1 && set.min() == Some(1)), "{ledger:?}");
    assert!(ledger[device].max() > Some(10));
    let seen = sink.seen.lock().unwrap();
    let sent: BTreeSet<u64> = seen.records.keys().filter(|(name, _)| name == device).map(|(_, seq)| *seq).collect();
    let last = *sent.last().unwrap();
    let expected: BTreeSet<u64> = (1..=last).filter(|seq| ![3, 4, 5, 9, 10].contains(seq)).collect();
    assert_eq!(sent, expected);
    assert_eq!(status.acknowledged, seen.records.len() as u64 + 5);
}

#[test]
fn several_records_travel_in_one_message() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    let fleet =
        Fleet::start(FleetSettings { records_per_message: 10, ..settings(directory.path(), &[&sink], 6_000.0) })
            .unwrap();
    wait_until("3,000 records", || fleet.status().acknowledged >= 3_000);
    let status = fleet.stop(DEADLINE).unwrap();
    let seen = sink.seen.lock().unwrap();
    assert_ledger_is_whole(directory.path(), &status, &seen);
    assert_eq!(seen.largest_batch, 10);
    assert!(seen.messages < status.acknowledged / 4, "{} messages", seen.messages);
}

#[test]
fn repetitions_and_malformed_payloads_leave_the_numbers_alone() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    let wanted =
        FleetSettings { duplicate_share: 0.1, malformed_share: 0.05, ..settings(directory.path(), &[&sink], 4_000.0) };
    let fleet = Fleet::start(wanted).unwrap();
    wait_until("4,000 records", || fleet.status().acknowledged >= 4_000);
    let status = fleet.stop(DEADLINE).unwrap();
    assert_balanced(&status);
    assert!(status.duplicates_sent > 100 && status.malformed_sent > 50, "{status:?}");
    wait_until("all malformed payloads came", || sink.seen.lock().unwrap().malformed == status.malformed_sent);
    let seen = sink.seen.lock().unwrap();
    assert_ledger_is_whole(directory.path(), &status, &seen);
    let extra: u64 = seen.records.values().map(|times| u64::from(*times) - 1).sum();
    assert_eq!(extra, status.duplicates_sent);
}

#[test]
fn a_gateway_that_is_down_stalls_the_trace_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, sink) = (TcpListener::bind("127.0.0.1:0").unwrap(), Sink::start(Manners::default()));
    let address = listener.local_addr().unwrap();
    drop(listener);
    let base = settings(directory.path(), &[&sink], 5_000.0);
    let down = FleetSettings { gateways: vec![address], max_pending: 500, ..base.clone() };
    let fleet = Fleet::start(down).unwrap();
    wait_until("the trace stalls", || fleet.status().stalled_ms > 200);
    let status = fleet.status();
    assert_eq!((status.pending, status.acknowledged, status.connected), (500, 0, 0));
    assert!(status.connections_lost > 0);
    let status = fleet.stop(Duration::from_millis(100)).unwrap();
    assert_eq!(status.pending, 500, "what is left is reported");
    // On the same directory, with the gateway there again.
    let fleet = Fleet::start(base).unwrap();
    wait_until("500 records", || fleet.status().acknowledged >= 500);
    let status = fleet.stop(DEADLINE).unwrap();
    assert_ledger_is_whole(directory.path(), &status, &sink.seen.lock().unwrap());
}

#[test]
fn qos_0_is_unconfirmed_and_numbers_are_not_used_twice() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    for round in 1..=2_u64 {
        let fleet = Fleet::start(FleetSettings { qos: 0, ..settings(directory.path(), &[&sink], 2_000.0) }).unwrap();
        wait_until("records", || fleet.status().unconfirmed >= 300 * round);
        let status = fleet.stop(DEADLINE).unwrap();
        assert_balanced(&status);
        assert_eq!(status.acknowledged, 0);
        wait_until("all arrived", || sink.seen.lock().unwrap().records.len() as u64 == status.produced);
    }
    assert!(sink.seen.lock().unwrap().records.values().all(|times| *times == 1));
}

#[test]
fn a_boost_raises_the_rate_and_a_wrong_one_is_refused() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    let one_domain = FleetSettings { domains: vec![Domain::Healthcare], ..settings(directory.path(), &[&sink], 100.0) };
    let fleet = Fleet::start(one_domain).unwrap();
    fleet.set_boost(20.0).unwrap();
    wait_until("the rate is up", || fleet.status().current_rate == 2_000.0);
    assert!(fleet.set_boost(-1.0).is_err() && fleet.set_boost(f64::NAN).is_err());
    assert!(fleet.is_running());
    let status = fleet.stop(DEADLINE).unwrap();
    assert_eq!(status.current_rate, 0.0);
    let seen = sink.seen.lock().unwrap();
    assert!(seen.metadata.keys().all(|device| device.starts_with("vital-signs") || device.starts_with("ecg")));
}

#[test]
fn two_fleets_cannot_share_a_directory() {
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start(Manners::default()));
    let _first = Fleet::start(settings(directory.path(), &[&sink], 10.0)).unwrap();
    let error = Fleet::start(settings(directory.path(), &[&sink], 10.0)).unwrap_err();
    assert!(error.to_string().contains("no other fleet"), "{error}");
}
