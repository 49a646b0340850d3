//! When memory is short, blocks move to disk and stay readable; when the disk is full, writers are told.

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::{MapBlock, Shuffle, ShuffleError};
use support::{output, payload, spec, world};

#[test]
fn the_coldest_map_output_moves_to_disk_and_is_still_read() {
    let world = world(3_000, 1 << 20);
    for (way, shuffle) in world.both() {
        let before = shuffle.stats().unwrap();
        shuffle.register(spec(1, 1, 1, Tier::Memory)).unwrap();
        shuffle.register(spec(2, 3, 1, Tier::Memory)).unwrap();
        shuffle.write_map(1, 0, 0, output(0, 0, 1, 1_000), Codec::None).unwrap();
        shuffle.write_map(2, 0, 0, output(0, 0, 1, 1_000), Codec::None).unwrap();
        shuffle.write_map(2, 1, 0, output(1, 0, 1, 1_000), Codec::None).unwrap();
        shuffle.read(1, 0).unwrap();
        // Memory is full; shuffle 1 was used last, so map 0 of shuffle 2 has to go.
        shuffle.write_map(2, 2, 0, output(2, 0, 1, 1_000), Codec::None).unwrap();
        let full = shuffle.stats().unwrap();
        assert_eq!((full.memory_bytes, full.memory_blocks), (3_000, 3), "{way}");
        assert_eq!((full.disk_bytes, full.disk_blocks), (1_000, 1), "{way}");
        assert_eq!(full.demotions - before.demotions, 1, "{way}");
        assert_eq!(full.demoted_bytes - before.demoted_bytes, 1_000, "{way}");

        shuffle.read(1, 0).unwrap();
        let hot = shuffle.stats().unwrap();
        assert_eq!(hot.disk_hits, full.disk_hits, "{way}: the hot shuffle was demoted");
        let expected: Vec<_> = (0..3).map(|map| payload(map, 0, 0, 1_000)).collect();
        assert_eq!(shuffle.read(2, 0).unwrap(), expected, "{way}");
        let cold = shuffle.stats().unwrap();
        assert_eq!((cold.disk_hits - hot.disk_hits, cold.memory_hits - hot.memory_hits), (1, 2), "{way}");

        shuffle.drop_shuffle(1).unwrap();
        shuffle.drop_shuffle(2).unwrap();
        let empty = shuffle.stats().unwrap();
        assert_eq!((empty.memory_bytes, empty.disk_bytes, empty.memory_blocks, empty.disk_blocks), (0, 0, 0, 0));
    }
}

#[test]
fn an_output_larger_than_memory_goes_straight_to_disk() {
    let world = world(1_000, 1 << 20);
    world.client.register(spec(1, 1, 2, Tier::Memory)).unwrap();
    world.client.write_map(1, 0, 0, output(0, 0, 2, 2_000), Codec::None).unwrap();
    let stats = world.store.statistics();
    assert_eq!((stats.memory_bytes, stats.disk_bytes, stats.spills, stats.demotions), (0, 4_000, 1, 0));
    assert_eq!(world.client.read(1, 1).unwrap(), [payload(0, 0, 1, 2_000)]);
}

#[test]
fn a_full_disk_is_told_and_harms_nobody() {
    let world = world(1_000, 2_500);
    for (way, shuffle) in world.both() {
        shuffle.register(spec(1, 4, 1, Tier::Memory)).unwrap();
        for map in 0..3 {
            shuffle.write_map(1, map, 0, output(map, 0, 1, 1_000), Codec::None).unwrap();
        }
        let refused = shuffle.write_map(1, 3, 0, output(3, 0, 1, 1_000), Codec::None).unwrap_err();
        let expected = (Tier::Nvme, 1_000, 2_000, 2_500);
        let ShuffleError::Full { tier, needed_bytes, used_bytes, budget_bytes } = refused else {
            panic!("{way}: {refused}");
        };
        assert_eq!((tier, needed_bytes, used_bytes, budget_bytes), expected, "{way}");
        assert!(matches!(shuffle.read(1, 0), Err(ShuffleError::NotReady { .. })), "{way}");
        // A smaller one still fits, and everything before it is whole.
        shuffle.write_map(1, 3, 1, vec![MapBlock::empty()], Codec::None).unwrap();
        let blocks = shuffle.read(1, 0).unwrap();
        assert_eq!(blocks[..3], (0..3).map(|map| payload(map, 0, 0, 1_000)).collect::<Vec<_>>(), "{way}");
        assert_eq!(blocks[3], Vec::<u8>::new(), "{way}");
        shuffle.drop_shuffle(1).unwrap();
        assert!(world.block_files().is_empty(), "{way}");
    }
}

#[test]
fn empty_blocks_cost_no_byte_and_no_file() {
    let world = world(1 << 20, 1 << 20);
    world.client.register(spec(1, 2, 1_000, Tier::Nvme)).unwrap();
    for map in 0..2 {
        world.client.write_map(1, map, 0, vec![MapBlock::empty(); 1_000], Codec::Zstd).unwrap();
    }
    assert_eq!(world.client.read(1, 999).unwrap(), vec![Vec::<u8>::new(); 2]);
    assert!(world.block_files().is_empty());
    assert_eq!(world.store.statistics().disk_blocks, 0);
}

#[test]
fn tiers_of_later_editions_are_refused_by_name() {
    let world = world(1_000, 1_000);
    for (way, shuffle) in world.both() {
        for tier in [Tier::S3, Tier::Archive] {
            let refused = shuffle.register(spec(1, 1, 1, tier)).unwrap_err();
            assert!(matches!(refused, ShuffleError::UnsupportedTier { .. }), "{way}");
            assert_eq!(refused.to_string(), format!("shuffle tier: got `{tier}`, expected memory or nvme"), "{way}");
        }
    }
}

#[test]
fn bad_arguments_name_the_field_and_what_is_allowed() {
    let world = world(1_000, 1_000);
    for (way, shuffle) in world.both() {
        shuffle.register(spec(5, 2, 2, Tier::Memory)).unwrap();
        let say = |error: ShuffleError| error.to_string();
        let cases = [
            (say(shuffle.register(spec(6, 0, 1, Tier::Memory)).unwrap_err()), "maps: got `0`, expected 1 to 65536"),
            (
                say(shuffle.register(spec(6, 1, 70_000, Tier::Memory)).unwrap_err()),
                "reduces: got `70000`, expected 1 to 65536",
            ),
            (say(shuffle.read(5, 2).unwrap_err()), "reduce: got `2`, expected less than 2 reduce partitions"),
            (
                say(shuffle.write_map(5, 2, 0, output(2, 0, 2, 1), Codec::None).unwrap_err()),
                "map: got `2`, expected less than 2 maps",
            ),
            (
                say(shuffle.write_map(5, 0, 0, output(0, 0, 3, 1), Codec::None).unwrap_err()),
                "blocks: got `3`, expected one per reduce: 2",
            ),
        ];
        for (said, expected) in cases {
            assert_eq!(said, expected, "{way}");
        }
        shuffle.register(spec(5, 2, 2, Tier::Memory)).unwrap();
        let conflict = shuffle.register(spec(5, 3, 2, Tier::Memory)).unwrap_err();
        assert!(matches!(conflict, ShuffleError::SpecConflict { shuffle_id: 5, .. }), "{way}");
    }
}
