//! Attributes and data in one JSON text (JSON format §2 and §3).

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::Value;

use super::super::{
    error::{EventError, Malformed, Part, Reason, Violation},
    json::{self, Apart, Around, JsonLimits, Parsed},
};
use super::{Attributes, ContentMode, Envelope, place, repeat, settled};

/// An event in structured mode, its envelope validated, its data not yet.
#[derive(Debug)]
pub(crate) struct Structured {
    pub(crate) envelope: Envelope,
    /// `datacontenttype`, as written.
    pub(crate) content_type: Option<String>,
    pub(crate) data: Data,
}

/// The data of a structured event.
#[derive(Debug)]
pub(crate) enum Data {
    /// There is none.
    None,
    /// `data` that is no string.
    Value(Parsed),
    /// `data` that is a string, not yet in normal form: itself the value where the data is JSON, else the text of it.
    Text(String),
    /// `data_base64`, decoded.
    Bytes(Bytes),
}

impl Data {
    /// JSON pointer to it.
    pub(crate) fn pointer(&self) -> &'static str {
        match self {
            Self::Bytes(_) => "/data_base64",
            Self::None | Self::Value(_) | Self::Text(_) => "/data",
        }
    }
}

impl Structured {
    /// Reads an event by the limits of its data; `headers` are the attributes that came in headers as well.
    pub(crate) fn read(json: &str, limits: &JsonLimits, headers: &Attributes) -> Result<Self, EventError> {
        // A string of data has the bounds of a body of its own, and no string is longer than what it is read from.
        let Around { members, apart } =
            json::parse_around(json, &JsonLimits::MAX, &["data", "data_base64"], limits, json.len())?;
        let mut violations = Vec::new();
        let mut attributes = Attributes::new();
        for (name, value) in members {
            let text = match &value {
                // Unset (§2.2).
                Value::Null => continue,
                Value::String(text) => settled(text).map_err(|reason| {
                    Malformed::new(Part::Body, reason).pointer(place(&name, ContentMode::Structured))
                })?,
                Value::Bool(truth) if !is_text(&name) => truth.to_string(),
                Value::Number(number) if !is_text(&name) && is_integer(number) => number.to_string(),
                _ => {
                    violations.push(Violation {
                        pointer: place(&name, ContentMode::Structured),
                        keyword: "type".to_owned(),
                        limit: Some(
                            if is_text(&name) { "string" } else { "boolean, integer, string" }.to_owned(),
                        ),
                    });
                    continue;
                }
            };
            attributes.insert(name, text);
        }
        let data = data(apart, &mut violations)?;
        repeat(headers, &attributes)?;
        let content_type = attributes.remove(CONTENT_TYPE);
        let envelope = Envelope::of(attributes, ContentMode::Structured, violations)?;
        Ok(Self { envelope, content_type, data })
    }
}

fn data(apart: Vec<(&'static str, Apart)>, violations: &mut Vec<Violation>) -> Result<Data, Malformed> {
    let mut data = Data::None;
    for (name, member) in apart {
        let read = match (name, member) {
            // `null` is a value of `data`, and no `data_base64` (§3.1.1).
            ("data_base64", Apart::Value(Parsed { value: Value::Null, .. })) => continue,
            ("data_base64", Apart::Text(text)) => match BASE64_STANDARD.decode(&text) {
                Ok(bytes) => Data::Bytes(bytes.into()),
                Err(_) => {
                    violations.push(violation("contentEncoding", "base64"));
                    continue;
                }
            },
            ("data_base64", Apart::Value(_)) => {
                violations.push(violation("type", "string"));
                continue;
            }
            (_, Apart::Text(text)) => Data::Text(text),
            (_, Apart::Value(parsed)) => Data::Value(parsed),
        };
        if !matches!(data, Data::None) {
            return Err(Malformed::new(Part::Body, Reason::TwoData));
        }
        data = read;
    }
    Ok(data)
}

fn violation(keyword: &str, limit: &str) -> Violation {
    Violation {
        pointer: "/data_base64".to_owned(),
        keyword: keyword.to_owned(),
        limit: Some(limit.to_owned()),
    }
}

/// Whether an attribute of that name is text by the specification; any other is an extension's.
fn is_text(name: &str) -> bool {
    name == CONTENT_TYPE || super::OWN.contains(&name)
}

/// Whether a number is an integer of 32 bits (CloudEvents §3.1): a fraction or an exponent is no part of one.
fn is_integer(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

const CONTENT_TYPE: &str = "datacontenttype";
