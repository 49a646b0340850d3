//! How does a message become durable? It is judged, waits in a group with others, and its acknowledgement is given back
//! when the group is on disk.
//!
//! One group is being written while the next one fills: the longer a sync takes, the larger the next group.

use crate::endpoint::packet::Publish;
use crate::error::EdgeError;
use crate::gateway::{Alert, Counters, Intake};
use crate::wal::Wal;
use crate::wal::commit::CommitQueue;
use crate::wal::frame::FrameBuffer;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::Waker;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A group above this is not filled further until the one before it is on disk.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// What groups are made with.
pub(crate) struct GroupParts {
    pub(crate) intake: Intake,
    pub(crate) commits: CommitQueue,
    pub(crate) wal: Arc<Wal>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) alerts: Sender<Alert>,
    /// Wakes the owner when a group is on disk.
    pub(crate) waker: Arc<Waker>,
    pub(crate) budget_bytes: u64,
}

/// A group that has reached the disk.
struct Durable<Ack> {
    buffer: FrameBuffer,
    acks: Vec<Ack>,
    alerts: Vec<Alert>,
}

/// The group that fills, and those on their way to the disk. `Ack` is what the owner needs to acknowledge a message.
pub(crate) struct Groups<Ack> {
    parts: GroupParts,
    buffer: FrameBuffer,
    spare: Vec<FrameBuffer>,
    acks: Vec<Ack>,
    alerts: Vec<Alert>,
    commits_in_flight: usize,
    durable_sender: Sender<Durable<Ack>>,
    durable: Receiver<Durable<Ack>>,
}

impl<Ack: Send + 'static> Groups<Ack> {
    pub(crate) fn new(parts: GroupParts) -> Self {
        let (durable_sender, durable) = bounded(4);
        Self {
            parts,
            buffer: FrameBuffer::default(),
            spare: vec![FrameBuffer::default()],
            acks: Vec::new(),
            alerts: Vec::new(),
            commits_in_flight: 0,
            durable_sender,
            durable,
        }
    }

    /// Largest payload that is taken whole.
    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.parts.intake.max_payload_bytes
    }

    /// True when the group that fills waits for the one before it.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.frame_bytes() >= MAX_GROUP_BYTES
    }

    /// False while the disk budget is used up or the group is full: the senders have to wait.
    pub(crate) fn may_take(&self) -> bool {
        let used_bytes = self.parts.wal.used_bytes() + self.buffer.frame_bytes() as u64;
        let is_throttled = used_bytes >= self.parts.budget_bytes;
        if self.parts.counters.throttled.swap(is_throttled, Ordering::Relaxed) != is_throttled {
            tracing::warn!(used_bytes, is_throttled, "disk budget of the write-ahead queue");
        }
        !is_throttled && !self.is_full()
    }

    /// Takes a message into the group. `whole_bytes` is the length of a payload that is too large, of which
    /// `publish.payload` is only the head.
    pub(crate) fn take(&mut self, publish: &Publish<'_>, whole_bytes: Option<u64>, now_ms: i64, ack: Option<Ack>) {
        self.acks.extend(ack);
        let GroupParts { intake, counters, .. } = &mut self.parts;
        intake.take(publish, whole_bytes, now_ms, &mut self.buffer, &mut self.alerts, counters);
    }

    /// Has a message that is in an earlier group acknowledged with this one.
    pub(crate) fn acknowledge_again(&mut self, ack: Ack) {
        self.acks.push(ack);
    }

    /// Hands the group over when the one before it is on disk; `seal` may add to a group that has entries.
    ///
    /// # Errors
    /// When the commit thread has ended: nothing can be acknowledged any more.
    pub(crate) fn commit(&mut self, seal: impl FnOnce(&mut FrameBuffer)) -> Result<(), EdgeError> {
        if self.commits_in_flight > 0 || (self.buffer.entries() == 0 && self.acks.is_empty()) {
            return Ok(());
        }
        let Some(next) = self.spare.pop() else { return Ok(()) };
        let mut buffer = std::mem::replace(&mut self.buffer, next);
        if buffer.entries() > 0 {
            seal(&mut buffer);
        }
        let (acks, alerts) = (std::mem::take(&mut self.acks), std::mem::take(&mut self.alerts));
        let (sender, waker) = (self.durable_sender.clone(), Arc::clone(&self.parts.waker));
        let on_durable = Box::new(move |buffer| {
            if sender.send(Durable { buffer, acks, alerts }).is_ok() {
                let _owner_gone = waker.wake();
            }
        });
        if !self.parts.commits.submit(buffer, on_durable) {
            let ended = io::Error::other("the commit thread has ended");
            return Err(EdgeError::io("writing the write-ahead queue", ended));
        }
        self.commits_in_flight += 1;
        Ok(())
    }

    /// The acknowledgements of the next group that has reached the disk, in the order in which its messages came.
    pub(crate) fn next_durable(&mut self) -> Option<Vec<Ack>> {
        let durable = self.durable.try_recv().ok()?;
        Some(self.settle(durable))
    }

    /// Waits for a group that is on its way; `None` when there is none, or the disk does not answer.
    pub(crate) fn wait_durable(&mut self, patience: Duration) -> Option<Vec<Ack>> {
        if self.commits_in_flight == 0 {
            return None;
        }
        let durable = self.durable.recv_timeout(patience).ok()?;
        Some(self.settle(durable))
    }

    fn settle(&mut self, durable: Durable<Ack>) -> Vec<Ack> {
        self.commits_in_flight -= 1;
        self.spare.push(durable.buffer);
        let counters = &self.parts.counters;
        counters.acknowledged_messages.fetch_add(durable.acks.len() as u64, Ordering::Relaxed);
        for alert in durable.alerts {
            if self.parts.alerts.try_send(alert).is_err() {
                counters.alerts_coalesced.fetch_add(1, Ordering::Relaxed);
            }
        }
        durable.acks
    }
}
