//! The write-ahead queue gives space back as the log takes frames, but never its last frame: what it says about
//! messages that may be delivered again has to outlive a crash at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crossbeam_channel::{Receiver, Sender, bounded};
use petrel_edge::wal::commit::{self, BeforeWrite, CommitQueue};
use petrel_edge::wal::frame::{Entry, FrameBuffer, Lane, for_each_entry};
use petrel_edge::wal::reader::WalReader;
use petrel_edge::wal::{Wal, WalSettings};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Segments are closed at 64 KiB, so each of these frames gets one of its own.
const SETTINGS: WalSettings = WalSettings { budget_bytes: 512 << 10, compress: false };
const FRAME_BYTES: usize = 65 << 10;

fn frame(mark: u8) -> FrameBuffer {
    let mut buffer = FrameBuffer::default();
    buffer.push(Entry { lane: Lane::Metadata, key: b"d1", value: &vec![mark; FRAME_BYTES], timestamp_ms: 1 });
    buffer.push(Entry { lane: Lane::Receipts, key: b"", value: &[mark; 8], timestamp_ms: 1 });
    buffer
}

fn submit(queue: &CommitQueue, mark: u8) -> Receiver<()> {
    let (sender, durable) = bounded(1);
    assert!(queue.submit(frame(mark), Box::new(move |_| sender.send(()).unwrap())));
    durable
}

/// What the receipts of the last frame say.
fn last_mark(wal: &Arc<Wal>) -> Option<u8> {
    let body = WalReader::last_body(Arc::clone(wal)).unwrap()?;
    let mut receipts = Vec::new();
    for_each_entry(&body, |entry| {
        if entry.lane == Lane::Receipts {
            receipts = entry.value.to_vec();
        }
    })
    .unwrap();
    Some(receipts[0])
}

fn segments(directory: &Path) -> usize {
    let is_segment = |name: &str| name.ends_with(".wal");
    std::fs::read_dir(directory)
        .unwrap()
        .filter(|entry| is_segment(entry.as_ref().unwrap().file_name().to_str().unwrap()))
        .count()
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A queue whose frames from `held` on wait for a word on the channel.
fn open_held(directory: &Path, held: u64) -> (Arc<Wal>, CommitQueue, Sender<io::Result<()>>) {
    let wal = Wal::open(directory, SETTINGS, 1).unwrap();
    let first_frame = wal.figures().durable_frame + 1;
    let (release, released) = bounded::<io::Result<()>>(1);
    let before_write: BeforeWrite =
        Arc::new(move |frame| if frame < first_frame + held { Ok(()) } else { released.recv().unwrap_or(Ok(())) });
    let abandon = Arc::new(AtomicBool::new(false));
    let (queue, _thread) =
        commit::start(Arc::clone(&wal), Some(before_write), abandon, |error| panic!("{error}")).unwrap();
    (wal, queue, release)
}

#[test]
fn the_last_frame_stays_until_the_next_one_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, queue, release) = open_held(folder.path(), 2);
    assert_eq!(last_mark(&wal), None);
    for mark in [1, 2] {
        submit(&queue, mark).recv_timeout(PATIENCE).unwrap();
        assert_eq!(last_mark(&wal), Some(mark));
    }
    assert_eq!((wal.figures().queued_entries, segments(folder.path())), (2, 2), "receipts are not counted");
    let third = submit(&queue, 3);
    wait("the third frame has a segment", || segments(folder.path()) == 3);
    wal.forwarded(wal.figures().durable_frame, 2, 0).unwrap();
    assert_eq!((last_mark(&wal), segments(folder.path())), (Some(2), 2), "only the first frame may go");
    release.send(Ok(())).unwrap();
    third.recv_timeout(PATIENCE).unwrap();
    wal.forwarded(wal.figures().durable_frame, 1, 0).unwrap();
    assert_eq!((last_mark(&wal), segments(folder.path())), (Some(3), 1));
    drop(queue);
    wait("the commit thread ends", || wal.is_closed());
    drop((wal, release));
    wait("the queue can be opened again", || {
        Wal::open(folder.path(), SETTINGS, 1).is_ok_and(|wal| last_mark(&wal) == Some(3))
    });
}

#[test]
fn a_full_disk_gets_back_what_the_log_has() {
    let folder = tempfile::tempdir().unwrap();
    let (wal, queue, release) = open_held(folder.path(), 1);
    submit(&queue, 1).recv_timeout(PATIENCE).unwrap();
    wal.forwarded(wal.figures().durable_frame, 1, 0).unwrap();
    let second = submit(&queue, 2);
    release.send(Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
    wait("the disk is found full", || wal.figures().disk_full);
    wait("the forwarded segment is gone", || segments(folder.path()) == 1);
    release.send(Ok(())).unwrap();
    second.recv_timeout(PATIENCE).unwrap();
    assert_eq!((last_mark(&wal), wal.figures().disk_full), (Some(2), false));
}
