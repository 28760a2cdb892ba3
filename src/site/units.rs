//! Quantities as authors write them: `64KiB`, `50ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A size in bytes, written `512B`, `64KiB`, `1MiB` or `1GiB`: powers of 1024 only, so that nobody has to ask which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A time span, written `50ms`, `30s`, `15m`, `1h` or `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Bytes {
    /// So many KiB.
    pub const fn kib(number: u64) -> Self {
        Self(number << 10)
    }

    /// So many MiB.
    pub const fn mib(number: u64) -> Self {
        Self(number << 20)
    }

    /// The number, for what is measured in `usize`; where that is narrower, its largest.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    /// So many milliseconds.
    pub const fn ms(number: u64) -> Self {
        Self(Duration::from_millis(number))
    }

    /// So many seconds.
    pub const fn secs(number: u64) -> Self {
        Self(Duration::from_secs(number))
    }
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("a size is a whole number with `B`, `KiB`, `MiB` or `GiB`, such as `64KiB`")]
    Bytes,
    /// Not a time span.
    #[error("a time span is a whole number with `ms`, `s`, `m`, `h` or `d`, such as `50ms`")]
    Span,
}

const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
const SPANS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let exact = units.iter().filter(|(_, scale)| value.is_multiple_of(*scale) && value >= *scale);
    match exact.max_by_key(|(_, scale)| *scale).or(units.iter().min_by_key(|(_, scale)| *scale)) {
        Some((name, scale)) => write!(f, "{}{name}", value / scale),
        None => write!(f, "{value}"),
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SIZES).map(Self).ok_or(UnitError::Bytes)
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SPANS_MS).map(|ms| Self(Duration::from_millis(ms))).ok_or(UnitError::Span)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, &SIZES)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &SPANS_MS)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Bytes, Span);

macro_rules! ranged {
    ($($name:ident),*) => {$(
        impl validator::ValidateRange<$name> for $name {
            fn greater_than(&self, max: $name) -> Option<bool> {
                Some(*self > max)
            }

            fn less_than(&self, min: $name) -> Option<bool> {
                Some(*self < min)
            }
        }

        /// What is not said is within every range.
        impl validator::ValidateRange<$name> for Option<$name> {
            fn greater_than(&self, max: $name) -> Option<bool> {
                self.map(|value| value > max)
            }

            fn less_than(&self, min: $name) -> Option<bool> {
                self.map(|value| value < min)
            }
        }
    )*};
}

ranged!(Bytes, Span);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_and_printed_in_their_largest_exact_unit() {
        for text in ["0B", "1B", "64KiB", "1MiB", "1025B", "3GiB"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        for text in ["0ms", "50ms", "1500ms", "30s", "15m", "1h", "7d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_quantity_without_its_unit_is_refused() {
        for text in ["", "64", "64KB", "64 KiB", "-1B", "1.5MiB", "99999999999999999999GiB"] {
            assert_eq!(text.parse::<Bytes>(), Err(UnitError::Bytes), "{text}");
        }
        for text in ["50", "50us", "1y", "s"] {
            assert_eq!(text.parse::<Span>(), Err(UnitError::Span), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bytes: u64, ms: u64) {
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
            prop_assert_eq!(Span::ms(ms).to_string().parse(), Ok(Span::ms(ms)));
        }

        #[test]
        fn any_text_is_a_quantity_or_refused(text in "\\PC{0,12}|[0-9]{0,20}(B|KiB|MiB|GiB|ms|s|m|h|d)") {
            if let Ok(bytes) = text.parse::<Bytes>() {
                prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
            }
            if let Ok(span) = text.parse::<Span>() {
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
    }
}
