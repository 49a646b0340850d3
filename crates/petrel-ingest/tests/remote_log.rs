//! The log over TCP survives servers that restart, connections that break, and peers that talk rubbish.

#![allow(clippy::unwrap_used)] // Also outside of the functions that clippy knows as tests.

mod common;

use common::log_cases::{assert_values, at, batch};
use petrel_core::Codec;
use petrel_ingest::log::TopicSpec;
use petrel_ingest::{DiskLog, DiskLogSettings, Log, LogError, LogServer, RemoteLog, connect};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Served {
    _directory: tempfile::TempDir,
    log: Arc<DiskLog>,
    server: LogServer,
}

fn serve() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let log = DiskLog::open(directory.path(), DiskLogSettings::default()).unwrap();
    log.create_topics(&[TopicSpec { name: "raw".to_string(), partitions: 1 }]).unwrap();
    let server = LogServer::start(log.clone(), "127.0.0.1:0".parse().unwrap()).unwrap();
    Served { _directory: directory, log, server }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_restarted_server_goes_on_with_the_same_producer() {
    let Served { _directory, log, mut server } = serve();
    let address = server.local_addr();
    let remote = connect(&server.url()).unwrap();
    let mut producer = remote.producer("gateway", Codec::Lz4).unwrap();
    for position in 1..=5_u64 {
        producer.append(&[(at("raw", 0), batch([format!("{position}")]))], position).unwrap();
        server.shutdown();
        server = LogServer::start(log.clone(), address).unwrap();
    }
    assert_values(&*remote, &at("raw", 0), &["1", "2", "3", "4", "5"], "");
    drop(producer);
    server.shutdown();
}

/// Passes bytes on and cuts the connection at seeded moments, most of all between a request and its answer.
fn cutting_proxy(server: SocketAddr, stop: Arc<AtomicBool>, cuts: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut connection = 0_u64;
        while let Ok((client, _)) = listener.accept() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            connection += 1;
            let upstream = TcpStream::connect(server).unwrap();
            // Bytes of answers that come through before the cut; the greeting takes 16.
            let answer_bytes = 16 + (connection * 7) % 23;
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let (mut from_server, mut to_client) = (upstream, client);
            let cuts = cuts.clone();
            std::thread::spawn(move || {
                let copied = std::io::copy(&mut (&mut from_server).take(answer_bytes), &mut to_client);
                if copied.is_ok_and(|bytes| bytes == answer_bytes) {
                    cuts.fetch_add(1, Ordering::SeqCst);
                }
                let _ = to_client.shutdown(Shutdown::Both);
                let _ = from_server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn an_append_whose_answer_is_lost_is_stored_once() {
    let served = serve();
    let (stop, cuts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let proxy = cutting_proxy(served.server.local_addr(), stop.clone(), cuts.clone());
    let remote = RemoteLog::connect_within(&proxy.to_string(), Duration::from_secs(60)).unwrap();
    let mut producer = remote.producer("gateway", Codec::None).unwrap();
    for position in 1..=60_u64 {
        producer.append(&[(at("raw", 0), batch([format!("{position}")]))], position).unwrap();
    }
    let expected: Vec<String> = (1..=60).map(|position| format!("{position}")).collect();
    assert_values(&*served.log, &at("raw", 0), &expected, "");
    assert!(cuts.load(Ordering::SeqCst) >= 10, "{} connections were cut", cuts.load(Ordering::SeqCst));
    stop.store(true, Ordering::SeqCst);
    let _ = TcpStream::connect(proxy);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = RemoteLog::connect_within(&free, Duration::from_millis(50)).err().unwrap();
    assert!(matches!(&error, LogError::Io { what, .. } if what.contains(&free)), "{error}");
}

#[test]
fn an_occupied_port_is_named() {
    let served = serve();
    let address = served.server.local_addr();
    let error = LogServer::start(served.log.clone(), address).err().unwrap();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn another_version_is_refused_on_both_sides() {
    // A client of version 9 gets the server's greeting, then the end.
    let served = serve();
    let mut stream = TcpStream::connect(served.server.local_addr()).unwrap();
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting).unwrap();
    let mut other = greeting;
    other[8] = 9;
    stream.write_all(&other).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);

    // A server of version 9 is refused by the client at once, not after its time for repeats.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&other).unwrap();
        let _ = stream.read(&mut [0; 16]);
    });
    let error = RemoteLog::connect_within(&address, Duration::from_secs(3600)).err().unwrap();
    assert!(matches!(&error, LogError::Remote { detail, .. } if detail.contains("version 9")), "{error}");
    server.join().unwrap();
}

#[test]
fn one_connection_too_many_is_refused_and_its_place_is_free_again_later() {
    let served = serve();
    let address = served.server.local_addr();
    let greet = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).unwrap();
        let is_refused = greeting[12] == 1;
        let _ = stream.write_all(&{
            let mut own = greeting;
            own[12] = 0;
            own
        });
        (stream, is_refused)
    };
    let mut open: Vec<TcpStream> = Vec::new();
    for number in 0..petrel_ingest::server::MAX_CONNECTIONS {
        let (stream, is_refused) = greet();
        assert!(!is_refused, "connection {number}");
        open.push(stream);
    }
    assert!(greet().1, "connection {} must be refused", open.len());
    open.clear();
    eventually("all connections are closed", || served.server.connections() == 0);
    let remote = RemoteLog::connect(&address.to_string()).unwrap();
    assert_eq!(remote.topics().unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn rubbish_closes_its_own_connection_and_no_other(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), with_greeting in any::<bool>(), length in any::<u32>(),
    ) {
        static SERVED: std::sync::OnceLock<(SocketAddr, Served)> = std::sync::OnceLock::new();
        let (address, served) = SERVED.get_or_init(|| {
            let served = serve();
            (served.server.local_addr(), served)
        });
        let mut stream = TcpStream::connect(address).unwrap();
        let mut greeting = [0; 16];
        stream.read_exact(&mut greeting).unwrap();
        if with_greeting {
            stream.write_all(&greeting).unwrap();
            stream.write_all(&length.to_le_bytes()).unwrap();
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        prop_assert!(rest.len() < 1 << 16);
        let remote = RemoteLog::connect(&address.to_string()).unwrap();
        prop_assert_eq!(remote.offsets("raw").unwrap()[0].end, 0);
        prop_assert_eq!(served.log.topics().unwrap().len(), 1);
    }
}

#[test]
fn shutdown_ends_with_clients_connected() {
    let served = serve();
    let remote =
        RemoteLog::connect_within(&served.server.local_addr().to_string(), Duration::from_millis(100)).unwrap();
    remote.topics().unwrap();
    served.server.shutdown();
    assert!(remote.topics().is_err());
}
