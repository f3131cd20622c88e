//! The mapping `askPicker` of a pool.

use std::sync::Arc;

use hermes_core::inference_pool::{AskedPicker, PickerFailure};

use super::section::Section;

/// What an address may be.
const ADDRESS: &str = "a host and a port, such as chat-epp.ai.svc:9002";

/// What may follow when the picker names no endpoint, as in `InferencePool`.
const FAILURES: [(&str, PickerFailure); 2] = [
    ("FailClose", PickerFailure::Close),
    ("FailOpen", PickerFailure::Open),
];

/// The mapping `askPicker`; `None` if its address is absent or wrong.
pub(super) fn read(section: &mut Section<'_>) -> Option<AskedPicker> {
    let authority: Option<Arc<str>> = section
        .text_where(
            "address",
            ADDRESS,
            is_authority,
            "Where it serves `ext_proc`, as `host:port`. A name is resolved for every new connection.",
        )
        .required("set a host and a port, such as chat-epp.ai.svc:9002");
    let tls = section
        .flag(
            "tls",
            "Whether it is reached by TLS, as pickers are by default. Its certificate is not verified, since pickers sign \
             their own.",
        )
        .or(true);
    let on_failure = section
        .one_of(
            "failureMode",
            &FAILURES,
            "What follows when it is not reached within `timeouts.connect`, or names no endpoint of the pool within \
             `timeouts.firstByte`: `FailOpen` chooses by the pool's strategy, `FailClose` answers 503.",
        )
        .or(PickerFailure::default());
    Some(AskedPicker {
        authority: authority?,
        tls,
        on_failure,
    })
}

fn is_authority(text: &str) -> bool {
    let picker = AskedPicker {
        authority: text.into(),
        tls: true,
        on_failure: PickerFailure::default(),
    };
    picker.address().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, PoolConfig};

    fn pool(keys: &str) -> Result<PoolConfig, String> {
        let text = format!("pools: [{{name: a, endpoints: ['http://h:1'], {keys}}}]");
        let config = Config::parse(&text).map_err(|errors| errors.to_string())?;
        Ok(config.pools[0].clone())
    }

    #[test]
    fn a_picker_is_asked_by_tls_and_its_failures_close_unless_they_are_to_open() {
        let asked = |keys: &str| pool(keys).expect("a good file").asked_picker;
        let closed = AskedPicker {
            authority: "epp.ai.svc:9002".into(),
            tls: true,
            on_failure: PickerFailure::Close,
        };
        assert_eq!(asked("http2: true"), None);
        assert_eq!(
            asked("askPicker: {address: 'epp.ai.svc:9002'}"),
            Some(closed)
        );
        let open = AskedPicker {
            authority: "[fd00::1]:9002".into(),
            tls: false,
            on_failure: PickerFailure::Open,
        };
        assert_eq!(
            asked("askPicker: {address: '[fd00::1]:9002', tls: false, failureMode: FailOpen}"),
            Some(open)
        );
    }

    #[test]
    fn a_wrong_picker_is_an_error_that_names_the_key() {
        for (keys, path) in [
            ("askPicker: {tls: true}", "pools[0].askPicker.address: "),
            ("askPicker: {address: epp}", "pools[0].askPicker.address: "),
            (
                "askPicker: {address: 'https://epp:1'}",
                "pools[0].askPicker.address: ",
            ),
            (
                "askPicker: {address: 'epp:1', failureMode: open}",
                "pools[0].askPicker.failureMode: ",
            ),
            ("http2: h2c", "pools[0].http2: "),
        ] {
            let errors = pool(keys).expect_err(keys);
            assert!(errors.contains(path), "{keys}: {errors}");
        }
    }
}
