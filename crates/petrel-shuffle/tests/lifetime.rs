//! Not written yet, expired, dropped and never registered are four different answers.

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::{Shuffle, ShuffleError};
use std::time::{Duration, Instant};
use support::{TTL, output, payload, spec, world};

#[test]
fn a_shuffle_is_not_ready_until_its_last_map_and_says_which_are_missing() {
    let world = world(1 << 20, 1 << 20);
    for (way, shuffle) in world.both() {
        shuffle.register(spec(3, 4, 1, Tier::Memory)).unwrap();
        shuffle.write_map(3, 2, 0, output(2, 0, 1, 50), Codec::Lz4).unwrap();
        let ShuffleError::NotReady { shuffle_id: 3, maps: 4, missing } = shuffle.read(3, 0).unwrap_err() else {
            panic!("{way}")
        };
        assert_eq!(missing, [0, 1, 3], "{way}");
        for map in [3, 1, 0] {
            shuffle.write_map(3, map, 0, output(map, 0, 1, 50), Codec::Lz4).unwrap();
        }
        let in_order: Vec<_> = (0..4).map(|map| payload(map, 0, 0, 50)).collect();
        assert_eq!(shuffle.read(3, 0).unwrap(), in_order, "{way}: blocks come in the order of the maps");
        assert!(shuffle.drop_shuffle(3).unwrap() && !shuffle.drop_shuffle(3).unwrap(), "{way}");
        assert!(matches!(shuffle.read(3, 0), Err(ShuffleError::Unknown { shuffle_id: 3 })), "{way}");
    }
}

#[test]
fn an_unused_shuffle_expires_and_is_not_mistaken_for_one_that_is_not_ready() {
    let world = world(1 << 20, 1 << 20);
    world.client.register(spec(1, 1, 1, Tier::Memory)).unwrap();
    world.client.register(spec(2, 2, 1, Tier::Nvme)).unwrap();
    world.client.write_map(1, 0, 0, output(0, 0, 1, 50), Codec::Lz4).unwrap();
    world.client.write_map(2, 0, 0, output(0, 0, 1, 50), Codec::Lz4).unwrap();
    assert_eq!(world.store.expire_idle(Instant::now()), 0, "both were just used");
    assert_eq!(world.store.expire_idle(Instant::now() + TTL + Duration::from_secs(1)), 2);
    world.client.register(spec(4, 1, 1, Tier::Memory)).unwrap();
    for (way, shuffle) in world.both() {
        for shuffle_id in [1, 2] {
            let error = shuffle.read(shuffle_id, 0).unwrap_err();
            assert!(matches!(error, ShuffleError::Expired { ttl_ms: 3_600_000, .. }), "{way}: {error}");
            let error = shuffle.write_map(shuffle_id, 0, 1, output(0, 1, 1, 5), Codec::None).unwrap_err();
            assert!(matches!(error, ShuffleError::Expired { .. }), "{way}: {error}");
            let error = shuffle.register(spec(shuffle_id, 1, 1, Tier::Memory)).unwrap_err();
            assert!(matches!(error, ShuffleError::Expired { .. }), "{way}: a number is not used again");
        }
        assert!(matches!(shuffle.read(4, 0), Err(ShuffleError::NotReady { .. })), "{way}");
        assert!(matches!(shuffle.read(99, 0), Err(ShuffleError::Unknown { shuffle_id: 99 })), "{way}");
    }
    let stats = world.store.statistics();
    assert_eq!((stats.expired, stats.memory_bytes, stats.disk_bytes), (2, 0, 0));
    assert!(world.block_files().is_empty());
}
