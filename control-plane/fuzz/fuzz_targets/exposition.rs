//! Whatever an engine answers at `/metrics`, reading it ends without a panic and with figures in
//! range.
//!
//! Run with `control-plane/fuzz/run exposition`.

#![no_main]

use hermes_control_plane::engines::{Scraped, exposition};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|page: &[u8]| {
    for sample in exposition::samples(page, |_| true) {
        assert!(sample.labels.iter().count() <= exposition::MAX_LABELS);
    }
    if let Ok(scraped) = Scraped::read(page) {
        assert!(scraped.sample.kv_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
    }
});
