//! Panics of this process: counted, and logged by their place.
//!
//! The hook of the standard library prints the message of a panic. One with values in it may quote
//! what was worked on: that of a string that is cut inside a character quotes the string, which may
//! be a prompt. So only a message without values, a literal of the source, is logged.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Panics since the hook was installed. The hook belongs to the process, and so does its count.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Replaces the process's hook for panics. Call it once logging is set up.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        log(info);
    }));
}

/// Panics of the process since [`install_hook`].
#[must_use]
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn log(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string);
    let literal = info.payload().downcast_ref::<&'static str>().copied();
    // Where RUST_BACKTRACE asks for one.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        thread = thread::current().name().unwrap_or_default(),
        place = place.unwrap_or_default(),
        message = literal.unwrap_or("not shown: it may quote what was worked on"),
        backtrace = backtrace.map(tracing::field::display),
        "panic"
    );
}
