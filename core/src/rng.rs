//! Randomness as an argument: a small deterministic generator that callers seed and own.

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, equidistributed, and fast enough for
/// every request.
///
/// Not for secrets. Two generators with the same seed make the same choices, which is what tests
/// and `simulate` need.
#[derive(Clone, Debug)]
pub struct SeededRng(u64);

impl SeededRng {
    /// A generator whose whole future follows from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, by multiply-shift (Lemire 2016); `n` must not be zero.
    pub fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0, "a die needs at least one face");
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Two different numbers in `0..n`, each pair equally likely; `n` must be at least two.
    pub fn pair(&mut self, n: usize) -> (usize, usize) {
        debug_assert!(n > 1, "a pair needs two candidates");
        let first = self.below(n);
        let second = self.below(n - 1);
        (first, if second >= first { second + 1 } else { second })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_distinct_and_in_range() {
        let mut rng = SeededRng::new(7);
        for n in 2..40 {
            for _ in 0..50 {
                let (a, b) = rng.pair(n);
                assert!(a != b && a < n && b < n, "{a} {b} of {n}");
            }
        }
    }

    #[test]
    fn every_face_turns_up() {
        let mut rng = SeededRng::new(1);
        let mut seen = [0u32; 6];
        for _ in 0..6_000 {
            seen[rng.below(6)] += 1;
        }
        assert!(
            seen.iter().all(|&count| (800..1200).contains(&count)),
            "{seen:?}"
        );
    }

    #[test]
    fn a_seed_decides_the_future() {
        let (mut a, mut b) = (SeededRng::new(42), SeededRng::new(42));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
    }
}
