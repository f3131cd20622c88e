//! Where a request is placed: at one endpoint, or at two that serve it together.

/// The endpoints that serve one request; `E` names an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement<E> {
    /// It serves the whole request.
    One(E),
    /// Two endpoints with a part each.
    Pair {
        /// Computes the KV cache of the prompt.
        prefill: E,
        /// Takes that cache over, and generates the answer.
        decode: E,
    },
}

impl<E> Placement<E> {
    /// The endpoint that serves the whole request, if one does.
    pub const fn one(&self) -> Option<&E> {
        match self {
            Self::One(endpoint) => Some(endpoint),
            Self::Pair { .. } => None,
        }
    }

    /// Its endpoints; of a pair the prefill endpoint first.
    pub fn endpoints(&self) -> impl Iterator<Item = &E> {
        let (first, second) = match self {
            Self::One(endpoint) => (endpoint, None),
            Self::Pair { prefill, decode } => (prefill, Some(decode)),
        };
        std::iter::once(first).chain(second)
    }

    /// The endpoint that computes the prompt.
    pub const fn prefill(&self) -> &E {
        match self {
            Self::One(endpoint)
            | Self::Pair {
                prefill: endpoint, ..
            } => endpoint,
        }
    }

    /// The endpoint whose answer the client gets.
    pub const fn decode(&self) -> &E {
        match self {
            Self::One(endpoint)
            | Self::Pair {
                decode: endpoint, ..
            } => endpoint,
        }
    }
}
