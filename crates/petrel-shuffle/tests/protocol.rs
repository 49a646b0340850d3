//! Any bytes at all: the decoders answer, the server hangs up, and others are served on.

mod support;

use petrel_core::{Codec, InvalidValue, Tier};
use petrel_shuffle::protocol::{MAX_BODY_BYTES, PREFIX_BYTES, Prefix, Request, Response, frame};
use petrel_shuffle::{BlockEntry, Shuffle, ShuffleError, ShuffleSpec};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use support::{output, payload, spec, world};

fn entry() -> impl Strategy<Value = BlockEntry> {
    (0..3_usize, 0..100_000_u32, 0..100_000_u32, any::<u64>(), any::<u32>()).prop_map(
        |(codec, stored, more, rows, crc32)| {
            let codec = Codec::ALL[codec];
            let raw_bytes = if codec == Codec::None { stored } else { stored + more };
            BlockEntry { codec, stored_bytes: stored, raw_bytes, rows, crc32 }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u64>(), any::<u32>(), any::<u32>(), 0..4_usize, 0..3_usize).prop_map(
            |(shuffle_id, maps, reduces, tier, codec)| {
                let (tier, codec) = (Tier::ALL[tier], Codec::ALL[codec]);
                Request::Register(ShuffleSpec { shuffle_id, maps, reduces, tier, codec })
            }
        ),
        (any::<u64>(), any::<u32>(), any::<u32>(), prop::collection::vec(entry(), 0..20))
            .prop_map(|(shuffle_id, map, attempt, entries)| Request::WriteMap { shuffle_id, map, attempt, entries }),
        (any::<u64>(), any::<u32>()).prop_map(|(shuffle_id, reduce)| Request::Read { shuffle_id, reduce }),
        any::<u64>().prop_map(|shuffle_id| Request::Drop { shuffle_id }),
        Just(Request::Stats),
    ]
}

fn body_of(request: &Request) -> u64 {
    match request {
        Request::WriteMap { entries, .. } => entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum(),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), body in any::<u64>()) {
        if let Ok(request) = Request::decode(&bytes, body) {
            prop_assert_eq!(body_of(&request), body);
            prop_assert_eq!(request.encode(), bytes.clone());
        }
        let _ = Response::decode(&bytes, body);
        if let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>()
            && let Ok(prefix) = Prefix::decode(prefix, MAX_BODY_BYTES)
        {
            prop_assert!(prefix.body_bytes <= MAX_BODY_BYTES);
        }
    }

    // Mostly valid input reaches deeper than noise: a real message with some bytes changed.
    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        request in request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut head = request.encode();
        for (position, value) in damage {
            let at = position.index(head.len());
            head[at] = value;
        }
        let body = body_of(&request);
        if let Ok(other) = Request::decode(&head, body) {
            prop_assert_eq!(other.encode(), head.clone());
        }
        let short = &request.encode()[..cut.index(request.encode().len())];
        prop_assert!(Request::decode(short, body).is_err(), "a cut message was accepted");
    }

    #[test]
    fn requests_come_back_as_they_went(request in request()) {
        let body = body_of(&request);
        prop_assert_eq!(Request::decode(&request.encode(), body).unwrap(), request.clone());
        prop_assert!(Request::decode(&request.encode(), body + 1).is_err());
    }

    #[test]
    fn errors_keep_their_kind_and_words(missing in prop::collection::vec(any::<u32>(), 1..50), text in ".{0,80}", number: u64) {
        let errors = [
            ShuffleError::NotReady { shuffle_id: number, maps: 9, missing },
            ShuffleError::Expired { shuffle_id: number, ttl_ms: 5 },
            ShuffleError::Unknown { shuffle_id: number },
            ShuffleError::Lost { shuffle_id: number, map: 1, reduce: 2, detail: text.clone() },
            ShuffleError::Corrupt { shuffle_id: number, map: 1, reduce: 2, detail: text.clone() },
            ShuffleError::Full { tier: Tier::Nvme, needed_bytes: 1, used_bytes: number, budget_bytes: 3 },
            ShuffleError::UnsupportedTier { tier: Tier::Archive },
            ShuffleError::SpecConflict { shuffle_id: number, registered: text.clone(), asked: "b".into() },
            ShuffleError::TooManyShuffles { limit: number },
            ShuffleError::Invalid(InvalidValue::new("map", &text, "less")),
        ];
        for error in errors {
            let said = format!("{error:?}");
            match Response::decode(&Response::Failed(error).encode(), 0) {
                Ok(Response::Failed(back)) => prop_assert_eq!(format!("{back:?}"), said),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

#[test]
fn garbage_on_the_socket_ends_that_connection_only() {
    let world = world(1 << 20, 1 << 20);
    world.client.register(spec(1, 1, 1, Tier::Memory)).unwrap();
    let hello = b"PSHF\x01\x00\x00\x00";
    let after_hello = |rest: &[u8]| [hello.as_slice(), rest].concat();
    let mut bad_crc = frame(&Request::Stats.encode(), 0);
    bad_crc[4] ^= 1;
    let mut huge_head = frame(&Request::Stats.encode(), 0);
    huge_head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let huge_body = frame(&Request::Stats.encode(), u64::MAX);
    let cases = [
        ("http", b"GET / HTTP/1.1\r\nHost: petrel\r\n\r\n".to_vec()),
        ("other version", b"PSHF\x63\x00\x00\x00".to_vec()),
        ("zeros", after_hello(&[0; 64])),
        ("ones", after_hello(&[0xff; 64])),
        ("head checksum", after_hello(&bad_crc)),
        ("head of 4 GiB", after_hello(&huge_head)),
        ("body of 16 EiB", after_hello(&huge_body)),
        ("unknown kind", after_hello(&frame(&[99], 0))),
        ("body without reason", after_hello(&[frame(&Request::Stats.encode(), 5), b"12345".to_vec()].concat())),
    ];
    for (name, bytes) in cases {
        let mut stream = TcpStream::connect(world.server.address()).unwrap();
        // The server may hang up before all is written, which is one way to refuse.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() <= 8, "{name}: answered with {} bytes", answer.len());
        assert!(matches!(world.client.read(1, 0), Err(ShuffleError::NotReady { .. })), "{name}: not served on");
    }
    world.client.write_map(1, 0, 0, output(0, 0, 1, 40), Codec::Lz4).unwrap();
    assert_eq!(world.client.read(1, 0).unwrap(), [payload(0, 0, 0, 40)]);
}

#[test]
fn a_block_that_changed_on_the_way_is_not_committed() {
    let world = world(1 << 20, 1 << 20);
    world.client.register(spec(1, 1, 1, Tier::Memory)).unwrap();
    let block = payload(0, 0, 0, 100);
    let entry = BlockEntry {
        codec: Codec::None,
        stored_bytes: block.len() as u32,
        raw_bytes: block.len() as u32,
        rows: 1,
        crc32: crc32fast::hash(&block),
    };
    let mut changed = block.clone();
    changed[50] ^= 4;
    let error = world.store.commit(1, 0, 0, &[entry], changed.into()).unwrap_err();
    assert!(matches!(error, ShuffleError::Corrupt { map: 0, reduce: 0, .. }), "{error}");
    assert!(matches!(world.client.read(1, 0), Err(ShuffleError::NotReady { .. })));
    assert!(world.store.commit(1, 0, 0, &[entry], [block.clone(), vec![0]].concat().into()).is_err());
    world.store.commit(1, 0, 1, &[entry], block.clone().into()).unwrap();
    assert_eq!(world.client.read(1, 0).unwrap(), [block]);
}

#[test]
fn the_connection_after_the_last_is_told_that_the_server_is_busy() {
    let world = world(0, 0);
    let mut open = Vec::new();
    let refused = loop {
        match petrel_shuffle::ShuffleClient::connect(world.server.address()) {
            Ok(client) => open.push(client),
            Err(error) => break error,
        }
        assert!(open.len() <= petrel_shuffle::MAX_CONNECTIONS);
    };
    assert!(matches!(refused, ShuffleError::Busy { .. }), "{refused}");
    assert_eq!(open.len() + 1, petrel_shuffle::MAX_CONNECTIONS, "the world's own client is one of them");
    world.client.stats().unwrap();
}
