//! The CloudEvents 1.0 envelope: what an event says of itself, apart from its data.
//!
//! A sender chooses the *content mode* (HTTP protocol binding §3): *binary*, with the attributes as `ce-*` headers and the
//! data as the body, or *structured*, with both in one JSON text. The function gets the same event either way: the
//! data as its body, the attributes as `ce-*` headers, decoded, in one order. Batches are not taken: each event is
//! one decision, one invocation and one record.
//!
//! Attributes are identifiers for routing, so their text rules are stricter than those of strings: no control character
//! at all, no noncharacter (CloudEvents §3.1, type `String`). What cannot be read in one way is malformed; what can be
//! read and breaks a rule of the specification is a violation, told by place and keyword (D11, D13).

mod binary;
mod structured;

use std::{borrow::Cow, collections::BTreeMap};

use http::{HeaderMap, HeaderName, header};
use validator::{Validate, ValidationError, ValidationErrors, ValidationErrorsKind};

pub(super) use structured::{Data, Structured};

use super::{
    error::{EventError, MAX_VIOLATIONS, Malformed, Part, Reason, Violation, push_segment, shorten},
    media, schema, text,
};

/// How a request carries its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentMode {
    /// Attributes in headers, data in the body.
    Binary,
    /// Both in the body.
    Structured,
}

impl ContentMode {
    /// The mode that a request's content type asks for (HTTP protocol binding §3): whatever begins with
    /// `application/cloudevents` is no data, and of those only one event in JSON is taken.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, EventError> {
        let values: Vec<&str> =
            headers.get_all(header::CONTENT_TYPE).iter().filter_map(|v| v.to_str().ok()).collect();
        if !values.iter().any(|value| is_of_cloudevents(value)) {
            return Ok(Self::Binary);
        }
        match values.as_slice() {
            [one] if media::is_exactly(one, STRUCTURED) => Ok(Self::Structured),
            _ => Err(EventError::UnsupportedMediaType),
        }
    }
}

/// Whether a media type is one of CloudEvents' own.
pub(super) fn is_of_cloudevents(media_type: &str) -> bool {
    let begin = media_type.trim_start_matches([' ', '\t']).get(..FAMILY.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(FAMILY))
}

/// Attributes by name, as text in canonical form, before any rule.
pub(crate) type Attributes = BTreeMap<String, String>;

/// The attributes of one event, validated; `datacontenttype` is not among them, since it belongs to the data.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub(crate) struct Envelope {
    #[validate(required, custom(function = "is_version"))]
    specversion: Option<String>,
    #[validate(required, length(min = 1))]
    id: Option<String>,
    #[validate(required, length(min = 1), custom(function = "is_uri_reference"))]
    source: Option<String>,
    /// `type`.
    #[validate(required, length(min = 1))]
    kind: Option<String>,
    #[validate(length(min = 1))]
    subject: Option<String>,
    #[validate(custom(function = "is_timestamp"))]
    time: Option<String>,
    #[validate(custom(function = "is_absolute_uri"))]
    dataschema: Option<String>,
    #[validate(length(max = 32))]
    extensions: BTreeMap<String, String>,
}

impl Envelope {
    /// The envelope of a request in binary mode, from its headers alone.
    pub(super) fn of_headers(headers: &HeaderMap) -> Result<Self, EventError> {
        let attributes = binary::attributes(headers)?;
        // Without a version the headers do not even claim to be an event's.
        if !attributes.contains_key(VERSION) {
            return Err(Malformed::new(Part::Header, Reason::NoEnvelope).into());
        }
        Self::of(attributes, ContentMode::Binary, Vec::new())
    }

    /// The envelope of these attributes; `violations` are those that were found when they were read.
    fn of(
        mut attributes: Attributes,
        mode: ContentMode,
        mut violations: Vec<Violation>,
    ) -> Result<Self, EventError> {
        let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_CONTEXT_BYTES {
            return Err(EventError::TooLarge { limit: MAX_CONTEXT_BYTES as u64 });
        }
        let mut take = |name: &str| attributes.remove(name);
        let envelope = Self {
            specversion: take(VERSION),
            id: take("id"),
            source: take("source"),
            kind: take("type"),
            subject: take("subject"),
            time: take("time"),
            dataschema: take("dataschema"),
            extensions: attributes,
        };
        violations.extend(envelope.extensions.keys().filter(|name| !is_name(name)).map(|name| Violation {
            pointer: place(name, mode),
            keyword: "propertyNames".to_owned(),
            limit: Some("[a-z0-9]{1,20}".to_owned()),
        }));
        if let Err(errors) = envelope.validate() {
            broken(&errors, mode, &mut violations);
        }
        if violations.is_empty() {
            return Ok(envelope);
        }
        violations
            .sort_by(|a, b| (&a.pointer, &a.keyword, &a.limit).cmp(&(&b.pointer, &b.keyword, &b.limit)));
        violations.truncate(MAX_VIOLATIONS);
        Err(EventError::Invalid { errors: violations })
    }

    /// The attributes as the headers that the function gets: the specification's own in its order, then extensions by
    /// name.
    pub(super) fn into_headers(self) -> Vec<(HeaderName, String)> {
        let Self { specversion, id, source, kind, subject, time, dataschema, extensions } = self;
        let own = [specversion, id, source, kind, subject, time, dataschema];
        let own = OWN.iter().map(|name| Cow::Borrowed(*name)).zip(own).filter_map(|(n, v)| Some((n, v?)));
        own.chain(extensions.into_iter().map(|(name, value)| (Cow::Owned(name), value)))
            // The names were checked: each is one of a header.
            .filter_map(|(name, value)| Some((HeaderName::try_from(format!("{PREFIX}{name}")).ok()?, value)))
            .collect()
    }
}

/// Refuses `ce-*` headers that contradict a structured event: they may repeat it (HTTP protocol binding §3.2.3), and
/// whoever reads only them must not see another event.
pub(super) fn repeat(headers: &Attributes, body: &Attributes) -> Result<(), Malformed> {
    match headers.iter().find(|(name, value)| body.get(*name) != Some(value)) {
        Some((name, _)) => {
            Err(Malformed::new(Part::Header, Reason::Contradiction).pointer(place(name, ContentMode::Binary)))
        }
        None => Ok(()),
    }
}

pub(super) use binary::attributes as header_attributes;

/// Text of an attribute: in normal form C, or why there can be none.
fn settled(text: &str) -> Result<String, Reason> {
    match text.chars().any(|c| c.is_control() || is_noncharacter(c) || text::is_refused(c)) {
        true => Err(Reason::Control),
        false => Ok(text::nfc(text).into_owned()),
    }
}

/// Unicode §23.7: the last two of each plane, and 32 in the middle of the first.
fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// Where an attribute stands: its header's name, or a JSON pointer into the body.
fn place(name: &str, mode: ContentMode) -> String {
    let mut place = String::new();
    match mode {
        ContentMode::Binary => {
            place.push_str(PREFIX);
            place.push_str(name);
        }
        ContentMode::Structured => push_segment(&mut place, name),
    }
    shorten(&mut place);
    place
}

/// `[a-z0-9]`, 1 to 20 of them, and not `data` (CloudEvents §3.1).
fn is_name(name: &str) -> bool {
    (1..=20).contains(&name.len())
        && name != "data"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_version(text: &str) -> Result<(), ValidationError> {
    ok_or(text == "1.0", "const", "1.0")
}

fn is_uri_reference(text: &str) -> Result<(), ValidationError> {
    ok_or(schema::is_uri_reference(text), "format", "uri-reference")
}

fn is_absolute_uri(text: &str) -> Result<(), ValidationError> {
    ok_or(schema::is_absolute_uri(text), "format", "uri")
}

fn is_timestamp(text: &str) -> Result<(), ValidationError> {
    let exists = || text.to_ascii_uppercase().parse::<jiff::Timestamp>().is_ok();
    ok_or(has_shape_of_timestamp(text) && exists(), "format", "date-time")
}

/// The shape of RFC 3339 §5.6: ISO 8601 has many more, and a parser that is glad of them reads `time` differently from
/// one that is not. Whether there is such a day and hour is left to the parser.
fn has_shape_of_timestamp(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let fits = |shape: &[u8], text: &[u8]| {
        shape.len() == text.len()
            && shape.iter().zip(text).all(|(shape, byte)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte.eq_ignore_ascii_case(other),
            })
    };
    let Some((seconds, rest)) = text.as_bytes().split_at_checked(SHAPE.len()) else { return false };
    let zone = match rest.split_first() {
        Some((b'.', fraction)) => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            fraction.get(digits..).unwrap_or_default()
        }
        _ => rest,
    };
    fits(SHAPE, seconds)
        && (fits(b"Z", zone) || (fits(b"+00:00", zone) && zone.get(1..3) < Some(b"24".as_slice())))
}

fn ok_or(holds: bool, keyword: &'static str, limit: &'static str) -> Result<(), ValidationError> {
    match holds {
        true => Ok(()),
        false => Err(ValidationError::new(keyword).with_message(limit.into())),
    }
}

/// What `validator` found, as callers read it. The value that it keeps in its parameters stays there (D11).
fn broken(errors: &ValidationErrors, mode: ContentMode, violations: &mut Vec<Violation>) {
    for (field, kind) in errors.errors() {
        let ValidationErrorsKind::Field(found) = kind else { continue };
        let name = if field == "kind" { "type" } else { &**field };
        // One that is there with a value of another type is told once.
        if violations.iter().any(|told| told.keyword == "type" && told.pointer == place(name, mode)) {
            continue;
        }
        violations.extend(found.iter().map(|error| {
            let bound = |bound: &str| error.params.get(bound).map(ToString::to_string);
            let (keyword, limit) = match (&*error.code, &error.message) {
                // Of members that are not there, the place is the object that has none.
                ("required", _) if mode == ContentMode::Structured => {
                    return Violation {
                        pointer: String::new(),
                        keyword: "required".to_owned(),
                        limit: Some(name.to_owned()),
                    };
                }
                ("length", _) if field == "extensions" => {
                    return Violation {
                        pointer: String::new(),
                        keyword: "maxProperties".to_owned(),
                        limit: bound("max"),
                    };
                }
                ("length", _) => ("minLength", bound("min")),
                (code, message) => (code, message.as_deref().map(str::to_owned)),
            };
            Violation { pointer: place(name, mode), keyword: keyword.to_owned(), limit }
        }));
    }
}

/// What the header of an attribute begins with.
pub(super) const PREFIX: &str = "ce-";

/// The media type of an event in structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json";

/// What every media type of CloudEvents' own begins with.
const FAMILY: &str = "application/cloudevents";

const VERSION: &str = "specversion";

/// Attributes of the specification, in the order in which the function gets them.
const OWN: [&str; 7] = [VERSION, "id", "source", "type", "subject", "time", "dataschema"];

/// All names and values together (D13), as decoded: what every intermediary must forward (CloudEvents §5).
const MAX_CONTEXT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
