//! What is learned of the answers that endpoints generate, and what one more of them costs.
//!
//! An answer is generated more slowly in a larger batch, and makes the others of its batch slower.
//! A prompt that is computed where answers are generated makes them wait. Both are seconds of
//! answers, which count for [`ANSWER_WEIGHT`] of a second until a first token.

use std::time::Duration;

use super::Fleet;
use crate::scheduler::{engine::OccupancyMark, speed::DecodeSample};

/// What a second that an answer takes longer is worth, in seconds that its first token comes later.
/// An answer takes several times as long as people accept to wait for its beginning: two seconds,
/// and 40 ms for each of some hundred tokens.
const ANSWER_WEIGHT: f64 = 0.08;

/// An endpoint that computes prompts generates for this share of the time at least.
const LEAST_DECODING: f64 = 0.05;

impl Fleet {
    /// A request is booked at a pair.
    pub(in crate::scheduler) fn pair_is_made(&mut self) {
        self.transfers.pair_is_made(self.answers);
    }

    /// The decode endpoint of a pair took `tokens` tokens over in this time.
    pub(in crate::scheduler) fn transferred(
        &mut self,
        (prefill, decode): (usize, usize),
        tokens: u32,
        took: Duration,
    ) {
        let distance = self.picker.distance(prefill, decode);
        self.transfers
            .transferred(distance, (tokens, took), self.answers);
    }

    /// What the endpoint at a position does at once is remembered from this moment on.
    pub(in crate::scheduler) fn occupancy(&self, position: usize, now: Duration) -> OccupancyMark {
        self.engines[position].occupancy.mark(now)
    }

    /// An answer of `tokens` tokens came in `duration` after its first. `since` is when that was,
    /// if it was noted.
    pub(in crate::scheduler) fn decoded(
        &mut self,
        position: usize,
        (duration, tokens): (Duration, u32),
        since: Option<OccupancyMark>,
        now: Duration,
    ) {
        self.decoding.ended(tokens);
        let engine = &mut self.engines[position];
        engine.decode.answered(duration, tokens);
        let during = since.map(|since| engine.occupancy.mean_since(since, now));
        let sample = during.and_then(|during| DecodeSample::of(duration, tokens, during));
        if let Some(sample) = sample {
            if let Some(expected) = self.decoding.expected(sample) {
                engine.decode.compared(sample, expected);
            }
            self.decoding.answered(sample);
        }
    }

    /// What a second of prefill at a position costs the answers that are generated there, in
    /// seconds until a first token.
    pub(super) fn delay(&self, position: usize) -> f64 {
        let engine = &self.engines[position];
        ANSWER_WEIGHT * engine.scarcity() * self.batch(position) * self.terms[position].lane_share
    }

    /// Tokens of memory that the answers which are generated at a position are expected to free in
    /// this time; 0 while nothing is learned of their length.
    pub(super) fn freed_in(&self, position: usize, seconds: f64) -> u32 {
        let engine = &self.engines[position];
        let per_token = self
            .decoding
            .seconds(self.batch(position), engine.context());
        let (Some(tokens), Some(per_token)) = (self.decoding.answer_tokens(), per_token) else {
            return 0;
        };
        let life = tokens * per_token * engine.decode.share();
        (engine.held_by_answers() * (seconds / life).clamp(0.0, 1.0)) as u32
    }

    /// Answers that are generated at a position, or will be.
    pub(super) fn batch(&self, position: usize) -> f64 {
        let flight = self.flights[position];
        let sample = self.loads[position].sample;
        // Requests of other clients are in the sample only; ours of this moment are in flight only.
        let running = sample.and_then(|sample| sample.running).unwrap_or(0);
        f64::from(flight.requests.max(running).saturating_sub(flight.prompts))
    }

    /// What it costs that one more answer is generated at a position, in seconds until a first
    /// token: its own time, and what it takes of the others'. 0 while engines report no lengths of
    /// answers.
    pub(super) fn answer(&self, position: usize, now: Duration) -> f64 {
        let batch = self.batch(position);
        let engine = &self.engines[position];
        let seconds = |batch| self.decoding.seconds(batch, engine.context());
        let (Some(tokens), Some(before), Some(after)) = (
            self.decoding.answer_tokens(),
            seconds(batch),
            seconds(batch + 1.0),
        ) else {
            return 0.0;
        };
        // Others are half done.
        let own_and_others = tokens * (after + batch * (after - before) / 2.0);
        let decoding = (1.0 - self.utilization.at(position, now)).max(LEAST_DECODING);
        ANSWER_WEIGHT * engine.scarcity() * engine.decode.share() * own_and_others / decoding
    }
}
