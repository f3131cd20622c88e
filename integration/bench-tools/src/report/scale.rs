//! From values to places on an axis, and which values to name there.

/// How values are spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// Evenly between two values.
    Linear {
        /// At the start of the axis.
        from: f64,
        /// At its end; above `from`.
        to: f64,
    },
    /// Evenly by their logarithm; both bounds above zero.
    Log {
        /// At the start of the axis.
        from: f64,
        /// At its end; above `from`.
        to: f64,
    },
    /// Counts from zero up, evenly by `log(1 + value)`: shows small ones beside huge ones.
    Counts {
        /// At the end of the axis; above zero.
        to: f64,
    },
}

impl Scale {
    /// Where a value lies: 0 at the start of the axis, 1 at its end, clamped to it.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { from, to } => (value - from) / (to - from),
            Self::Log { from, to } => (value.max(from) / from).ln() / (to / from).ln(),
            Self::Counts { to } => value.ln_1p() / to.ln_1p(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values to name along the axis.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { from, to } => {
                let step = round_step((to - from) / 5.0);
                let first = (from / step).ceil();
                (0..=12)
                    .map(|tick| (first + f64::from(tick)) * step)
                    .take_while(|tick| *tick <= to * 1.000_1)
                    .collect()
            }
            Self::Log { from, to } => powers(from, to),
            Self::Counts { to } => std::iter::once(0.0).chain(powers(1.0, to)).collect(),
        }
    }
}

/// Powers of ten between the bounds; if they are few, with 2 and 5 times each.
fn powers(from: f64, to: f64) -> Vec<f64> {
    let decades = (from.log10().floor() as i32)..=(to.log10().ceil() as i32);
    let factors: &[f64] = if to / from < 500.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let values = decades.flat_map(|decade| {
        factors
            .iter()
            .map(move |factor| factor * 10f64.powi(decade))
    });
    values
        .filter(|value| (from * 0.999..=to * 1.001).contains(value))
        .collect()
}

/// The next of 1, 2, 5 · 10ⁿ from `step` up.
fn round_step(step: f64) -> f64 {
    let magnitude = 10f64.powf(step.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|round| *round >= step * 0.999)
        .unwrap_or(step)
}

/// A tick as people write it.
pub(super) fn label(value: f64) -> String {
    if value >= 1_000_000.0 {
        format!("{}M", trimmed(value / 1e6))
    } else if value >= 10_000.0 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_an_axis_are_its_bounds() {
        for scale in [
            Scale::Linear { from: 2.0, to: 9.0 },
            Scale::Log { from: 2.0, to: 9.0 },
            Scale::Counts { to: 9.0 },
        ] {
            assert_eq!(
                (scale.place(0.0), scale.place(9.0), scale.place(1e9)),
                (0.0, 1.0, 1.0),
                "{scale:?}"
            );
        }
        assert!(
            (Scale::Log {
                from: 0.1,
                to: 10.0
            }
            .place(1.0)
                - 0.5)
                .abs()
                < 1e-9
        );
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            Scale::Linear {
                from: 0.0,
                to: 60.0
            }
            .ticks(),
            [0.0, 20.0, 40.0, 60.0]
        );
        let ticks = |scale: Scale| scale.ticks().into_iter().map(label).collect::<Vec<_>>();
        assert_eq!(
            ticks(Scale::Log {
                from: 0.09,
                to: 25_000.0
            }),
            ["0.1", "1", "10", "100", "1000", "10k"]
        );
        assert_eq!(ticks(Scale::Log { from: 0.5, to: 4.0 }), ["0.5", "1", "2"]);
        assert_eq!(
            ticks(Scale::Counts { to: 12.0 }),
            ["0", "1", "2", "5", "10"]
        );
    }
}
