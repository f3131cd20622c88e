//! The port that inference requests go to, as an operator writes it: a number or a name.

use std::{fmt, num::NonZeroU16, str::FromStr};

/// A port of a Service or of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// By number, `1..=65535`.
    Number(NonZeroU16),
    /// By the name that the Service or the container gives it.
    Name(String),
}

/// Why a text is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// All digits, but not in range.
    #[error("a port number must be between 1 and 65535")]
    OutOfRange,
    /// Not the syntax of a port name in Kubernetes (IANA service names, RFC 6335).
    #[error(
        "a port name has 1 to 63 lower-case letters, digits and inner dashes, and at least one letter"
    )]
    Name,
}

// === Port ===

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text
                .parse()
                .map(Self::Number)
                .map_err(|_| InvalidPort::OutOfRange);
        }
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let dashed = text.starts_with('-') || text.ends_with('-');
        // Services allow 63 characters where containers allow 15.
        if text.is_empty() || text.len() > 63 || dashed || !text.bytes().all(inner) {
            return Err(InvalidPort::Name);
        }
        if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(InvalidPort::Name);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A port number out of an API object, which has the type `int32` there.
pub(crate) fn number(port: i32) -> Option<NonZeroU16> {
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_names_are_distinguished() {
        assert_eq!(
            "8000".parse(),
            Ok(Port::Number(NonZeroU16::new(8000).unwrap()))
        );
        assert_eq!("http".parse(), Ok(Port::Name("http".to_owned())));
        assert_eq!("8000-http".parse(), Ok(Port::Name("8000-http".to_owned())));
    }

    #[test]
    fn what_kubernetes_would_refuse_is_refused() {
        for text in ["0", "65536", "99999999999999"] {
            assert_eq!(text.parse::<Port>(), Err(InvalidPort::OutOfRange), "{text}");
        }
        for text in [
            "",
            "-http",
            "http-",
            "HTTP",
            "ht tp",
            "80-90",
            &"x".repeat(64),
        ] {
            assert_eq!(text.parse::<Port>(), Err(InvalidPort::Name), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_comes_back_as_written(text in ".{0,70}") {
            if let Ok(port) = text.parse::<Port>() {
                prop_assert_eq!(port.to_string().parse::<Port>(), Ok(port));
            }
        }

        #[test]
        fn only_sixteen_bit_numbers_above_zero_are_ports(value: i32) {
            prop_assert_eq!(number(value).is_some(), (1..=65535).contains(&value));
        }
    }
}
