//! Numbers of a JSON text, read so that nobody can read them differently (RFC 7493 §2.2).
//!
//! One rule: *a number is refused if writing what we read would say another number*.
//! - Digits alone are an integer: exact in 64 bits, or refused. Beyond ±(2^53 − 1), where other readers round, it is
//!   `wide`, and taken only where the schema says so.
//! - With a fraction or an exponent it is a double: the shortest decimal that means this double must be the decimal
//!   that was sent. `0.1`, `1e3` and `2.50` pass; `0.1000000000000000055`, `1e400` and `1e-400` do not.

use serde_json::Number;

use super::error::Reason;

/// Largest integer that every reader of doubles has exactly: 2^53 − 1.
pub(crate) const MAX_SAFE: u64 = (1 << 53) - 1;

/// A number at the beginning of a text.
#[derive(Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) number: Number,
    pub(crate) wide: bool,
    /// Bytes of text that it took.
    pub(crate) len: usize,
}

/// Reads the number that a text begins with.
#[inline]
pub(crate) fn read(text: &str) -> Result<Read, Reason> {
    let bytes = text.as_bytes();
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut at = start;
    let mut magnitude: Option<u64> = Some(0);
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        magnitude =
            magnitude.and_then(|m| m.checked_mul(10)).and_then(|m| m.checked_add(u64::from(digit - b'0')));
        at += 1;
    }
    if at == start || (at > start + 1 && bytes.get(start) == Some(&b'0')) {
        return Err(Reason::Syntax);
    }
    if matches!(bytes.get(at), Some(b'.' | b'e' | b'E')) {
        return double(text, at);
    }
    let magnitude = magnitude.ok_or(Reason::Rounded)?;
    let number = match (negative, magnitude) {
        (false, m) => Number::from(m),
        // JSON has a negative zero, integers have none.
        (true, 0) => Number::from_f64(-0.0).ok_or(Reason::Rounded)?,
        (true, m) => Number::from(0_i64.checked_sub_unsigned(m).ok_or(Reason::Rounded)?),
    };
    Ok(Read { number, wide: magnitude > MAX_SAFE, len: at })
}

/// A number whose integer part ends at `at`.
fn double(text: &str, mut at: usize) -> Result<Read, Reason> {
    let bytes = text.as_bytes();
    let digits =
        |from: usize| bytes.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count();
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return Err(Reason::Syntax);
        }
        at += 1 + fraction;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return Err(Reason::Syntax);
        }
        at += exponent;
    }
    let text = text.get(..at).ok_or(Reason::Syntax)?;
    let double: f64 = text.parse().map_err(|_| Reason::Syntax)?;
    if !double.is_finite() || !says_the_same(text, double) {
        return Err(Reason::Rounded);
    }
    let number = Number::from_f64(double).ok_or(Reason::Rounded)?;
    Ok(Read { number, wide: false, len: at })
}

fn says_the_same(text: &str, double: f64) -> bool {
    // A double has every decimal of 15 significant digits in its normal range (`f64::DIGITS`); 15 characters have no more.
    if text.len() <= f64::DIGITS as usize && double.is_normal() {
        return true;
    }
    let shortest = format!("{double:e}");
    matches!((Decimal::of(text), Decimal::of(&shortest)), (Some(sent), Some(kept)) if sent == kept)
}

/// A decimal by value: significant digits without zeros at either end, and the place of the first.
#[derive(PartialEq)]
struct Decimal {
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// None if it has more significant digits than the shortest text of any double.
    fn of(text: &str) -> Option<Self> {
        const MAX_DIGITS: usize = 17;
        let text = text.trim_start_matches('-');
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            // An exponent beyond 64 bits is no double's, unless the mantissa is zero.
            Some((mantissa, exponent)) => (mantissa, exponent.parse().unwrap_or(i64::MAX / 2)),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes());
        let zeros = all().take_while(|b| *b == b'0').count();
        let significant = all().count() - all().rev().take_while(|b| *b == b'0').count();
        let significant = significant.saturating_sub(zeros);
        if significant > MAX_DIGITS {
            return None;
        }
        let digits: Vec<u8> = all().skip(zeros).take(significant).collect();
        let first = i64::try_from(whole.len()).ok()?.saturating_sub(i64::try_from(zeros).ok()?);
        let exponent = if digits.is_empty() { 0 } else { first.saturating_add(exponent) };
        Some(Self { digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d05_numbers_that_would_be_rounded_are_refused() {
        for text in [
            "12345678901234567890123",
            "18446744073709551616",
            "-9223372036854775809",
            "0.1000000000000000055",
            "9007199254740993.0",
            "1e400",
            "-1e400",
            "1e-400",
            "1e99999999999999999999999",
            "0.10000000000000001",
            "2.2250738585072011e-308000",
        ] {
            assert_eq!(read(text), Err(Reason::Rounded), "{text}");
        }
    }

    #[test]
    fn d05_numbers_that_stay_themselves_are_read() {
        for text in [
            "0.1",
            "2.50",
            "1e3",
            "1E+3",
            "1.5e-7",
            "0.0",
            "-0.0",
            "0e999999999999999999999",
            "5e-324",
            "1e23",
            "1.7976931348623157e308",
            "0.30000000000000004",
            "100000000000000000000.0",
            "123456789012345.6",
        ] {
            let read = read(text).unwrap();
            assert_eq!(read.len, text.len(), "{text}");
            assert_eq!(read.number.as_f64(), text.parse().ok(), "{text}");
        }
        assert_eq!(read("18446744073709551615").unwrap().number.as_u64(), Some(u64::MAX));
        assert_eq!(read("-9223372036854775808").unwrap().number.as_i64(), Some(i64::MIN));
        assert!(read("9007199254740992").unwrap().wide);
        assert!(read("-9007199254740992").unwrap().wide);
        assert!(!read("9007199254740991").unwrap().wide);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["-", "01", "-01", "1.", "1.e5", "1e", "1e+", "-.5", "00"] {
            assert_eq!(read(text), Err(Reason::Syntax), "{text}");
        }
    }

    proptest! {
        #[test]
        fn d05_every_double_as_shortest_text_is_read(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            for text in [format!("{double:e}"), format!("{double:?}")] {
                if text.contains(['.', 'e']) {
                    prop_assert_eq!(read(&text).unwrap().number.as_f64(), Some(double));
                }
            }
        }
    }
}
