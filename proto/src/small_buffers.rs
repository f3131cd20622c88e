//! Buffers of streams of which thousands are open at once, each with little in it.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a stream reserves in each direction: a few tokens. A piece that is kept keeps the
/// buffer that it came in. With tonic's own 8 KiB, an open answer kept four of them.
const RESERVED: usize = 1 << 10;
/// Bytes that are passed on together, as tonic has it.
const TOGETHER: usize = 32 << 10;

/// Encodes messages `T` and decodes `U`, as [`ProstCodec`] does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBufferCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(RESERVED, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(RESERVED, TOGETHER))
    }
}
