//! A gateway is the subscriber of an existing broker: what it has acknowledged is in the log once, whatever is killed
//! and whatever is delivered again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use bytes::BytesMut;
use common::{PATIENCE, identities, open_log, records, wait};
use petrel_core::domain::{TOPIC_DEAD_LETTER, TOPIC_METADATA};
use petrel_core::seqset::SeqSet;
use petrel_edge::{Gateway, GatewaySettings, UpstreamBroker, UpstreamState, UpstreamStatus};
use petrel_ingest::LogServer;
use rumqttc::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::{Error, QoS as QoS5};
use rumqttc::{Client, Event, MqttOptions};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn record(device: &str, seq: u64) -> String {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    format!(
        r#"{{"device_id":"{device}","domain":"smart-city","kind":"traffic","event_time":{now_ms},"seq":{seq},"speed_kmh":41.5}}"#
    )
}

fn settings(directory: &Path, broker_url: &str) -> GatewaySettings {
    GatewaySettings {
        upstream: Some(UpstreamBroker::parse("url", broker_url).unwrap()),
        ..GatewaySettings::new("g1", directory)
    }
}

fn upstream(gateway: &Gateway) -> UpstreamStatus {
    gateway.status().upstream.expect("the gateway has an upstream broker")
}

/// One connection of a broker that does what the test says, with a codec that nobody here wrote.
struct Session {
    stream: TcpStream,
    received: BytesMut,
}

impl Session {
    fn accept(listener: &TcpListener) -> Self {
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, received: BytesMut::new() }
    }

    /// Accepts the connection and its subscription.
    fn welcome(listener: &TcpListener, session_present: bool) -> Self {
        let mut session = Self::accept(listener);
        let Packet::Connect(connect, ..) = session.receive() else { panic!("no CONNECT") };
        assert_eq!((connect.client_id.as_str(), connect.clean_start), ("petrel-upstream-g1", false));
        session.send(&Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success, properties: None }));
        let Packet::Subscribe(subscribe) = session.receive() else { panic!("no SUBSCRIBE") };
        let return_codes = vec![SubscribeReasonCode::Success(QoS5::AtLeastOnce); subscribe.filters.len()];
        session.send(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None }));
        session
    }

    fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn publish(&mut self, packet_id: u16, is_duplicate: bool, payload: &str) {
        let topic = "iot/smart-city/d1";
        let mut publish = Publish::new(topic, QoS5::AtLeastOnce, payload.to_string(), None);
        publish.pkid = packet_id;
        publish.dup = is_duplicate;
        self.send(&Packet::Publish(publish));
    }

    fn receive(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.received, None) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the gateway sent no MQTT: {error}"),
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).unwrap();
            assert!(length > 0, "the gateway closed the connection");
            self.received.extend_from_slice(&chunk[..length]);
        }
    }

    fn acknowledged(&mut self) -> u16 {
        loop {
            match self.receive() {
                Packet::PubAck(PubAck { pkid, .. }) => return pkid,
                // It asks whether its acknowledgements were read, and gets no answer: they may have been lost.
                Packet::PingReq(_) => {}
                other => panic!("no PUBACK but {other:?}"),
            }
        }
    }
}

#[test]
fn a_message_delivered_again_is_acknowledged_and_not_taken_twice() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let (one, two, three) = (record("d1", 1), record("d1", 2), record("d1", 3));

    let gateway = Gateway::start(settings(folder.path(), &url), log.clone()).unwrap();
    let mut session = Session::welcome(&listener, false);
    session.publish(1, false, &one);
    session.publish(2, false, &two);
    assert_eq!((session.acknowledged(), session.acknowledged()), (1, 2));
    // The broker did not see the second acknowledgement, and says so on the next connection of the same process,
    drop(session);
    let mut session = Session::welcome(&listener, true);
    session.publish(2, true, &two);
    // while number 1 is free and means a new message: it was on its way when the connection was lost.
    session.publish(1, true, &three);
    assert_eq!((session.acknowledged(), session.acknowledged()), (2, 1));
    wait("the subscription counts", || upstream(&gateway).subscribed_times == 2);
    assert_eq!(upstream(&gateway).repeated_messages, 1);
    drop(gateway);
    // Nor did it see any later one, and delivers again to the next process.
    let gateway = Gateway::start(settings(folder.path(), &url), log.clone()).unwrap();
    let mut session = Session::welcome(&listener, true);
    session.publish(2, true, &two);
    session.publish(1, true, &three);
    // The same content without the mark is a message of its own.
    session.publish(3, false, "not JSON");
    session.publish(4, false, "not JSON");
    assert_eq!((1..=4).map(|_| session.acknowledged()).collect::<Vec<u16>>(), [2, 1, 3, 4]);
    let status = gateway.shutdown(PATIENCE).unwrap();
    assert_eq!((status.accepted_records, status.dead_letter, status.acknowledged_messages), (0, 2, 4));
    let status = status.upstream.unwrap();
    assert_eq!((status.repeated_messages, status.new_sessions, status.last_error), (2, 0, None));
    let mut goodbye = Vec::new();
    session.stream.read_to_end(&mut goodbye).unwrap();
    assert!(goodbye.ends_with(&[0xe0, 0]), "DISCONNECT with reason 0, as short as MQTT 5 allows");

    let (devices, doubled) = identities(log.as_ref());
    assert_eq!((devices["d1"].intervals(), doubled), (&[(1, 3)][..], 0));
    assert_eq!(records(log.as_ref(), TOPIC_DEAD_LETTER).len(), 2);
}

#[test]
fn a_refusal_is_shown_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://user:secret@{}", listener.local_addr().unwrap());
    let gateway = Gateway::start(settings(folder.path(), &url), log).unwrap();
    let mut session = Session::accept(&listener);
    assert!(matches!(session.receive(), Packet::Connect(_, None, Some(_))));
    // What a broker answers that knows only MQTT 3.
    session.stream.write_all(&[0x20, 2, 0, 1]).unwrap();
    wait("the refusal is noted", || upstream(&gateway).last_error.is_some());
    let status = upstream(&gateway);
    assert!(status.last_error.unwrap().contains("MQTT 5"));
    assert!(!status.broker.contains("secret"), "{}", status.broker);

    let mut session = Session::accept(&listener);
    assert!(matches!(session.receive(), Packet::Connect(..)));
    session.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    wait("bytes that are not MQTT are noted", || {
        upstream(&gateway).last_error.is_some_and(|error| error.contains("no broker sends"))
    });
    let mut session = Session::welcome(&listener, false);
    wait("the third attempt works", || upstream(&gateway).state == UpstreamState::Subscribed);
    session.publish(1, false, &record("d1", 1));
    assert_eq!(session.acknowledged(), 1);
    assert_eq!(gateway.shutdown(PATIENCE).unwrap().accepted_records, 1);
}

/// Mosquitto on a free port, ended with the test.
struct Mosquitto {
    process: Child,
    port: u16,
}

impl Mosquitto {
    fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = directory.join("mosquitto.conf");
        let location = directory.display();
        // What waits for an absent gateway is dropped by default above 1,000 messages. As root, it would change to a
        // user who may not write here.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {location}/\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Mosquitto is not installed: apt-get install mosquitto");
        let mut broker = Self { process, port };
        wait("Mosquitto listens", || {
            assert_eq!(broker.process.try_wait().unwrap(), None, "Mosquitto ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        broker
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The child of the next test: a gateway between the broker and the log server of the test, until it is killed.
#[test]
fn subscribes_until_killed() {
    let Ok(directory) = std::env::var("PETREL_TEST_GATEWAY_DIR") else { return };
    let log = petrel_ingest::connect(&std::env::var("PETREL_TEST_GATEWAY_LOG").unwrap()).unwrap();
    let broker_url = std::env::var("PETREL_TEST_GATEWAY_BROKER").unwrap();
    let gateway = Gateway::start(settings(Path::new(&directory), &broker_url), log).unwrap();
    wait("it is subscribed", || upstream(&gateway).state == UpstreamState::Subscribed);
    eprintln!("subscribed");
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "starts Mosquitto: apt-get install mosquitto"]
fn kill_nine_of_a_gateway_behind_mosquitto_loses_and_doubles_nothing() {
    const DEVICES: u64 = 20;
    const RECORDS_PER_DEVICE: u64 = 1_500;
    const KILLS: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    let log = open_log(folder.path());
    let server = LogServer::start(log.clone(), "127.0.0.1:0".parse().unwrap()).unwrap();
    let mosquitto = Mosquitto::start(folder.path());
    let start = || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "subscribes_until_killed", "--nocapture"])
            .env("PETREL_TEST_GATEWAY_DIR", folder.path())
            .env("PETREL_TEST_GATEWAY_LOG", format!("petrel://{}", server.local_addr()))
            .env("PETREL_TEST_GATEWAY_BROKER", mosquitto.url())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "subscribed"), "the gateway says that it is subscribed");
        child
    };
    let log_len = || {
        let ranges = petrel_ingest::log::Log::offsets(log.as_ref(), "iot-smart-city-raw").unwrap();
        ranges.iter().map(|range| range.end - range.start).sum::<u64>()
    };

    let mut child = start();
    let mut options = MqttOptions::new("devices", "127.0.0.1", mosquitto.port);
    options.set_keep_alive(Duration::from_secs(5)).set_inflight(50);
    let (client, mut connection) = Client::new(options, 100);
    let messages = DEVICES * RECORDS_PER_DEVICE + DEVICES;
    let publisher = std::thread::spawn(move || {
        for device in 1..=DEVICES {
            let topic = format!("iot/smart-city/d{device}/meta");
            client.publish(topic, QoS::AtLeastOnce, true, format!(r#"{{"device_id":"d{device}"}}"#)).unwrap();
        }
        for seq in 1..=RECORDS_PER_DEVICE {
            for device in 1..=DEVICES {
                let name = format!("d{device}");
                let topic = format!("iot/smart-city/{name}");
                client.publish(topic, QoS::AtLeastOnce, false, record(&name, seq)).unwrap();
            }
        }
        client
    });
    let acknowledged = std::thread::spawn(move || {
        let mut acknowledged = 0;
        for event in connection.iter() {
            acknowledged += u64::from(matches!(event.unwrap(), Event::Incoming(rumqttc::Packet::PubAck(_))));
            if acknowledged == messages {
                break;
            }
        }
    });
    for kill in 1..=KILLS {
        let goal = kill * DEVICES * RECORDS_PER_DEVICE / (KILLS + 2);
        wait("records arrive", || log_len() >= goal);
        child.kill().unwrap();
        child.wait().unwrap();
        child = start();
    }
    drop(publisher.join().unwrap());
    acknowledged.join().unwrap();
    wait("the log has everything", || log_len() >= DEVICES * RECORDS_PER_DEVICE);
    child.kill().unwrap();
    child.wait().unwrap();

    // A last gateway takes what the broker may still deliver again.
    let gateway = Gateway::start(settings(folder.path(), &mosquitto.url()), log.clone()).unwrap();
    wait("it is subscribed", || upstream(&gateway).state == UpstreamState::Subscribed);
    let marker = r#"{"device_id":"marker"}"#;
    let (client, mut connection) = Client::new(MqttOptions::new("marker", "127.0.0.1", mosquitto.port), 10);
    client.publish("iot/smart-city/marker/meta", QoS::AtLeastOnce, false, marker).unwrap();
    connection.iter().find(|event| matches!(event, Ok(Event::Incoming(rumqttc::Packet::PubAck(_))))).unwrap().unwrap();
    wait("it has taken everything before the marker", || gateway.status().metadata_records == 1);
    let status = gateway.shutdown(PATIENCE).unwrap().upstream.unwrap();
    assert_eq!(status.new_sessions, 0, "the broker kept the session");

    let (devices, doubled) = identities(log.as_ref());
    let mut all = SeqSet::default();
    for seq in 1..=RECORDS_PER_DEVICE {
        all.insert(seq);
    }
    let expected: BTreeMap<String, SeqSet> = (1..=DEVICES).map(|device| (format!("d{device}"), all.clone())).collect();
    assert_eq!(devices, expected, "the log holds exactly what was published");
    assert_eq!(doubled, 0);
    assert_eq!(records(log.as_ref(), TOPIC_METADATA).len() as u64, DEVICES + 1);
    assert_eq!(records(log.as_ref(), TOPIC_DEAD_LETTER).len(), 0);
}
