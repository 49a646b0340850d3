//! A damaged, shortened or vanished file is an error of its own kind, never other data.

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::{MapBlock, Shuffle, ShuffleError};
use std::fs;
use support::{payload, spec, world};

fn blocks() -> Vec<MapBlock> {
    vec![MapBlock::new(payload(0, 0, 0, 150), 3), MapBlock::empty(), MapBlock::new(payload(0, 0, 2, 90), 2)]
}

#[test]
fn a_flip_of_any_byte_is_corrupt_and_other_partitions_are_whole() {
    let world = world(0, 1 << 20);
    for (index, codec) in Codec::ALL.into_iter().enumerate() {
        let shuffle_id = index as u64;
        world.client.register(spec(shuffle_id, 1, 3, Tier::Nvme)).unwrap();
        world.client.write_map(shuffle_id, 0, 0, blocks(), codec).unwrap();
        let file = world.block_files().pop().unwrap();
        let good = fs::read(&file).unwrap();
        for position in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[position] ^= flip;
                fs::write(&file, &bad).unwrap();
                for (way, shuffle) in world.both() {
                    let mut corrupt = 0;
                    for (reduce, block) in blocks().into_iter().enumerate() {
                        match shuffle.read(shuffle_id, reduce as u32) {
                            Ok(read) => assert_eq!(read, [block.payload], "{way} {codec}: byte {position}"),
                            Err(ShuffleError::Corrupt { map: 0, .. }) => corrupt += 1,
                            Err(other) => panic!("{way} {codec}: byte {position}: {other}"),
                        }
                    }
                    assert_eq!(corrupt, 1, "{way} {codec}: byte {position} belongs to one block");
                }
            }
        }
        fs::write(&file, &good).unwrap();
        assert_eq!(world.client.read(shuffle_id, 0).unwrap(), [payload(0, 0, 0, 150)]);
        world.client.drop_shuffle(shuffle_id).unwrap();
    }
}

#[test]
fn a_shortened_file_is_corrupt_and_a_vanished_one_lost() {
    let world = world(0, 1 << 20);
    world.client.register(spec(1, 1, 3, Tier::Nvme)).unwrap();
    world.client.write_map(1, 0, 0, blocks(), Codec::None).unwrap();
    let file = world.block_files().pop().unwrap();
    let good = fs::read(&file).unwrap();
    for length in 0..good.len() {
        fs::write(&file, &good[..length]).unwrap();
        for (way, shuffle) in world.both() {
            let error = shuffle.read(1, 2).unwrap_err();
            assert!(matches!(error, ShuffleError::Corrupt { reduce: 2, .. }), "{way}: {length} bytes: {error}");
            assert_eq!(shuffle.read(1, 0).is_ok(), length >= 150, "{way}: {length} bytes");
        }
    }
    fs::remove_file(&file).unwrap();
    for (way, shuffle) in world.both() {
        let error = shuffle.read(1, 2).unwrap_err();
        assert!(matches!(error, ShuffleError::Lost { map: 0, reduce: 2, .. }), "{way}: {error}");
        assert_eq!(shuffle.read(1, 1).unwrap(), [Vec::<u8>::new()], "{way}: the empty block needs no file");
    }
}
