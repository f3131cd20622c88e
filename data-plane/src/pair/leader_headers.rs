//! `leader-headers`: openFuyao's proxy server in front of a group, which sends both legs to the
//! endpoints that two headers name, each as `address:port`.

use super::{LegEdits, PairEndpoints};

const PREFILL: &str = "x-openfuyao-prefill-pod-address-port";
const DECODE: &str = "x-openfuyao-decode-pod-address-port";

pub(super) fn request(pair: PairEndpoints<'_>) -> LegEdits {
    let PairEndpoints { prefill, decode } = pair;
    let mut edits = LegEdits::header(PREFILL, prefill.address.authority());
    let decode = LegEdits::header(DECODE, decode.address.authority());
    edits.headers.extend(decode.headers);
    edits
}
