//! The body of an HTTP response, up to a limit.

use bytes::{Bytes, BytesMut};
use reqwest::Response;

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum BodyFault {
    /// The connection ended before the body did.
    Broken(reqwest::Error),
    /// More bytes than the limit, or more announced.
    TooLarge,
}

/// Reads the whole body of `response`, if it has no more than `max_bytes`. The caller sets the
/// deadline.
///
/// # Errors
/// When the connection ends early, or the body is over the limit.
pub(crate) async fn read_body(
    mut response: Response,
    max_bytes: usize,
) -> Result<Bytes, BodyFault> {
    let announced = response.content_length().unwrap_or(0);
    if announced > max_bytes as u64 {
        return Err(BodyFault::TooLarge);
    }
    let mut body = BytesMut::with_capacity(announced as usize);
    while let Some(chunk) = response.chunk().await.map_err(BodyFault::Broken)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(BodyFault::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
