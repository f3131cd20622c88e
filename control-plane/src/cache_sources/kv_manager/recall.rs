//! CachedAnswers that are still fresh, bounded in number. What is cached where changes by the
//! second, so they are kept for a moment only: long enough for a burst of requests that share a
//! prompt, and for the retries of one.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hermes_core::query::CacheHit;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::LookupKey;

/// CachedAnswers that are kept at most; the oldest go first.
pub(super) const MAX_ANSWERS: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(super) struct AnswerCache {
    keeps: Duration,
    answers: Mutex<CachedAnswers>,
}

#[derive(Debug, Default)]
struct CachedAnswers {
    by_key: HashMap<LookupKey, (Arc<[CacheHit]>, Instant)>,
    /// In the order in which they came, and so in which they grow old.
    order: VecDeque<(LookupKey, Instant)>,
}

// === AnswerCache ===

impl AnswerCache {
    /// Keeps answers for so long; not at all when it is zero.
    pub(super) fn new(keeps: Duration) -> Self {
        Self {
            keeps,
            answers: Mutex::default(),
        }
    }

    /// The answer to the question under `key`, if it is fresh.
    pub(super) fn get(&self, key: LookupKey) -> Option<Arc<[CacheHit]>> {
        let answers = self.answers.lock();
        let (hits, since) = answers.by_key.get(&key)?;
        (since.elapsed() < self.keeps).then(|| Arc::clone(hits))
    }

    /// An answer has come.
    pub(super) fn put(&self, key: LookupKey, hits: &Arc<[CacheHit]>) {
        if self.keeps.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut answers = self.answers.lock();
        answers.drop_old(now, self.keeps);
        answers.by_key.insert(key, (Arc::clone(hits), now));
        answers.order.push_back((key, now));
    }
}

// === CachedAnswers ===

impl CachedAnswers {
    /// Drops what is stale, and one more when there are too many.
    fn drop_old(&mut self, now: Instant, keeps: Duration) {
        while let Some((key, since)) = self.order.front().copied() {
            let is_stale = now.duration_since(since) >= keeps;
            if !is_stale && self.order.len() < MAX_ANSWERS {
                return;
            }
            self.order.pop_front();
            // A newer answer under the same key stays.
            if self.by_key.get(&key).is_some_and(|(_, at)| *at == since) {
                self.by_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_moment() {
        let recall = AnswerCache::new(MOMENT);
        recall.put(1, &Arc::default());
        advance(MOMENT / 2).await;
        assert!(recall.get(1).is_some());
        recall.put(1, &Arc::default());
        advance(MOMENT / 2).await;
        recall.put(2, &Arc::default());
        assert!(recall.get(1).is_some(), "the newer one counts");
        advance(MOMENT).await;
        assert!(recall.get(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_bounded_in_number_and_old_ones_go() {
        let recall = AnswerCache::new(MOMENT);
        for key in 0..2 * MAX_ANSWERS as u128 {
            recall.put(key, &Arc::default());
        }
        let sizes = |recall: &AnswerCache| {
            let answers = recall.answers.lock();
            (answers.by_key.len(), answers.order.len())
        };
        assert_eq!(sizes(&recall), (MAX_ANSWERS, MAX_ANSWERS));
        advance(MOMENT).await;
        recall.put(0, &Arc::default());
        assert_eq!(sizes(&recall), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_no_time() {
        let recall = AnswerCache::new(Duration::ZERO);
        recall.put(1, &Arc::default());
        assert!(recall.get(1).is_none());
    }
}
