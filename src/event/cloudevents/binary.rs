//! Attributes in headers (HTTP protocol binding §3.1.3).

use http::{HeaderMap, HeaderValue};

use super::super::error::{Malformed, Part, Reason, shorten};
use super::{Attributes, PREFIX, settled};

/// Every `ce-*` header by its attribute's name, decoded.
pub(crate) fn attributes(headers: &HeaderMap) -> Result<Attributes, Malformed> {
    let mut attributes = Attributes::new();
    for header in headers.keys() {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else { continue };
        let fault = |reason| {
            let mut place = header.as_str().to_owned();
            shorten(&mut place);
            Malformed::new(Part::Header, reason).pointer(place)
        };
        let mut values = headers.get_all(header).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(fault(Reason::Duplicate));
        };
        // `Content-Type` says it already (§3.1.1).
        if name == "datacontenttype" {
            return Err(fault(Reason::Duplicate));
        }
        let value = decode(value).and_then(|text| settled(&text)).map_err(fault)?;
        attributes.insert(name.to_owned(), value);
    }
    Ok(attributes)
}

/// The text of a header's value (§3.1.3.2): quotes and backslashes of RFC 7230 §3.2.6 undone, as older senders write
/// them, then percent-encoding, once. Quotes are the whole value's or nobody's: what stands around a part has no
/// one reading.
fn decode(value: &HeaderValue) -> Result<String, Reason> {
    let text = value.to_str().map_err(|_| Reason::Encoding)?;
    let unquoted = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or(Reason::Encoding)?,
        None if text.contains('"') => return Err(Reason::Encoding),
        None => text.to_owned(),
    };
    let mut bytes = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Reason::Encoding) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| Reason::Encoding)?);
    }
    // Over-long forms and surrogates are no UTF-8.
    String::from_utf8(bytes).map_err(|_| Reason::Utf8)
}

/// What stands between an opening quote and the closing one at the end.
fn unquote(quoted: &str) -> Option<String> {
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.as_str().is_empty().then_some(text),
            '\\' => text.push(rest.next()?),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(value: &str) -> Result<String, Reason> {
        let mut headers = HeaderMap::new();
        headers.insert("ce-x", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        attributes(&headers).map(|mut a| a.remove("x").unwrap()).map_err(|f| f.reason)
    }

    #[test]
    fn d13_header_values_are_decoded_as_the_binding_says() {
        for (value, text) in [
            // §3.1.3.2: the example, the same unnecessarily encoded, in lower case, and as older versions had it.
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("%45uro%20%e2%82%ac%20%f0%9f%98%80", "Euro € 😀"),
            ("\"Euro %E2%82%AC %F0%9F%98%80\"", "Euro € 😀"),
            (r#""a \"b\" \\ c\d""#, r#"a "b" \ cd"#),
            ("a b", "a b"),
            ("%22quoted%22", "\"quoted\""),
            (r"a\b", r"a\b"),
            ("\"\"", ""),
            ("", ""),
            // Once.
            ("%2541", "%41"),
            ("e%CC%81", "é"),
        ] {
            assert_eq!(decoded(value).as_deref(), Ok(text), "{value}");
        }
        for (value, reason) in [
            // §3.1.3.2: an over-long space.
            ("%C0%A0", Reason::Utf8),
            ("%ED%A0%80", Reason::Utf8),
            ("%F4%90%80%80", Reason::Utf8),
            ("%FF", Reason::Utf8),
            ("%", Reason::Encoding),
            ("%2", Reason::Encoding),
            ("%zz", Reason::Encoding),
            ("%+1", Reason::Encoding),
            ("€", Reason::Encoding),
            ("a\"b\"", Reason::Encoding),
            ("\"a\"b", Reason::Encoding),
            ("\"a", Reason::Encoding),
            ("\"a\\\"", Reason::Encoding),
            ("%00", Reason::Control),
            ("a%0D%0Ab", Reason::Control),
            ("%09", Reason::Control),
            ("%C2%85", Reason::Control),
            ("%E2%80%AE", Reason::Control),
            ("%EF%BF%BE", Reason::Control),
            ("%EF%B7%90", Reason::Control),
        ] {
            assert_eq!(decoded(value), Err(reason), "{value}");
        }
    }

    #[test]
    fn d13_no_attribute_comes_twice() {
        let mut headers = HeaderMap::new();
        headers.append("ce-id", HeaderValue::from_static("1"));
        headers.append("ce-id", HeaderValue::from_static("1"));
        let fault = attributes(&headers).unwrap_err();
        assert_eq!((fault.reason, fault.pointer.as_str()), (Reason::Duplicate, "ce-id"));
        let mut headers = HeaderMap::new();
        headers.append("ce-datacontenttype", HeaderValue::from_static("application/json"));
        assert_eq!(attributes(&headers).map_err(|f| f.reason), Err(Reason::Duplicate));
    }

    proptest! {
        #[test]
        fn d13_any_text_survives_its_header(text in "\\PC{0,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(decoded(&encoded), settled(&text));
        }
    }
}
