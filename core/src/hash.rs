//! One way to turn two 64-bit values into one, and a hasher for maps whose keys are already
//! numbers.
//!
//! Not for secrets, and not against an adversary who chooses keys: they come from our own proxies
//! and hashes.

use std::hash::{BuildHasherDefault, Hasher};

/// Fractional digits of pi, as in wyhash and many others: odd, and without structure.
const FIRST: u64 = 0x2d35_8dcc_aa6c_78a5;
const SECOND: u64 = 0x8bb8_4b93_962e_acc9;

/// A hash of the ordered pair `(a, b)`: the two halves of a 128-bit product, folded by xor.
///
/// A product forgets one factor when the other is zero, so both enter once more beside it: no
/// single `b` can erase what `a` knew.
pub(crate) const fn hash_mix(a: u64, b: u64) -> u64 {
    let product = (a ^ FIRST) as u128 * (b ^ SECOND) as u128;
    (product as u64) ^ ((product >> 64) as u64) ^ a.rotate_left(32) ^ b
}

/// Hashes the integers of a key by [`hash_mix`].
#[derive(Default)]
pub(crate) struct MixHasher(u64);

/// For `HashMap`s keyed by ids.
pub(crate) type MixBuildHasher = BuildHasherDefault<MixHasher>;

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(xxhash_rust::xxh3::xxh3_64(bytes));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = hash_mix(self.0, value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighboring_keys_spread_over_all_bits() {
        let low: HashSet<u64> = (0..256).map(|key| hash_mix(0, key) & 0xffff).collect();
        let high: HashSet<u64> = (0..256).map(|key| hash_mix(0, key) >> 48).collect();
        assert!(
            low.len() > 250 && high.len() > 250,
            "{} {}",
            low.len(),
            high.len()
        );
    }

    #[test]
    fn order_matters_and_no_second_value_erases_the_first() {
        assert_ne!(hash_mix(1, 2), hash_mix(2, 1));
        assert_ne!(hash_mix(1, SECOND), hash_mix(2, SECOND));
        assert_ne!(hash_mix(FIRST, 1), hash_mix(FIRST, 2));
    }
}
