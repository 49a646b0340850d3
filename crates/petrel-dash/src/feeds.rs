//! Whose history is kept when there are many jobs? That of every job while they are few, else of those that are watched.

use crate::feed::Feed;
use crate::many_jobs::JobsSource;
use petrel_core::live::Snapshot;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Up to this many jobs are all followed, so that their pages have a past when they are opened.
const FOLLOWED_UNASKED: usize = 64;
/// Jobs followed at most; about 60 KB each when the history is full. More than streams, so that a stream is never closed
/// for another job.
const FEED_LIMIT: usize = 128;
/// A job that nobody asked about for so long is not followed any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The jobs that are followed.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    followed: Mutex<HashMap<String, Followed>>,
}

#[derive(Debug)]
struct Followed {
    feed: Arc<Feed>,
    sender: watch::Sender<Arc<Snapshot>>,
    asked: Instant,
}

impl Followed {
    fn new(snapshot: Snapshot, now: Instant) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(snapshot));
        Self { feed: Arc::new(Feed::new(receiver)), sender, asked: now }
    }

    fn renew(&self, snapshot: Snapshot) {
        self.sender.send_replace(Arc::new(snapshot));
        self.feed.note();
    }

    /// True while a stream is open: the feed itself holds one receiver.
    fn has_streams(&self) -> bool {
        self.sender.receiver_count() > 1
    }
}

impl Feeds {
    /// The feed of a job, which is followed from now on; `None` for a job that is not known.
    pub(crate) fn watch(&self, job: &str, source: &dyn JobsSource) -> Option<Arc<Feed>> {
        let now = Instant::now();
        let mut followed = self.lock();
        if let Some(known) = followed.get_mut(job) {
            known.asked = now;
            return Some(Arc::clone(&known.feed));
        }
        let opened = Followed::new(source.snapshot(job)?, now);
        let feed = Arc::clone(&opened.feed);
        if followed.len() >= FEED_LIMIT {
            let idle = followed.iter().filter(|(_, one)| !one.has_streams());
            let oldest = idle.min_by_key(|(_, one)| one.asked).map(|(name, _)| name.clone());
            oldest.and_then(|name| followed.remove(&name));
        }
        followed.insert(job.to_string(), opened);
        Some(feed)
    }

    /// A new snapshot of every followed job; due once a second.
    pub(crate) fn refresh(&self, source: &dyn JobsSource) {
        let now = Instant::now();
        let are_few = source.count() <= FOLLOWED_UNASKED;
        let mut followed = self.lock();
        followed.retain(|job, one| {
            let is_wanted = are_few || one.has_streams() || now.duration_since(one.asked) < FORGOTTEN_AFTER;
            let snapshot = if is_wanted { source.snapshot(job) } else { None };
            snapshot.map(|snapshot| one.renew(snapshot)).is_some()
        });
        if !are_few {
            return;
        }
        for job in source.list() {
            if followed.len() < FEED_LIMIT
                && !followed.contains_key(&job.job)
                && let Some(snapshot) = source.snapshot(&job.job)
            {
                followed.insert(job.job, Followed::new(snapshot, now));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
