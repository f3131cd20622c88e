//! Showing a demo while it runs: live on a terminal, by the line elsewhere.

mod live;
mod plain;

use std::{io, time::Duration};

use self::{live::Live, plain::Plain};
use super::moment::Moment;

/// Where moments are shown.
pub(super) enum View {
    /// The whole screen, renewed in place.
    Live(Live),
    /// A line every few seconds.
    Plain(Plain),
}

impl View {
    /// Takes the screen if the view is `live`; `phase` is how long each phase takes.
    pub(super) fn open(live: bool, phase: Duration) -> io::Result<Self> {
        Ok(if live {
            Self::Live(Live::open()?)
        } else {
            Self::Plain(Plain::every(phase / 5))
        })
    }

    /// Shows a moment, if it is time.
    pub(super) fn show(&mut self, moment: &Moment) -> io::Result<()> {
        match self {
            Self::Live(live) => live.show(moment),
            Self::Plain(plain) => plain.show(moment),
        }
    }
}
