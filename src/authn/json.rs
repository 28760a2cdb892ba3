//! JSON as a token may hold it: no name twice in one object, at any depth.
//!
//! RFC 7519 §4 and RFC 7515 §4 let a verifier either refuse duplicates or take the last one; two parsers that choose
//! differently would disagree on who is calling, so we refuse.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// An object whose names are unique at every depth. Depth is bounded by `serde_json` (128).
#[derive(Debug, Clone)]
pub(super) struct StrictObject(pub(super) Map<String, Value>);

impl StrictObject {
    /// Reads one object and nothing after it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        match serde_json::from_slice::<Strict>(bytes) {
            Ok(Strict(Value::Object(map))) => Ok(Self(map)),
            Ok(_) => Err("not a JSON object"),
            Err(error) if error.to_string().starts_with(DUPLICATE) => Err(DUPLICATE),
            Err(_) => Err("not strict JSON"),
        }
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictValue.deserialize(deserializer).map(Self)
    }
}

#[derive(Clone, Copy)]
struct StrictValue;

impl<'de> DeserializeSeed<'de> for StrictValue {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with unique names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom(DUPLICATE));
            }
        }
        Ok(Value::Object(object))
    }
}

const DUPLICATE: &str = "a name appears twice";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_twice_at_any_depth_also_when_escaped() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
            r#"{"sub":"x","\u0073ub":"y"}"#,
        ] {
            assert_eq!(StrictObject::parse(text.as_bytes()).unwrap_err(), DUPLICATE, "{text}");
        }
        assert!(StrictObject::parse(br#"{"a":{"a":[{"a":null}]},"b":1.5,"c":-1,"d":true}"#).is_ok());
    }

    #[test]
    fn only_one_whole_object_is_json_here() {
        for text in
            ["", "[]", "1", "null", "{} x", "{}{}", "\u{feff}{}", "{\"a\":\"\\ud800\"}", "{\"a\":1e999}"]
        {
            assert!(StrictObject::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        assert!(StrictObject::parse(deep.as_bytes()).is_err());
    }
}
