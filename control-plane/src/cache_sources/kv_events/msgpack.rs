//! Reads MessagePack in place: what is wanted is read, and what is not is skipped.
//!
//! Invariants: no length is used before as many bytes are there, nothing recurses, and nothing
//! panics.

use rmp::{Marker, decode};

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the MessagePack that was expected")]
pub struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// Values that follow each other. A copy reads on by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct MsgpackReader<'a> {
    rest: &'a [u8],
}

/// One value, if it is none that holds others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MsgpackValue<'a> {
    Nil,
    Bool(bool),
    /// The bits of an integer, whose sign is that of `i64` when it was negative.
    Int(u64),
    Float(f64),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// An array and its length; its values follow.
    Array(u32),
    /// A map and its length; its keys and values follow.
    Map(u32),
}

// === MsgpackReader ===

impl<'a> MsgpackReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left; no array holds more values.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next value; what an array or a map holds comes after it.
    pub(super) fn next(&mut self) -> Result<MsgpackValue<'a>> {
        let marker = Marker::from_u8(*self.rest.first().ok_or(Malformed)?);
        Ok(match marker {
            Marker::Null => {
                self.take(1)?;
                MsgpackValue::Nil
            }
            Marker::True | Marker::False => {
                MsgpackValue::Bool(decode::read_bool(&mut self.rest).map_err(|_| Malformed)?)
            }
            Marker::F32 => MsgpackValue::Float(
                decode::read_f32(&mut self.rest)
                    .map_err(|_| Malformed)?
                    .into(),
            ),
            Marker::F64 => {
                MsgpackValue::Float(decode::read_f64(&mut self.rest).map_err(|_| Malformed)?)
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                MsgpackValue::Array(decode::read_array_len(&mut self.rest).map_err(|_| Malformed)?)
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                MsgpackValue::Map(decode::read_map_len(&mut self.rest).map_err(|_| Malformed)?)
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let length = decode::read_str_len(&mut self.rest).map_err(|_| Malformed)?;
                MsgpackValue::Text(self.take(length)?)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = decode::read_bin_len(&mut self.rest).map_err(|_| Malformed)?;
                MsgpackValue::Bytes(self.take(length)?)
            }
            Marker::FixNeg(_) | Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => {
                let value: i64 = decode::read_int(&mut self.rest).map_err(|_| Malformed)?;
                MsgpackValue::Int(value.cast_unsigned())
            }
            Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
                MsgpackValue::Int(decode::read_int(&mut self.rest).map_err(|_| Malformed)?)
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => {
                let length = decode::read_ext_meta(&mut self.rest)
                    .map_err(|_| Malformed)?
                    .size;
                MsgpackValue::Bytes(self.take(length)?)
            }
            Marker::Reserved => return Err(Malformed),
        })
    }

    /// A copy that stands at the next value, which this reader skips, and all that it holds.
    pub(super) fn skip(&mut self) -> Result<Self> {
        let here = *self;
        let mut left = 1_u64;
        while left > 0 {
            left -= 1;
            match self.next()? {
                MsgpackValue::Array(values) => left += u64::from(values),
                MsgpackValue::Map(pairs) => left += 2 * u64::from(pairs),
                _ => {}
            }
        }
        Ok(here)
    }

    /// The length of an array; nothing when there is nil instead.
    pub(super) fn array(&mut self) -> Result<Option<u32>> {
        match self.next()? {
            MsgpackValue::Array(values) => Ok(Some(values)),
            MsgpackValue::Nil => Ok(None),
            _ => Err(Malformed),
        }
    }

    /// An integer; nothing when there is nil instead.
    pub(super) fn int(&mut self) -> Result<Option<u64>> {
        match self.next()? {
            MsgpackValue::Int(value) => Ok(Some(value)),
            MsgpackValue::Nil => Ok(None),
            _ => Err(Malformed),
        }
    }

    /// Text; nothing when there is nil instead.
    pub(super) fn text(&mut self) -> Result<Option<&'a str>> {
        match self.next()? {
            MsgpackValue::Text(text) => std::str::from_utf8(text).map(Some).map_err(|_| Malformed),
            MsgpackValue::Nil => Ok(None),
            _ => Err(Malformed),
        }
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmp::encode;

    use super::*;

    #[test]
    fn numbers_of_every_width_and_sign_are_read() {
        let mut bytes = Vec::new();
        for value in [0, 127, 128, 70_000, u64::MAX] {
            encode::write_uint(&mut bytes, value).unwrap();
        }
        encode::write_sint(&mut bytes, -2).unwrap();
        encode::write_sint(&mut bytes, i64::MIN).unwrap();
        let mut reader = MsgpackReader::new(&bytes);
        for value in [
            0,
            127,
            128,
            70_000,
            u64::MAX,
            (-2_i64).cast_unsigned(),
            i64::MIN.cast_unsigned(),
        ] {
            assert_eq!(reader.int(), Ok(Some(value)));
        }
        assert_eq!(reader.left(), 0);
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        for bytes in [
            &[0xdb, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(MsgpackReader::new(bytes).skip().is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let nested = vec![0x91; 1_000_000];
        assert!(
            MsgpackReader::new(&nested).skip().is_err(),
            "the innermost value is missing"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = MsgpackReader::new(&bytes);
            while let Ok(here) = reader.skip() {
                prop_assert!(reader.left() < here.left());
            }
        }
    }
}
