//! Query, forms and the path after a function's name: percent-encoding, decoded once and strictly.
//!
//! "Strictly" as for JSON: what is accepted here, every reader decodes alike. So there is no parameter without `=`, no
//! name twice unless the schema says array, no `%` but before two hexadecimal digits, nothing but UTF-8.

use serde_json::{Map, Value, map::Entry};

use super::{
    error::{Malformed, Part, Reason, shorten},
    json::{JsonLimits, Parsed},
    number,
    plan::{Kind, Plan},
    text,
};

/// Reads `name=value&…` as an object, each value of the type that the schema gives its name. A value that cannot be of
/// that type stays a string, so that the schema refuses it by name.
pub(crate) fn object(
    encoded: &str,
    part: Part,
    plan: &Plan,
    limits: &JsonLimits,
) -> Result<Parsed, Malformed> {
    let mut members: Map<String, Value> = Map::new();
    let mut wide = false;
    if encoded.is_empty() {
        return Ok(Parsed { value: Value::Object(members), wide });
    }
    for (index, pair) in encoded.split('&').enumerate() {
        // As many values as a JSON text may have.
        if index as u64 >= u64::from(limits.nodes) {
            return Err(Malformed::new(part, Reason::Nodes(limits.nodes)));
        }
        let (name, value) = pair.split_once('=').ok_or(Malformed::new(part, Reason::Parameter))?;
        let name = component(name, part, "", limits)?;
        if name.is_empty() {
            return Err(Malformed::new(part, Reason::Parameter));
        }
        let value = component(value, part, &name, limits)?;
        let (kind, item_kind) = plan.property_kind(&name);
        let count = members.len();
        match (members.entry(name), kind) {
            (Entry::Vacant(_), _) if count == limits.members => {
                return Err(Malformed::new(part, Reason::Members(limits.members)));
            }
            (Entry::Vacant(place), Kind::Array) => {
                place.insert(Value::Array(vec![typed(value, item_kind, &mut wide)]));
            }
            (Entry::Vacant(place), kind) => {
                place.insert(typed(value, kind, &mut wide));
            }
            (Entry::Occupied(mut place), Kind::Array) => {
                if let Value::Array(items) = place.get_mut() {
                    if items.len() == limits.items {
                        return Err(at(part, Reason::Items(limits.items), place.key()));
                    }
                    items.push(typed(value, item_kind, &mut wide));
                }
            }
            (Entry::Occupied(place), _) => return Err(at(part, Reason::Duplicate, place.key())),
        }
    }
    Ok(Parsed { value: Value::Object(members), wide })
}

/// Reads what follows the function's name in a path. Nothing is normalised, since policies have seen the path as it was
/// sent: what would need it is refused.
pub(crate) fn rest(encoded: &str, limits: &JsonLimits) -> Result<String, Malformed> {
    let fault = |reason| Malformed::new(Part::Rest, reason);
    let decoded = percent_decode(encoded, false).map_err(|offset| fault(Reason::Encoding).offset(offset))?;
    let decoded = match decoded {
        Decoded { separator: true, .. } => return Err(fault(Reason::Segment)),
        Decoded { bytes, .. } => String::from_utf8(bytes).map_err(|_| fault(Reason::Utf8))?,
    };
    if decoded.len() > limits.string_bytes {
        return Err(fault(Reason::String(limits.string_bytes)));
    }
    if decoded.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(fault(Reason::Segment));
    }
    if text::refused_at(&decoded).is_some() {
        return Err(fault(Reason::Control));
    }
    if text::nfc(&decoded) != decoded {
        return Err(fault(Reason::NotNormal));
    }
    Ok(decoded)
}

fn at(part: Part, reason: Reason, name: &str) -> Malformed {
    let mut pointer = match part {
        Part::Query => format!("?{name}"),
        _ => format!("/{name}"),
    };
    shorten(&mut pointer);
    Malformed::new(part, reason).pointer(pointer)
}

/// One name or value.
fn component(encoded: &str, part: Part, name: &str, limits: &JsonLimits) -> Result<String, Malformed> {
    let fault = |reason| match name {
        "" => Malformed::new(part, reason),
        name => at(part, reason, name),
    };
    let decoded = percent_decode(encoded, true).map_err(|_| fault(Reason::Encoding))?;
    let decoded = String::from_utf8(decoded.bytes).map_err(|_| fault(Reason::Utf8))?;
    if text::refused_at(&decoded).is_some() {
        return Err(fault(Reason::Control));
    }
    let normal = match text::nfc(&decoded) {
        std::borrow::Cow::Borrowed(_) => decoded,
        std::borrow::Cow::Owned(normal) => normal,
    };
    if normal.len() > limits.string_bytes {
        return Err(fault(Reason::String(limits.string_bytes)));
    }
    Ok(normal)
}

struct Decoded {
    bytes: Vec<u8>,
    /// Whether NUL, `/` or `\` came out of an escape, or `\` stood there as it is.
    separator: bool,
}

/// Decodes once; `Err` with the offset of what is wrong.
fn percent_decode(encoded: &str, plus_is_space: bool) -> Result<Decoded, usize> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut separator = false;
    let mut rest = encoded.bytes().enumerate();
    while let Some((offset, byte)) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|(_, b)| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(offset) };
                let byte = u8::try_from(high * 16 + low).map_err(|_| offset)?;
                separator |= matches!(byte, 0 | b'/' | b'\\');
                bytes.push(byte);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            0x21..=0x7e => {
                separator |= byte == b'\\';
                bytes.push(byte);
            }
            _ => return Err(offset),
        }
    }
    Ok(Decoded { bytes, separator })
}

fn typed(text: String, kind: Kind, wide: &mut bool) -> Value {
    let number = |integer: bool, wide: &mut bool| {
        let read = number::read(&text).ok().filter(|r| r.len == text.len())?;
        if integer && read.number.is_f64() {
            return None;
        }
        *wide |= read.wide;
        Some(Value::Number(read.number))
    };
    let value = match kind {
        Kind::Integer => number(true, wide),
        Kind::Number => number(false, wide),
        Kind::Boolean => match text.as_str() {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        Kind::Text | Kind::Array => None,
    };
    value.unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::graph::Graph;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(encoded: &str) -> Result<Value, Reason> {
        let schema = json!({"properties": {
            "n": {"type": "integer"}, "x": {"type": "number"}, "b": {"type": "boolean"},
            "ids": {"type": "array", "items": {"$ref": "#/$defs/id"}}, "tags": {"type": "array"}
        }, "$defs": {"id": {"type": "integer"}}});
        let plan = Plan::of(&Graph::of(&schema, 32).0);
        object(encoded, Part::Query, &plan, &JsonLimits::MAX).map(|p| p.value).map_err(|f| f.reason)
    }

    #[test]
    fn values_get_the_type_that_the_schema_gives_their_name() {
        assert_eq!(
            read("n=-5&x=2.5&b=true&ids=1&ids=2&tags=a&s=5+%2B%c3%a9").unwrap(),
            json!({"n": -5, "x": 2.5, "b": true, "ids": [1, 2], "tags": ["a"], "s": "5 +é"})
        );
        assert_eq!(
            read("n=05&x=1e&b=TRUE&ids=x").unwrap(),
            json!({"n": "05", "x": "1e", "b": "TRUE", "ids": ["x"]})
        );
        assert_eq!(read("n=1.0&x=1&s=a=b").unwrap(), json!({"n": "1.0", "x": 1, "s": "a=b"}));
        assert_eq!(read("").unwrap(), json!({}));
    }

    #[test]
    fn d03_a_query_with_two_readings_is_refused() {
        for (query, reason) in [
            ("a=1&a=2", Reason::Duplicate),
            ("a=1&%61=2", Reason::Duplicate),
            ("e%cc%81=1&%c3%a9=2", Reason::Duplicate),
            ("a", Reason::Parameter),
            ("=1", Reason::Parameter),
            ("a=1&&b=2", Reason::Parameter),
            ("a=1&", Reason::Parameter),
            ("a=%", Reason::Encoding),
            ("a=%4", Reason::Encoding),
            ("a=%+1", Reason::Encoding),
            ("a=é", Reason::Encoding),
            ("a= b", Reason::Encoding),
            ("a=%ff", Reason::Utf8),
            ("a=%c0%af", Reason::Utf8),
            ("a=%ed%a0%80", Reason::Utf8),
            ("a=%00", Reason::Control),
            ("a=%e2%80%ae", Reason::Control),
            ("%07=x", Reason::Control),
        ] {
            assert_eq!(read(query), Err(reason), "{query}");
        }
        let many: Vec<String> = (0..257).map(|n| format!("p{n}=1")).collect();
        assert_eq!(read(&many.join("&")), Err(Reason::Members(256)));
        assert_eq!(read(&vec!["ids=1"; 1_001].join("&")), Err(Reason::Items(1_000)));
    }

    #[test]
    fn c06_encoded_separators_and_dot_segments_are_refused() {
        for (path, reason) in [
            ("", Reason::Segment),
            ("a/", Reason::Segment),
            ("a//b", Reason::Segment),
            (".", Reason::Segment),
            ("a/../b", Reason::Segment),
            ("a/%2e%2E/b", Reason::Segment),
            ("a/.%2e", Reason::Segment),
            ("a%2fb", Reason::Segment),
            ("a%2Fb", Reason::Segment),
            ("a%5cb", Reason::Segment),
            ("a\\b", Reason::Segment),
            ("a%00", Reason::Segment),
            ("a%c0%ae", Reason::Utf8),
            ("a%c0%af", Reason::Utf8),
            ("%e0%80%af", Reason::Utf8),
            ("%ff", Reason::Utf8),
            ("é", Reason::Encoding),
            ("a%", Reason::Encoding),
            ("a%zz", Reason::Encoding),
            ("a b", Reason::Encoding),
            ("a%0a%07", Reason::Control),
            ("%e2%80%ae", Reason::Control),
            ("e%cc%81", Reason::NotNormal),
        ] {
            assert_eq!(rest(path, &JsonLimits::MAX).map_err(|f| f.reason), Err(reason), "{path}");
        }
        assert_eq!(rest("2026/a%20b/%c3%a9+...", &JsonLimits::MAX).as_deref(), Ok("2026/a b/é+..."));
        // Decoded once: what looks encoded now is text.
        assert_eq!(rest("%252e%252e", &JsonLimits::MAX).as_deref(), Ok("%2e%2e"));
    }

    proptest! {
        #[test]
        fn c06_no_path_gets_out_of_its_function(path in "([a-z./%\\\\]|%2[eEfF]|%5[cC]|%00|\\PC){0,24}") {
            if let Ok(decoded) = rest(&path, &JsonLimits::MAX) {
                prop_assert!(!decoded.contains(['\0', '\\']));
                prop_assert_eq!(decoded.matches('/').count(), path.matches('/').count());
                prop_assert!(decoded.split('/').all(|s| !s.is_empty() && s != "." && s != ".."));
            }
        }

        #[test]
        fn any_text_survives_encoding_and_decoding(text in "\\PC{1,20}") {
            let normal = text::nfc(&text).into_owned();
            let encoded = percent_encoding::utf8_percent_encode(&normal, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(read(&format!("a={encoded}")).unwrap(), json!({"a": normal.clone()}));
            if !normal.contains(['/', '\\']) && normal != "." && normal != ".." {
                prop_assert_eq!(rest(&encoded, &JsonLimits::MAX).unwrap(), normal);
            }
        }
    }
}
