//! Devices publish to a gateway: what is acknowledged is in the log once, what is wrong is a dead letter, nothing stops
//! the stream.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{PATIENCE, identities, open_log, records, wait};
use petrel_core::Codec;
use petrel_core::domain::{TOPIC_DEAD_LETTER, TOPIC_METADATA};
use petrel_core::trace::{Family, RateTrace};
use petrel_edge::fleet::{Fleet, FleetSettings};
use petrel_edge::ledger::Ledger;
use petrel_edge::{Gateway, GatewaySettings};
use petrel_ingest::DeadLetter;
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

fn record(seq: u64) -> String {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    format!(
        r#"{{"device_id":"d1","domain":"smart-city","kind":"traffic","event_time":{now_ms},"seq":{seq},"speed_kmh":41.5}}"#
    )
}

/// Publishes with a client that nobody here wrote, and waits for every PUBACK.
fn publish_all(address: SocketAddr, messages: &[(&str, Vec<u8>)]) {
    let mut options = MqttOptions::new("tester", address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(5)).set_max_packet_size(32 << 20, 32 << 20);
    let (client, mut connection) = Client::new(options, messages.len() + 1);
    for (topic, payload) in messages {
        client.publish(*topic, QoS::AtLeastOnce, false, payload.clone()).unwrap();
    }
    let mut acknowledged = 0;
    for event in connection.iter() {
        if let Event::Incoming(Packet::PubAck(_)) = event.unwrap() {
            acknowledged += 1;
            if acknowledged == messages.len() {
                return;
            }
        }
    }
}

#[test]
fn a_fleet_of_all_domains_arrives_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let gateway = Gateway::start(GatewaySettings::new("g1", folder.path()), log.clone()).unwrap();
    let fleet = Fleet::start(FleetSettings {
        devices: 30,
        gateways: vec![gateway.local_addr()],
        trace: RateTrace::synthetic(Family::Steady, 5_000.0, 60, 3),
        data_dir: folder.path().to_path_buf(),
        records_per_message: 5,
        duplicate_share: 0.05,
        malformed_share: 0.05,
        ..FleetSettings::default()
    })
    .unwrap();
    wait("5,000 records are acknowledged", || fleet.status().acknowledged > 5_000);
    let status = fleet.stop(PATIENCE).unwrap();
    assert_eq!((status.in_flight, status.pending), (0, 0));
    let gateway_status = gateway.shutdown(PATIENCE).unwrap();
    assert_eq!(gateway_status.queued_records, 0);

    let ledger = Ledger::read(&folder.path().join("ledger")).unwrap();
    let (devices, doubled) = identities(log.as_ref());
    assert_eq!(devices, ledger, "the log holds exactly what was acknowledged");
    assert!(
        status.duplicates_sent > 0 && doubled > 0,
        "messages sent twice are in the log twice; the engine drops them"
    );
    let letters = records(log.as_ref(), TOPIC_DEAD_LETTER);
    assert!(letters.len() as u64 >= status.malformed_sent, "{} of {}", letters.len(), status.malformed_sent);
    assert_eq!(records(log.as_ref(), TOPIC_METADATA).len(), 30);
}

#[test]
fn bad_input_is_a_dead_letter_with_its_reason_and_the_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let gateway = Gateway::start(GatewaySettings::new("g1", folder.path()), log.clone()).unwrap();
    let city = "iot/smart-city/d1";
    let messages: Vec<(&str, Vec<u8>)> = vec![
        (city, record(1).into_bytes()),
        (city, b"{\"device_id\":".to_vec()),
        (city, record(2).replace("41.5", "NaN").into_bytes()),
        (city, record(3).replace("\"seq\":3", "\"seq\":\"three\"").into_bytes()),
        (city, record(4).replace("\"event_time\":1", "\"event_time\":9").into_bytes()),
        (city, record(5).replace("\"event_time\":1", "\"event_time\":").into_bytes()),
        ("iot/farming/d1", record(6).into_bytes()),
        ("something/else", record(7).into_bytes()),
        (city, vec![b'x'; 10 << 20]),
        (city, format!("[{},{}]", record(8), record(9)).into_bytes()),
        ("iot/smart-city/d1/meta", b"[]".to_vec()),
    ];
    publish_all(gateway.local_addr(), &messages);
    gateway.shutdown(PATIENCE).unwrap();
    let (devices, doubled) = identities(log.as_ref());
    assert_eq!(doubled, 0);
    assert_eq!(devices["d1"].intervals(), &[(1, 1), (8, 9)]);
    let letters: Vec<DeadLetter> =
        records(log.as_ref(), TOPIC_DEAD_LETTER).iter().map(|letter| serde_json::from_slice(letter).unwrap()).collect();
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    let expected = [
        "ancient-timestamp",
        "future-timestamp",
        "malformed-json",
        "malformed-json",
        "missing-field",
        "too-large",
        "unknown-domain",
        "unknown-topic",
        "wrong-type",
    ];
    assert_eq!(reasons, expected);
    let huge = letters.iter().find(|letter| letter.reason == "too-large").unwrap();
    assert_eq!(huge.payload_bytes, 10 << 20);
    assert!(huge.payload.len() <= 64 << 10);
}

#[test]
fn bytes_that_are_not_mqtt_close_only_their_connection() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let gateway = Gateway::start(GatewaySettings::new("g1", folder.path()), log.clone()).unwrap();
    // The first one could be the head of a 69-byte PUBACK, the second that of a PUBLISH, the third of a CONNECT.
    let garbage: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"3", b"\x16\x03\x01", b"\x00", b"SSH-2.0-x\r\n"];
    for bytes in garbage {
        let mut stream = TcpStream::connect(gateway.local_addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Bytes that the gateway did not read any more may turn its close into a reset.
        let _closed_or_reset = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{bytes:?}");
    }
    publish_all(gateway.local_addr(), &[("iot/smart-city/d1", record(1).into_bytes())]);
    let status = gateway.shutdown(PATIENCE).unwrap();
    assert_eq!((status.accepted_records, status.malformed_connections), (1, garbage.len() as u64));
}

#[test]
fn an_occupied_port_and_a_queue_in_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let first = Gateway::start(GatewaySettings::new("g1", folder.path()), log.clone()).unwrap();
    let listen = first.local_addr();
    let other = GatewaySettings { listen, ..GatewaySettings::new("g2", folder.path()) };
    let error = Gateway::start(other, log.clone()).unwrap_err().to_string();
    assert!(error.contains(&listen.to_string()), "{error}");
    let error = Gateway::start(GatewaySettings::new("g1", folder.path()), log.clone()).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    let error = Gateway::start(GatewaySettings::new("../g", folder.path()), log).unwrap_err().to_string();
    assert!(error.starts_with("name: got `../g`"), "{error}");
}

/// The child of the next test: a gateway on the log server that the test gives it, until it is killed.
#[test]
fn serves_until_killed() {
    let Ok(directory) = std::env::var("PETREL_TEST_GATEWAY_DIR") else { return };
    let log = petrel_ingest::connect(&std::env::var("PETREL_TEST_GATEWAY_LOG").unwrap()).unwrap();
    let listen = std::env::var("PETREL_TEST_GATEWAY_LISTEN").unwrap().parse().unwrap();
    let settings = GatewaySettings { listen, codec: Codec::Zstd, ..GatewaySettings::new("g1", directory) };
    let gateway = Gateway::start(settings, log).unwrap();
    eprintln!("listening {}", gateway.local_addr());
    loop {
        std::thread::park();
    }
}

#[test]
fn kill_nine_of_a_gateway_loses_and_doubles_nothing() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let server = petrel_ingest::LogServer::start(log.clone(), "127.0.0.1:0".parse().unwrap()).unwrap();
    let start = |listen: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serves_until_killed", "--nocapture"])
            .env("PETREL_TEST_GATEWAY_DIR", folder.path())
            .env("PETREL_TEST_GATEWAY_LOG", format!("petrel://{}", server.local_addr()))
            .env("PETREL_TEST_GATEWAY_LISTEN", listen)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines
            .into_iter()
            .find_map(|line| line.strip_prefix("listening ").map(str::to_string))
            .expect("the gateway names its address");
        (child, address)
    };
    let (mut child, address) = start("127.0.0.1:0");
    let fleet = Fleet::start(FleetSettings {
        devices: 20,
        gateways: vec![address.parse().unwrap()],
        trace: RateTrace::synthetic(Family::Steady, 4_000.0, 60, 5),
        data_dir: folder.path().to_path_buf(),
        ..FleetSettings::default()
    })
    .unwrap();
    for round in 1..=5_u64 {
        wait("records are acknowledged", || fleet.status().acknowledged > 1_500 * round);
        child.kill().unwrap();
        child.wait().unwrap();
        child = start(&address).0;
    }
    let status = fleet.stop(PATIENCE).unwrap();
    assert_eq!((status.in_flight, status.pending), (0, 0));
    let ledger = Ledger::read(&folder.path().join("ledger")).unwrap();
    let complete = || {
        let (devices, _) = identities(log.as_ref());
        ledger.iter().all(|(device, acknowledged)| {
            devices.get(device).is_some_and(|seen| seen.intersection_len(acknowledged) == acknowledged.len())
        })
    };
    wait("the log has everything that was acknowledged", complete);
    child.kill().unwrap();
    child.wait().unwrap();
    let (devices, doubled) = identities(log.as_ref());
    assert_eq!(devices, ledger, "no record of which the devices know nothing");
    // A device that did not see a PUBACK sends again, as MQTT asks it to; nothing else may double.
    assert!(doubled <= status.resent_messages, "{doubled} doubled, {} sent again", status.resent_messages);
}
