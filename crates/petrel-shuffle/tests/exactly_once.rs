//! However many attempts of a map write, readers see exactly one of them, whole.

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::protocol::{Request, frame};
use petrel_shuffle::{BlockEntry, MapCommit, Shuffle, ShuffleError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use support::{output, payload, spec, world};

const MEMORY: u64 = 1 << 20;

#[test]
fn of_racing_attempts_one_wins_and_only_its_blocks_are_read() {
    let world = world(MEMORY, MEMORY);
    for (id, (way, shuffle)) in world.both().into_iter().enumerate() {
        let id = id as u64;
        for round in 0..30 {
            let (shuffle_id, attempts) = (id * 100 + round, 8);
            let tier = if round % 2 == 0 { Tier::Memory } else { Tier::Nvme };
            shuffle.register(spec(shuffle_id, 1, 3, tier)).unwrap();
            let start = Barrier::new(attempts);
            let commits: Vec<MapCommit> = std::thread::scope(|scope| {
                let write = |attempt: u32| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        shuffle.write_map(shuffle_id, 0, attempt, output(0, attempt, 3, 500), Codec::Lz4).unwrap()
                    })
                };
                let writers: Vec<_> = (0..attempts as u32).map(write).collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            let winners: Vec<usize> =
                (0..attempts).filter(|&attempt| matches!(commits[attempt], MapCommit::Committed { .. })).collect();
            assert_eq!(winners.len(), 1, "{way}: {commits:?}");
            let winner = winners[0] as u32;
            for (attempt, commit) in commits.iter().enumerate().filter(|(attempt, _)| *attempt != winners[0]) {
                assert_eq!(*commit, MapCommit::AlreadyCommitted { attempt: winner }, "{way}: attempt {attempt}");
            }
            for reduce in 0..3 {
                assert_eq!(shuffle.read(shuffle_id, reduce).unwrap(), [payload(0, winner, reduce, 500)], "{way}");
            }
            assert!(shuffle.drop_shuffle(shuffle_id).unwrap());
        }
        let stats = shuffle.stats().unwrap();
        assert_eq!((stats.memory_bytes, stats.disk_bytes), (0, 0), "{way}: losing attempts left blocks");
        assert!(world.block_files().is_empty(), "{way}");
    }
}

#[test]
fn a_speculative_attempt_after_the_first_changes_nothing() {
    let world = world(MEMORY, MEMORY);
    for (id, (way, shuffle)) in world.both().into_iter().enumerate() {
        let shuffle_id = id as u64;
        shuffle.register(spec(shuffle_id, 2, 1, Tier::Memory)).unwrap();
        shuffle.write_map(shuffle_id, 1, 4, output(1, 4, 1, 100), Codec::Zstd).unwrap();
        let late = shuffle.write_map(shuffle_id, 1, 5, output(1, 5, 1, 100), Codec::Zstd).unwrap();
        assert_eq!(late, MapCommit::AlreadyCommitted { attempt: 4 }, "{way}");
        let again = shuffle.write_map(shuffle_id, 1, 4, output(1, 4, 1, 100), Codec::Zstd).unwrap();
        assert_eq!(again, MapCommit::AlreadyCommitted { attempt: 4 }, "{way}: the same write sent twice");
        shuffle.write_map(shuffle_id, 0, 0, output(0, 0, 1, 100), Codec::None).unwrap();
        assert_eq!(shuffle.read(shuffle_id, 0).unwrap(), [payload(0, 0, 0, 100), payload(1, 4, 0, 100)], "{way}");
    }
}

#[test]
fn a_writer_that_dies_in_the_middle_leaves_nothing() {
    let world = world(MEMORY, MEMORY);
    world.client.register(spec(9, 1, 1, Tier::Memory)).unwrap();
    let block = payload(0, 0, 0, 5_000);
    let entry = BlockEntry {
        codec: Codec::None,
        stored_bytes: block.len() as u32,
        raw_bytes: block.len() as u32,
        rows: 1,
        crc32: crc32fast::hash(&block),
    };
    let head = Request::WriteMap { shuffle_id: 9, map: 0, attempt: 0, entries: vec![entry] }.encode();
    let mut bytes = b"PSHF\x01\x00\x00\x00".to_vec();
    bytes.extend(frame(&head, block.len() as u64));
    bytes.extend(&block);
    // Cut in the hello, the prefix, the head, the body, and before its last byte.
    for cut in [3, 8, 15, 30, bytes.len() - 3_000, bytes.len() - 1] {
        let mut stream = TcpStream::connect(world.server.address()).unwrap();
        stream.write_all(&bytes[..cut]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The server hangs up once it saw the cut: no waiting by the clock.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.len() <= 8, "cut at {cut}: an answer to half a request");
        let missing = world.client.read(9, 0).unwrap_err();
        assert!(matches!(missing, ShuffleError::NotReady { .. }), "cut at {cut}: {missing}");
        assert_eq!(world.store.statistics().memory_bytes, 0, "cut at {cut}");
    }
    let commit = world.client.write_map(9, 0, 1, output(0, 1, 1, 64), Codec::Lz4).unwrap();
    assert!(matches!(commit, MapCommit::Committed { .. }));
    assert_eq!(world.client.read(9, 0).unwrap(), [payload(0, 1, 0, 64)]);
}

#[test]
fn a_write_to_a_dropped_shuffle_is_refused_and_leaves_nothing() {
    let world = world(MEMORY, MEMORY);
    for (way, shuffle) in world.both() {
        shuffle.register(spec(1, 1, 1, Tier::Nvme)).unwrap();
        shuffle.drop_shuffle(1).unwrap();
        let refused = shuffle.write_map(1, 0, 0, output(0, 0, 1, 10), Codec::Lz4).unwrap_err();
        assert!(matches!(refused, ShuffleError::Unknown { shuffle_id: 1 }), "{way}: {refused}");
        assert!(world.block_files().is_empty(), "{way}");
    }
}
