//! Budgets hold and no reader is ever wrong, whatever runs side by side; checked against a plain map.

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::{MapBlock, MapCommit, Shuffle, ShuffleClient, ShuffleError};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::{output, payload, spec, world};

#[test]
fn memory_stays_inside_its_budget_under_concurrent_writers() {
    const WRITERS: u32 = 8;
    const MAPS: u32 = 200;
    const MEMORY: u64 = 40_000;
    let world = world(MEMORY, 64 << 20);
    world.client.register(spec(1, MAPS, 4, Tier::Memory)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(SeqCst) {
                most = most.max(world.store.statistics().memory_bytes);
                std::thread::yield_now();
            }
            most
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = ShuffleClient::connect(world.server.address()).unwrap();
                scope.spawn(move || {
                    for map in (writer..MAPS).step_by(WRITERS as usize) {
                        let bytes = 200 + (map as usize * 37) % 1_500;
                        client.write_map(1, map, 0, output(map, 0, 4, bytes), Codec::None).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, SeqCst);
        let most = watcher.join().unwrap();
        assert!(most <= MEMORY, "{most} bytes in memory");
    });
    let stats = world.store.statistics();
    assert!(stats.demotions > 0 && stats.memory_bytes <= MEMORY, "{stats:?}");
    let total: u64 = (0..MAPS).map(|map| 4 * (200 + u64::from(map) * 37 % 1_500)).sum();
    assert_eq!(stats.memory_bytes + stats.disk_bytes, total, "every block is in exactly one tier");
    std::thread::scope(|scope| {
        for reduce in 0..4 {
            let client = &world.client;
            scope.spawn(move || {
                let expected: Vec<_> =
                    (0..MAPS).map(|map| payload(map, 0, reduce, 200 + (map as usize * 37) % 1_500)).collect();
                assert!(client.read(1, reduce).unwrap() == expected, "partition {reduce}");
            });
        }
    });
    world.client.drop_shuffle(1).unwrap();
    let stats = world.store.statistics();
    assert_eq!((stats.memory_bytes, stats.disk_bytes), (0, 0));
    assert!(world.block_files().is_empty());
}

#[test]
fn readers_beside_writers_and_drops_see_all_or_an_error() {
    let world = world(5_000, 1 << 20);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let client = &world.client;
            scope.spawn(move || {
                for round in 0..60 {
                    let shuffle_id = thread * 1_000 + round;
                    client.register(spec(shuffle_id, 3, 2, Tier::Memory)).unwrap();
                    for map in 0..3 {
                        client.write_map(shuffle_id, map, 0, output(map, 0, 2, 700), Codec::Lz4).unwrap();
                    }
                    let expected: Vec<_> = (0..3).map(|map| payload(map, 0, 1, 700)).collect();
                    assert_eq!(client.read(shuffle_id, 1).unwrap(), expected);
                    client.drop_shuffle(shuffle_id).unwrap();
                }
            });
        }
        // A fifth party reads what the others are writing and dropping.
        let store = &world.store;
        scope.spawn(move || {
            for pass in 0..600_u64 {
                match store.read((pass % 4) * 1_000 + pass % 60, 0) {
                    Ok(blocks) => {
                        assert_eq!(blocks, (0..3).map(|map| payload(map, 0, 0, 700)).collect::<Vec<_>>());
                    }
                    Err(ShuffleError::NotReady { .. } | ShuffleError::Unknown { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
    let stats = world.store.statistics();
    assert_eq!((stats.shuffles, stats.memory_bytes, stats.disk_bytes), (0, 0, 0), "{stats:?}");
    assert!(world.block_files().is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Register { shuffle_id: u64, on_disk: bool },
    Write { shuffle_id: u64, map: u32, attempt: u32, lengths: [usize; 2], codec: Codec },
    Read { shuffle_id: u64, reduce: u32 },
    Drop { shuffle_id: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let shuffle = 0..3_u64;
    prop_oneof![
        2 => (shuffle.clone(), any::<bool>()).prop_map(|(shuffle_id, on_disk)| Step::Register { shuffle_id, on_disk }),
        6 => (shuffle.clone(), 0..2_u32, 0..3_u32, [0..900_usize, 0..900_usize], 0..3_usize).prop_map(
            |(shuffle_id, map, attempt, lengths, codec)| {
                Step::Write { shuffle_id, map, attempt, lengths, codec: Codec::ALL[codec] }
            }
        ),
        6 => (shuffle.clone(), 0..2_u32).prop_map(|(shuffle_id, reduce)| Step::Read { shuffle_id, reduce }),
        1 => shuffle.prop_map(|shuffle_id| Step::Drop { shuffle_id }),
    ]
}

/// The winning attempt and payloads of each map, per registered shuffle.
type Model = HashMap<u64, (bool, [Option<(u32, [Vec<u8>; 2])>; 2])>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_store_answers_like_a_map_in_memory(steps in prop::collection::vec(step(), 1..80)) {
        const MEMORY: u64 = 1_500;
        let world = world(MEMORY, 1 << 20);
        let mut model = Model::new();
        for (turn, step) in steps.into_iter().enumerate() {
            let shuffle = world.both()[turn % 2].1;
            match step {
                Step::Register { shuffle_id, on_disk } => {
                    let tier = if on_disk { Tier::Nvme } else { Tier::Memory };
                    let result = shuffle.register(spec(shuffle_id, 2, 2, tier));
                    let before = model.entry(shuffle_id).or_insert((on_disk, [None, None])).0;
                    prop_assert_eq!(result.is_ok(), before == on_disk);
                }
                Step::Write { shuffle_id, map, attempt, lengths, codec } => {
                    let blocks = [0, 1].map(|reduce| {
                        let length = lengths[reduce as usize];
                        if length < 60 { Vec::new() } else { payload(map, attempt, reduce, length) }
                    });
                    let written = blocks.iter().map(|block| MapBlock::new(block.clone(), 1)).collect();
                    let result = shuffle.write_map(shuffle_id, map, attempt, written, codec);
                    match model.get_mut(&shuffle_id).map(|(_, maps)| &mut maps[map as usize]) {
                        None => prop_assert!(matches!(result, Err(ShuffleError::Unknown { .. })), "not Unknown"),
                        Some(Some((winner, _))) => {
                            prop_assert_eq!(result.unwrap(), MapCommit::AlreadyCommitted { attempt: *winner });
                        }
                        Some(slot) => {
                            let committed = matches!(result, Ok(MapCommit::Committed { .. }));
                            prop_assert!(committed);
                            *slot = Some((attempt, blocks));
                        }
                    }
                }
                Step::Read { shuffle_id, reduce } => {
                    let result = shuffle.read(shuffle_id, reduce);
                    match model.get(&shuffle_id) {
                        None => prop_assert!(matches!(result, Err(ShuffleError::Unknown { .. })), "not Unknown"),
                        Some((_, [Some(first), Some(second)])) => {
                            let reduce = reduce as usize;
                            let expected = vec![first.1[reduce].clone(), second.1[reduce].clone()];
                            prop_assert_eq!(result.unwrap(), expected);
                        }
                        Some(_) => prop_assert!(matches!(result, Err(ShuffleError::NotReady { .. })), "not NotReady"),
                    }
                }
                Step::Drop { shuffle_id } => {
                    prop_assert_eq!(shuffle.drop_shuffle(shuffle_id).unwrap(), model.remove(&shuffle_id).is_some());
                }
            }
            let stats = world.store.statistics();
            prop_assert!(stats.memory_bytes <= MEMORY, "{:?}", stats);
            prop_assert_eq!(stats.shuffles, model.len() as u64);
        }
    }
}
