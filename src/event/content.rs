//! What is in a body: from bytes, or from a CloudEvent's data, to what the function gets.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{
    cloudevents::Data,
    error::{EventError, Malformed, Part, Reason, Violation, shorten},
    injection::{self, Mode, Signal},
    json::{self, JsonLimits, Parsed},
    media::{self, Form, MediaType},
    plan, query,
    rules::EventRules,
    schema::Schema,
    text,
};

/// A body that was read and validated.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) media_type: Option<Arc<str>>,
    pub(super) bytes: Bytes,
}

impl EventRules {
    /// The content of a body of that media type.
    pub(super) fn content(
        &self,
        media_type: &MediaType,
        received: &Bytes,
        signals: &mut Vec<Signal>,
    ) -> Result<Content, EventError> {
        let parsed = match media_type.form {
            Form::Bytes => {
                return Ok(Content {
                    media_type: Some(Arc::clone(&media_type.name)),
                    bytes: received.clone(),
                });
            }
            Form::Text => {
                let text = utf8(received)?;
                if let Some(offset) = text::refused_at(text) {
                    return Err(Malformed::new(Part::Body, Reason::Control).offset(offset).into());
                }
                if self.injection != Mode::Off {
                    injection::scan_text(text, "", signals);
                }
                let bytes = match text::nfc(text) {
                    Cow::Borrowed(_) => received.clone(),
                    Cow::Owned(normal) => self.bounded(normal.into_bytes())?,
                };
                return Ok(Content { media_type: Some(Arc::clone(&media_type.name)), bytes });
            }
            Form::Json => json::parse(utf8(received)?, &self.limits)?,
            Form::Pairs => {
                let plan = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?.plan();
                query::object(utf8(received)?, Part::Body, plan, &self.limits)?
            }
        };
        self.value(media_type, parsed, received.len(), signals)
    }

    /// The content of a value that was read strictly, from about so many bytes.
    fn value(
        &self,
        media_type: &MediaType,
        parsed: Parsed,
        about_bytes: usize,
        signals: &mut Vec<Signal>,
    ) -> Result<Content, EventError> {
        let schema = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?;
        let value = settle(parsed, schema, &self.limits)?;
        if self.injection != Mode::Off {
            injection::scan(&value, &mut String::new(), signals);
        }
        let bytes = write(&value, about_bytes)?;
        let bytes = if schema.plan().sanitizes() { self.bounded(bytes)? } else { bytes.into() };
        let name =
            if media_type.form == Form::Pairs { Arc::from(JSON) } else { Arc::clone(&media_type.name) };
        Ok(Content { media_type: Some(name), bytes })
    }

    /// The content of a structured CloudEvent: its data, as if it had come alone as a body of its `datacontenttype`.
    pub(super) fn data(
        &self,
        method: &Method,
        content_type: Option<&str>,
        data: Data,
        signals: &mut Vec<Signal>,
    ) -> Result<Content, EventError> {
        let pointer = data.pointer();
        let media_type = match (content_type, &data) {
            (_, Data::None) if self.may_be_absent(method) => return Ok(Content::default()),
            (Some(content_type), _) => media::named(content_type, &self.media_types)?,
            // JSON format §3.1.2: nothing may be assumed of bytes, and of anything else that it is JSON.
            (None, Data::Bytes(_)) => return Err(EventError::UnsupportedMediaType),
            (None, _) => media::named(JSON, &self.media_types)?,
        };
        let content = match (media_type.form, data) {
            (_, Data::None) => self.content(media_type, &Bytes::new(), signals),
            (_, Data::Bytes(bytes)) => self.content(media_type, &bytes, signals),
            (Form::Json, Data::Value(parsed)) => self.value(media_type, parsed, 256, signals),
            (Form::Json, Data::Text(text)) => {
                let about = text.len();
                let parsed = json::text_value(text, &self.limits);
                parsed.map_err(EventError::from).and_then(|p| self.value(media_type, p, about, signals))
            }
            (_, Data::Text(text)) => self.content(media_type, &text.into(), signals),
            (_, Data::Value(_)) => Err(EventError::Invalid {
                errors: vec![Violation {
                    pointer: String::new(),
                    keyword: "type".to_owned(),
                    limit: Some("string".to_owned()),
                }],
            }),
        };
        content.map_err(|error| below(pointer, error))
    }

    /// Text that grew on its way is bounded as what was received.
    fn bounded(&self, bytes: Vec<u8>) -> Result<Bytes, EventError> {
        match bytes.len() as u64 > self.body.max_bytes {
            true => Err(EventError::TooLarge { limit: self.body.max_bytes }),
            false => Ok(bytes.into()),
        }
    }
}

/// What follows the strict reading: wide integers, sanitizing, bounds again, the schema.
pub(super) fn settle(parsed: Parsed, schema: &Schema, limits: &JsonLimits) -> Result<Value, EventError> {
    let Parsed { mut value, wide } = parsed;
    if wide && let Some(pointer) = schema.plan().too_wide(&value) {
        return Err(Malformed::new(Part::Body, Reason::Wide).pointer(pointer).into());
    }
    if schema.plan().sanitizes() {
        let errors = schema.plan().sanitize(&mut value);
        if !errors.is_empty() {
            return Err(EventError::Invalid { errors });
        }
        if let Some(pointer) = plan::too_long(&value, limits) {
            return Err(Malformed::new(Part::Body, Reason::String(limits.string_bytes))
                .pointer(pointer)
                .into());
        }
    }
    match schema.check(&value) {
        Ok(()) => Ok(value),
        Err(errors) => Err(EventError::Invalid { errors }),
    }
}

/// Writes a value in a buffer that fits what it was read from.
pub(super) fn write(value: &Value, about_bytes: usize) -> Result<Vec<u8>, EventError> {
    let mut bytes = Vec::with_capacity(about_bytes + 16);
    serde_json::to_writer(&mut bytes, value).map_err(|source| EventError::Write { source })?;
    Ok(bytes)
}

/// A refusal of data, told by its place in the body that holds it.
fn below(holder: &str, error: EventError) -> EventError {
    let place = |pointer: String| {
        let mut place = format!("{holder}{pointer}");
        shorten(&mut place);
        place
    };
    match error {
        EventError::Malformed(fault) => {
            // Its offset is one in the data.
            EventError::Malformed(Malformed { pointer: place(fault.pointer), offset: None, ..fault })
        }
        EventError::Invalid { errors } => EventError::Invalid {
            errors: errors.into_iter().map(|v| Violation { pointer: place(v.pointer), ..v }).collect(),
        },
        other => other,
    }
}

/// The text of a body.
pub(super) fn utf8(bytes: &Bytes) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|e| Malformed::new(Part::Body, Reason::Utf8).offset(e.valid_up_to()))
}

const JSON: &str = "application/json";
