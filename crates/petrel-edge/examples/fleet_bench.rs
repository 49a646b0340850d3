//! What does the fleet cost? `cargo run --release --example fleet_bench -- [DEVICES] [RATE] [RECORDS_PER_MESSAGE]`
//! sends for ten seconds to a sink in a second process, which acknowledges everything at once, and prints CPU
//! microseconds of the fleet process per record.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use petrel_core::trace::{Family, RateTrace};
use petrel_edge::fleet::{Fleet, FleetSettings, ProtocolVersion};
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "sink") {
        return sink();
    }
    let number = |index: usize, default: f64| arguments.get(index).map_or(Ok(default), |text| text.parse::<f64>());
    let (devices, rate, records_per_message) = (number(0, 300.0)?, number(1, 20_000.0)?, number(2, 1.0)?);
    let mut sink = Command::new(std::env::current_exe()?).arg("sink").stdout(Stdio::piped()).spawn()?;
    let mut address = String::new();
    BufReader::new(sink.stdout.take().ok_or("sink has no output")?).read_line(&mut address)?;
    let directory = tempfile::tempdir()?;
    let started_s = cpu_seconds();
    let fleet = Fleet::start(FleetSettings {
        devices: devices as usize,
        gateways: vec![address.trim().parse()?],
        trace: RateTrace::synthetic(Family::Steady, rate, 60, 1),
        records_per_message: records_per_message as usize,
        protocol: ProtocolVersion::V4,
        data_dir: directory.path().to_path_buf(),
        ..FleetSettings::default()
    })?;
    std::thread::sleep(Duration::from_secs(10));
    let status = fleet.stop(Duration::from_secs(30))?;
    let cpu_us = (cpu_seconds() - started_s) * 1e6;
    sink.kill()?;
    sink.wait()?;
    println!(
        "{devices} devices, {records_per_message} records a message: {} records, {:.2} CPU microseconds a record, stalled {} ms",
        status.acknowledged,
        cpu_us / status.acknowledged.max(1) as f64,
        status.stalled_ms
    );
    Ok(())
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Accepts and acknowledges everything, on one thread, as a gateway does.
fn sink() -> Result<(), Box<dyn Error>> {
    const LISTENER: Token = Token(usize::MAX);
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    println!("{}", listener.local_addr()?);
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    poll.registry().register(&mut stream, Token(connections.len()), Interest::READABLE)?;
                    connections.push((stream, Vec::new()));
                }
            } else if let Some((stream, unread)) = connections.get_mut(event.token().0) {
                acknowledge(stream, unread)?;
            }
        }
        // A group commit takes about as long.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Answers what a connection has sent.
fn acknowledge(stream: &mut TcpStream, unread: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 65_536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => unread.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let (mut answers, mut position) = (Vec::new(), 0);
    while let Some((first, body, length)) = packet(&unread[position..]) {
        match first & 0xf0 {
            0x10 => answers.extend_from_slice(&[0x20, 2, 0, 0]),
            0x30 => {
                let topic_bytes = usize::from(u16::from_be_bytes([body[0], body[1]]));
                answers.extend_from_slice(&[0x40, 2, body[2 + topic_bytes], body[3 + topic_bytes]]);
            }
            _ => {}
        }
        position += length;
    }
    unread.drain(..position);
    stream.write_all(&answers)
}

/// First byte, body and whole length of the first packet.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut length, mut position) = (0, 1);
    loop {
        let byte = *bytes.get(position)?;
        length |= usize::from(byte & 0x7f) << (7 * (position - 1));
        position += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((bytes[0], bytes.get(position..position + length)?, position + length))
}
