//! The hook for panics. It belongs to the process, so this test has one of its own.

use std::{
    io::{self, Write},
    panic::{catch_unwind, take_hook},
    sync::Arc,
};

use hermes_runtime::{
    metrics::{Exposition, register_process},
    panics,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn panics_are_counted_and_logged_without_what_was_worked_on() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let mut registry = Registry::default();
    register_process(&mut registry, "data-plane", "1.2.3");
    let prompt = String::from("my secret is é");

    panics::install_hook();
    let cut = tracing::subscriber::with_default(subscriber, || {
        // Inside the last character.
        let cut = catch_unwind(|| prompt[..prompt.len() - 1].len());
        let literal = catch_unwind(|| panic!("no endpoint is left"));
        (cut.is_err(), literal.is_err())
    });
    // Failures of this test are printed as ever.
    drop(take_hook());

    assert_eq!(cut, (true, true));
    let logged = String::from_utf8(log.0.lock().clone()).expect("text");
    assert!(!logged.contains("secret"), "{logged}");
    assert!(logged.contains("no endpoint is left"), "{logged}");
    assert_eq!(
        logged.matches("runtime/tests/panics.rs:").count(),
        2,
        "{logged}"
    );
    let metrics = Exposition::Prometheus.encode(&registry).expect("text");
    assert!(metrics.contains("\nhermes_panics_total 2\n"), "{metrics}");
}
