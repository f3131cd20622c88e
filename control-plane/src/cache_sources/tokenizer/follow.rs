//! Keeps the newest usable version of a model's files loaded.
//!
//! Reading them takes up to a second, so it is done beside everything else, at the start and
//! whenever a file changes. The last good files stay in use: an invalid file is logged once and
//! changes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use hermes_runtime::tasks::RestartedTask;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    Unusable,
    encoder::Encoder,
    files::{self, Stamp, TokenizerFiles},
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The files of one pool. Dropping it ends the following.
#[derive(Debug)]
pub(super) struct FollowedFiles {
    encoder: Arc<ArcSwapOption<Encoder>>,
    /// Whether they were read once.
    settled: watch::Receiver<bool>,
    _following: RestartedTask,
}

/// The task that follows them.
#[derive(Clone)]
struct FilesFollower {
    pool: String,
    files: TokenizerFiles,
    /// Of the next version; versions that were read before a panic keep theirs.
    seed: Arc<AtomicU64>,
    encoder: Arc<ArcSwapOption<Encoder>>,
    settled: watch::Sender<bool>,
    /// The error that was logged last.
    logged: Option<Unusable>,
}

// === FollowedFiles ===

impl FollowedFiles {
    /// Begins to read. `seed` makes what is remembered of one version of the files useless for the
    /// next.
    pub(super) fn begin(pool: &str, files: TokenizerFiles, seed: u64) -> Self {
        let encoder = Arc::new(ArcSwapOption::empty());
        let (sender, settled) = watch::channel(false);
        let follower = FilesFollower {
            pool: pool.to_owned(),
            files,
            seed: Arc::new(AtomicU64::new(seed)),
            encoder: Arc::clone(&encoder),
            settled: sender,
            logged: None,
        };
        let following = RestartedTask::spawn("tokenizer files", move || follower.clone().run());
        Self {
            encoder,
            settled,
            _following: following,
        }
    }

    /// The newest usable version.
    pub(super) fn encoder(&self) -> Option<Arc<Encoder>> {
        self.encoder.load_full()
    }

    /// Waits until the files were read once, usable or not.
    pub(super) async fn settled(&self) {
        // The task has ended only when this is being dropped.
        let mut settled = self.settled.clone();
        let _ended = settled.wait_for(|settled| *settled).await;
    }
}

// === FilesFollower ===

impl FilesFollower {
    async fn run(mut self) {
        let mut known: Option<Stamp> = None;
        loop {
            let (files, seen, seed) = (self.files.clone(), known.clone(), Arc::clone(&self.seed));
            let read = spawn_blocking(move || {
                let stamp = files.stamp();
                let load = || files::load(&files, seed.fetch_add(1, Ordering::Relaxed));
                (seen.as_ref() != Some(&stamp)).then(|| (load(), stamp))
            });
            let started = Instant::now();
            // A panic in a file's reader was reported where it happened; the file is read again
            // when it changes.
            if let Ok(Some((loaded, stamp))) = read.await {
                known = Some(stamp);
                self.take(loaded, started.elapsed());
            }
            self.settled.send_replace(true);
            sleep(INTERVAL).await;
        }
    }

    fn take(&mut self, loaded: Result<Encoder, Unusable>, took: Duration) {
        let pool = &*self.pool;
        match loaded {
            Ok(encoder) => {
                let (vocabulary, chats) = (encoder.vocabulary(), encoder.has_template());
                tracing::info!(pool, path = %self.files.path.display(), vocabulary, chats, ?took, "tokenizer loaded");
                self.encoder.store(Some(Arc::new(encoder)));
                self.logged = None;
            }
            Err(unusable) if self.logged.as_ref() == Some(&unusable) => {}
            Err(unusable) => {
                tracing::warn!(pool, %unusable, "tokenizer is not used");
                self.logged = Some(unusable);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{copy, write};

    use super::*;
    use crate::cache_sources::tokenizer::fixture;

    #[tokio::test]
    async fn a_good_file_is_taken_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("tokenizer.json");
        write(&file, "{}").expect("written");
        let files = TokenizerFiles {
            path: folder.path().to_owned(),
            ..fixture::files()
        };
        let followed = FollowedFiles::begin("chat", files, 1);
        followed.settled().await;
        assert!(followed.encoder().is_none());

        copy(fixture::directory().join("tokenizer.json"), &file).expect("copied");
        let first = loaded(&followed, None).await;
        write(folder.path().join("chat_template.jinja"), "{% if %}").expect("written");
        write(folder.path().join("chat_template.jinja"), "{{ bos_token }}").expect("written");
        let second = loaded(&followed, Some(&first)).await;
        assert!(second.has_template() && !first.has_template());
        assert_ne!(
            second.seed(),
            first.seed(),
            "what one made is of no use for the other"
        );
    }

    /// Another version than `before`, as soon as there is one.
    async fn loaded(followed: &FollowedFiles, before: Option<&Arc<Encoder>>) -> Arc<Encoder> {
        let limit = Instant::now() + Duration::from_secs(60);
        while Instant::now() < limit {
            match followed.encoder() {
                Some(encoder) if before.is_none_or(|before| !Arc::ptr_eq(before, &encoder)) => {
                    return encoder;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("nothing new was loaded");
    }
}
