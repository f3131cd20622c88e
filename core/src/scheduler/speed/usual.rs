//! The usual speed of a pool, and what it makes of the one that an endpoint shows.
//!
//! ```text
//!   time of the endpoint over the usual one, as it counts
//!                                      ╱
//!                1.4                  ╱
//!                                   ╱     from ±40 % on its own
//!                1        ─────────╯      within ±20 % the usual one
//!                       ╱
//!                     ╱     0.83   1.2  1.4   as it was measured
//! ```
//!
//! Endpoints of one kind are equally fast, and the few prompts that each is measured by show it up
//! to a fifth faster or slower. Choices compare times, so that of idle endpoints always the same
//! one would get the next new conversation, by noise: more than its cache holds, while others have
//! room. So a small difference is none, a large one counts whole, and in between it grows into the
//! other: firm shrinkage (Gao, Bruce 1997).

use super::PrefillFit;

/// Ratios of times up to 1 more than this, or its inverse, are noise; from 1 and twice this on they
/// are not.
const NOISE: f64 = 0.2;

/// Factor of the usual time for an endpoint whose speed is not known yet. With 1 a new endpoint
/// would get nothing while others are free that are known to be a little faster than the median.
const OPTIMISM: f64 = 0.75;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) enum UsualSpeed {
    /// No endpoint shows its speed: the configured one.
    Configured(PrefillFit),
    /// The median of those that do.
    Learned(PrefillFit),
}

impl UsualSpeed {
    /// The line that an endpoint is compared with.
    pub(in crate::scheduler) const fn fit(self) -> PrefillFit {
        match self {
            Self::Configured(fit) | Self::Learned(fit) => fit,
        }
    }

    /// For an endpoint whose own speed is not known.
    pub(in crate::scheduler) fn prior(self) -> PrefillFit {
        match self {
            Self::Configured(fit) => fit,
            Self::Learned(fit) => fit.scaled(OPTIMISM),
        }
    }

    /// What counts of an endpoint that was measured as `own`, with prompts of about `tokens`
    /// tokens.
    pub(in crate::scheduler) fn shrunk(self, own: PrefillFit, tokens: f64) -> PrefillFit {
        let Self::Learned(usual) = self else {
            return own;
        };
        let ratio = own.seconds(tokens) / usual.seconds(tokens);
        if is_whole(ratio) {
            return own;
        }
        usual.scaled(counted(ratio))
    }
}

/// What counts of the ratio of an endpoint's time to the usual one.
pub(super) fn counted(ratio: f64) -> f64 {
    if is_whole(ratio) {
        return ratio;
    }
    let counted = 1.0 + 2.0 * (above(ratio) - NOISE).max(0.0);
    if ratio < 1.0 { 1.0 / counted } else { counted }
}

/// Whether a ratio is too large for noise.
fn is_whole(ratio: f64) -> bool {
    above(ratio) >= 2.0 * NOISE
}

/// By how much a ratio, or its inverse, is above 1.
fn above(ratio: f64) -> f64 {
    ratio.max(1.0 / ratio) - 1.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const USUAL: PrefillFit = PrefillFit {
        base: 0.01,
        rate: 8_000.0,
    };

    /// The time of a prompt as it counts, over the usual one, where it was `ratio` when measured.
    fn time_of(ratio: f64) -> f64 {
        let own = UsualSpeed::Learned(USUAL).shrunk(USUAL.scaled(ratio), 1_000.0);
        own.seconds(1_000.0) / USUAL.seconds(1_000.0)
    }

    #[test]
    fn a_small_difference_is_none_and_a_large_one_counts_whole() {
        for ratio in [0.84, 0.95, 1.0, 1.1, 1.19] {
            assert!((time_of(ratio) - 1.0).abs() < 1e-9, "{ratio}");
        }
        for ratio in [0.1, 0.4, 0.7, 1.4, 2.5, 100.0] {
            assert!((time_of(ratio) / ratio - 1.0).abs() < 1e-9, "{ratio}");
        }
        let own = USUAL.scaled(1.1);
        assert_eq!(UsualSpeed::Configured(USUAL).shrunk(own, 1_000.0), own);
    }

    #[test]
    fn an_unknown_endpoint_counts_as_a_little_faster_than_the_usual_one() {
        assert_eq!(UsualSpeed::Configured(USUAL).prior(), USUAL);
        assert!(UsualSpeed::Learned(USUAL).prior().rate > USUAL.rate);
    }

    proptest! {
        #[test]
        fn what_counts_grows_with_what_was_measured_and_never_exceeds_it(
            ratio in 0.05f64..20.0, step in 1.0f64..1.01,
        ) {
            let (less, more) = (time_of(ratio), time_of(ratio * step));
            prop_assert!(more >= less - 1e-9);
            prop_assert!(more / less - 1.0 < 0.05, "no jump");
            let (least, most) = if ratio < 1.0 { (ratio, 1.0) } else { (1.0, ratio) };
            prop_assert!((least - 1e-9..=most + 1e-9).contains(&less));
        }
    }
}
