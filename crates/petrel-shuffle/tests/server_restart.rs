//! What do clients see when the server, or the whole store, is started anew?

mod support;

use petrel_core::{Codec, Tier};
use petrel_shuffle::{Shuffle, ShuffleClient, ShuffleError, ShuffleServer, ShuffleSettings, ShuffleStore};
use std::net::TcpListener;
use std::sync::Arc;
use support::{output, payload, spec, world};

#[test]
fn a_client_goes_on_after_the_server_was_replaced_over_the_same_store() {
    let world = world(1 << 20, 1 << 20);
    let address = world.server.address();
    world.client.register(spec(1, 2, 1, Tier::Memory)).unwrap();
    world.client.write_map(1, 0, 0, output(0, 0, 1, 70), Codec::Lz4).unwrap();
    let support::World { store, server, client, folder: _folder, .. } = world;
    drop(server);
    assert!(matches!(client.stats(), Err(ShuffleError::Io { .. })), "nobody listens");
    let _server = ShuffleServer::start(store, address).unwrap();
    client.write_map(1, 1, 0, output(1, 0, 1, 70), Codec::Lz4).unwrap();
    assert_eq!(client.read(1, 0).unwrap(), [payload(0, 0, 0, 70), payload(1, 0, 0, 70)]);
}

#[test]
fn a_new_store_knows_nothing_of_the_old_and_sweeps_its_files() {
    let world = world(0, 1 << 20);
    let address = world.server.address();
    world.client.register(spec(1, 1, 1, Tier::Nvme)).unwrap();
    world.client.write_map(1, 0, 0, output(0, 0, 1, 70), Codec::Lz4).unwrap();
    assert_eq!(world.block_files().len(), 1);
    let settings = ShuffleSettings::new(&world.dir);
    let support::World { store, server, client, folder: _folder, dir } = world;
    assert!(matches!(ShuffleStore::open(settings.clone()), Err(ShuffleError::InUse { .. })), "two stores, one folder");
    drop(server);
    drop(store);
    std::fs::write(dir.join("notes.txt"), "not ours").unwrap();

    let store = Arc::new(ShuffleStore::open(settings).unwrap());
    let _server = ShuffleServer::start(store, address).unwrap();
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().ends_with(".blocks")), "{files:?}");
    assert!(dir.join("notes.txt").exists(), "only block files are swept");
    // Not empty, not short: the client is told that this store never heard of it.
    assert!(matches!(client.read(1, 0), Err(ShuffleError::Unknown { shuffle_id: 1 })));
}

#[test]
fn an_occupied_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world(0, 0);
    let address = taken.local_addr().unwrap();
    let error = ShuffleServer::start(Arc::clone(&world.store), address).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_port_without_a_shuffle_server_is_told_apart() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let http = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = ShuffleClient::connect(address).unwrap_err();
    assert!(matches!(error, ShuffleError::Protocol { .. }), "{error}");
    http.join().unwrap();
}
