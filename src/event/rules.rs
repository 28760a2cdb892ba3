//! What one function takes, compiled from its manifest and schemas; and the way of an event through it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use serde_json::Value;
use toml::Spanned;

use super::{
    error::{EventError, Malformed, Part, Reason, Violation, shorten},
    headers::HeaderList,
    injection::{self, Mode, Signal},
    json::{self, JsonLimits, Parsed},
    media::{self, Form, MediaType},
    plan, query,
    read::UnreadBody,
    schema::Schema,
    schemas::Schemas,
    text,
};
use crate::{
    authn::{Caller, Received},
    authz::{Authorized, AuthorizedParts, Decision},
    id::{FunctionId, RequestId},
    site::{
        diagnostic::{Diagnostic, Source},
        manifest::RawManifest,
    },
};

/// Bounds of a body, as they are in force for one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyBounds {
    /// Largest body of a request, in bytes: the smallest of platform, tenant and manifest.
    pub max_bytes: u64,
    /// Time for a body to arrive.
    pub time: Duration,
}

impl Default for BodyBounds {
    /// As long as the longest string of an event; 10 s let a phone on a poor line send that much.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024, time: Duration::from_secs(10) }
    }
}

/// A function's manifest and the schemas it names, as read.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The function's name.
    pub function: &'a FunctionId,
    /// `function.toml`, parsed.
    pub manifest: &'a RawManifest,
    /// `function.toml`, its text.
    pub manifest_source: &'a Source,
    /// The file that `[event] schema` names.
    pub event_schema: Option<&'a Source>,
    /// The file that `[event] query` names.
    pub query_schema: Option<&'a Source>,
    /// The file that `[response] schema` names.
    pub response_schema: Option<&'a Source>,
}

/// What one function takes.
#[derive(Debug)]
pub struct EventRules {
    function: FunctionId,
    methods: Vec<Method>,
    allow: Arc<str>,
    takes_rest: bool,
    gives_raw: bool,
    body: BodyBounds,
    media_types: Vec<MediaType>,
    headers: HeaderList,
    limits: JsonLimits,
    injection: Mode,
    schema: Option<Arc<Schema>>,
    query_schema: Option<Arc<Schema>>,
}

/// Parts of a request's head that an event is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventHead<'a> {
    /// The method.
    pub(super) method: &'a Method,
    /// What follows the function's name and its slash in the path, still percent-encoded.
    pub(super) rest: Option<&'a str>,
    /// What follows `?`, still percent-encoded.
    pub(super) query: Option<&'a str>,
    /// All headers.
    pub(super) headers: &'a HeaderMap,
}

/// A function's input, sanitized and validated. Made by [`EventRules::validate`] alone; not `Clone`.
#[derive(Debug)]
pub struct Event {
    method: Method,
    rest: String,
    query: String,
    headers: Vec<(HeaderName, String)>,
    content_type: Option<Arc<str>>,
    body: Bytes,
    raw: Option<Bytes>,
    signals: Vec<Signal>,
    bytes_in: u64,
}

impl Event {
    /// One of the methods that the manifest lists.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// What followed the function's name in the path, decoded; empty unless the manifest takes it.
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// The validated query as the text of a JSON object.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Request headers of the allow-list; the media type is not among them.
    pub fn headers(&self) -> &[(HeaderName, String)] {
        &self.headers
    }

    /// Media type of the body, without parameters; empty without a body. A form is JSON by now.
    pub fn content_type(&self) -> &str {
        self.content_type.as_deref().unwrap_or_default()
    }

    /// The body: for JSON and forms, the validated value written anew.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The exact bytes as received, where the manifest says `raw = true`.
    pub fn raw(&self) -> Option<&Bytes> {
        self.raw.as_ref()
    }

    /// Strings that look like attacks.
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// Bytes of the body as received.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }
}

/// A request whose caller may invoke the function and whose event keeps its rules. Made by [`EventRules::validate`] alone;
/// not `Clone` (INVARIANT Evidence).
#[derive(Debug)]
pub struct Validated {
    request_id: RequestId,
    function: FunctionId,
    caller: Arc<Caller>,
    decision: Arc<Decision>,
    event: Event,
}

impl Validated {
    /// Names the request.
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// What is invoked.
    pub fn function(&self) -> &FunctionId {
        &self.function
    }

    /// Who invokes it.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// Who allowed it.
    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    /// The function's input.
    pub fn event(&self) -> &Event {
        &self.event
    }
}

/// A body that was read and validated.
#[derive(Debug, Default)]
struct Content {
    media_type: Option<Arc<str>>,
    bytes: Bytes,
}

impl EventRules {
    /// Reads and validates the event of a request that was allowed.
    pub async fn validate(&self, authorized: Authorized<UnreadBody>) -> Result<Validated, EventError> {
        let AuthorizedParts { received, caller, decision } = authorized.into_parts();
        let Received { request_id, tenant, function, head, body } = received;
        if tenant != self.function.tenant || function != self.function.function {
            return Err(EventError::Mismatch);
        }
        let read = EventHead {
            method: &head.method,
            rest: head.rest.as_deref(),
            query: head.query.as_deref(),
            headers: &head.headers,
        };
        let event = self.read_event(read, body).await?;
        Ok(Validated { request_id, function: FunctionId { tenant, function }, caller, decision, event })
    }

    /// Reads and validates the input of one request, in the order of design.md §7.
    ///
    /// For this stage alone: an event without evidence is none (INVARIANT Evidence).
    pub(super) async fn read_event(
        &self,
        head: EventHead<'_>,
        body: UnreadBody,
    ) -> Result<Event, EventError> {
        if !self.methods.contains(head.method) {
            return Err(EventError::MethodNotAllowed { allow: Arc::clone(&self.allow) });
        }
        if head.rest.is_some() && !self.takes_rest {
            return Err(EventError::NoRest);
        }
        if body.declared_bytes().is_some_and(|declared| declared > self.body.max_bytes) {
            return Err(EventError::TooLarge { limit: self.body.max_bytes });
        }
        let media_type = self.media_type(&head, &body)?;
        if head.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(EventError::UnsupportedEncoding);
        }
        let rest = head.rest.map(|rest| query::rest(rest, &self.limits)).transpose()?.unwrap_or_default();
        let headers = self.headers.pick(head.headers)?;
        let mut signals = Vec::new();
        let query = self.query(head.query.unwrap_or_default(), &mut signals)?;
        let received = body.read(self.body.max_bytes, self.body.time).await?;
        let content = match media_type {
            Some(media_type) => self.content(media_type, &received, &mut signals)?,
            None if received.is_empty() => Content::default(),
            None => return Err(EventError::UnsupportedMediaType),
        };
        if self.injection != Mode::Off && !rest.is_empty() {
            injection::scan_text(&rest, "rest", &mut signals);
        }
        if self.injection == Mode::Block && !signals.is_empty() {
            return Err(EventError::Injection { signals });
        }
        Ok(Event {
            method: head.method.clone(),
            rest,
            query,
            headers,
            content_type: content.media_type,
            body: content.bytes,
            bytes_in: received.len() as u64,
            raw: self.gives_raw.then_some(received),
            signals,
        })
    }

    /// The media type by which the body is read; none for a request without a body, where one may be absent.
    fn media_type(&self, head: &EventHead<'_>, body: &UnreadBody) -> Result<Option<&MediaType>, EventError> {
        let may_be_absent = self.media_types.is_empty() || is_bodiless(head.method);
        if may_be_absent && body.is_empty() {
            return Ok(None);
        }
        media::of_request(head.headers, &self.media_types).map(Some)
    }

    fn query(&self, encoded: &str, signals: &mut Vec<Signal>) -> Result<String, EventError> {
        let Some(schema) = &self.query_schema else {
            return match encoded {
                "" => Ok("{}".to_owned()),
                _ => Err(Malformed::new(Part::Query, Reason::Unexpected).into()),
            };
        };
        let parsed = query::object(encoded, Part::Query, schema.plan(), &self.limits)?;
        let value = settle(parsed, schema, &self.limits).map_err(in_query)?;
        if self.injection != Mode::Off
            && let Value::Object(members) = &value
        {
            for (name, member) in members {
                let mut pointer = format!("?{name}");
                injection::scan_text(name, &pointer, signals);
                injection::scan(member, &mut pointer, signals);
            }
        }
        serde_json::to_string(&value).map_err(|source| EventError::Write { source })
    }

    fn content(
        &self,
        media_type: &MediaType,
        received: &Bytes,
        signals: &mut Vec<Signal>,
    ) -> Result<Content, EventError> {
        let name = Some(Arc::clone(&media_type.name));
        let parsed = match media_type.form {
            Form::Bytes => return Ok(Content { media_type: name, bytes: received.clone() }),
            Form::Text => {
                let text = utf8(received)?;
                if let Some(offset) = text::refused_at(text) {
                    return Err(Malformed::new(Part::Body, Reason::Control).offset(offset).into());
                }
                if self.injection != Mode::Off {
                    injection::scan_text(text, "", signals);
                }
                let bytes = match text::nfc(text) {
                    std::borrow::Cow::Borrowed(_) => received.clone(),
                    std::borrow::Cow::Owned(normal) => self.bounded(normal.into_bytes())?,
                };
                return Ok(Content { media_type: name, bytes });
            }
            Form::Json => json::parse(utf8(received)?, &self.limits)?,
            Form::Pairs => {
                let plan = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?.plan();
                query::object(utf8(received)?, Part::Body, plan, &self.limits)?
            }
        };
        let schema = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?;
        let value = settle(parsed, schema, &self.limits)?;
        if self.injection != Mode::Off {
            injection::scan(&value, &mut String::new(), signals);
        }
        let bytes = write(&value, received.len())?;
        let bytes = if schema.plan().sanitizes() { self.bounded(bytes)? } else { bytes.into() };
        let media_type = if media_type.form == Form::Pairs { Some(Arc::from(JSON)) } else { name };
        Ok(Content { media_type, bytes })
    }

    /// The way of a JSON body alone, up to the value that is written for the function: what benches measure.
    pub fn check_json(&self, received: &[u8]) -> Result<Value, EventError> {
        let schema = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?;
        settle(json::parse_bytes(received, &self.limits)?, schema, &self.limits)
    }

    /// Text that grew on its way is bounded as what was received.
    fn bounded(&self, bytes: Vec<u8>) -> Result<Bytes, EventError> {
        match bytes.len() as u64 > self.body.max_bytes {
            true => Err(EventError::TooLarge { limit: self.body.max_bytes }),
            false => Ok(bytes.into()),
        }
    }

    /// Methods that the manifest lists.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Whether path segments may follow the function's name.
    pub fn takes_rest(&self) -> bool {
        self.takes_rest
    }

    /// Media types that the function takes; none if it takes no body.
    pub fn media_types(&self) -> impl Iterator<Item = &str> {
        self.media_types.iter().map(|m| &*m.name)
    }

    /// Largest body, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.body.max_bytes
    }

    /// Schema of the body, as written.
    pub fn schema(&self) -> Option<&Value> {
        self.schema.as_deref().map(Schema::value)
    }

    /// Schema of the body for a document in which it stands at `base`, such as `#/components/schemas/order`.
    pub fn schema_at(&self, base: &str) -> Option<Value> {
        self.schema.as_ref().map(|schema| schema.value_at(base))
    }

    /// Schema of the query, as written.
    pub fn query_schema(&self) -> Option<&Value> {
        self.query_schema.as_deref().map(Schema::value)
    }

    /// Schema of the query for a document in which it stands at `base`.
    pub fn query_schema_at(&self, base: &str) -> Option<Value> {
        self.query_schema.as_ref().map(|schema| schema.value_at(base))
    }

    /// What happens about injection signals.
    pub fn injection(&self) -> Mode {
        self.injection
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

/// A refusal of the query's object, told by parameter.
fn in_query(error: EventError) -> EventError {
    let parameter = |pointer: String| match pointer.strip_prefix('/') {
        Some(name) => format!("?{name}"),
        None => pointer,
    };
    match error {
        EventError::Malformed(fault) => {
            let mut pointer = parameter(fault.pointer);
            shorten(&mut pointer);
            EventError::Malformed(Malformed { part: Part::Query, pointer, ..fault })
        }
        EventError::Invalid { errors } => EventError::Invalid {
            errors: errors.into_iter().map(|v| Violation { pointer: parameter(v.pointer), ..v }).collect(),
        },
        other => other,
    }
}

fn utf8(bytes: &Bytes) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|e| Malformed::new(Part::Body, Reason::Utf8).offset(e.valid_up_to()))
}

/// Methods whose requests usually have no body (RFC 9110 §9.3): without one, the schema has nothing to say.
fn is_bodiless(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::DELETE].contains(method)
}

impl EventRules {
    /// Compiles what a manifest says, and tells every fault and warning of it at once. There are rules if and only if
    /// there is no fault.
    pub fn compile(written: Written<'_>, body: BodyBounds) -> (Option<Self>, Vec<Diagnostic>) {
        Self::compile_among(written, body, &Schemas::default())
    }

    /// As [`Self::compile`], sharing schemas with whatever else is compiled among these.
    pub fn compile_among(
        written: Written<'_>,
        body: BodyBounds,
        schemas: &Schemas,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let mut author = Author { source: written.manifest_source, schemas, diagnostics: Vec::new() };
        let event = &written.manifest.event;
        let methods = methods(&written.manifest.methods);
        let limits = author.limits(event);
        let injection = author.injection(event.injection.as_ref());
        let headers = author.headers(&event.headers);
        let schema = author.schema(event.schema.as_ref(), written.event_schema, limits.depth);
        let query_schema = author.schema(event.query.as_ref(), written.query_schema, limits.depth);
        let media_types = author.media_types(event.media_types.as_ref(), event.schema.is_some());
        if event.raw {
            author.note_raw(event.schema.as_ref());
        }
        let diagnostics = author.diagnostics;
        if diagnostics.iter().any(Diagnostic::is_fault) {
            return (None, diagnostics);
        }
        let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ").into();
        let rules = Self {
            function: written.function.clone(),
            methods,
            allow,
            takes_rest: event.rest,
            gives_raw: event.raw,
            body,
            media_types,
            headers,
            limits,
            injection,
            schema,
            query_schema,
        };
        (Some(rules), diagnostics)
    }
}

/// Methods that a manifest lists. What is none is told by `site`; here it is simply not answered.
fn methods(written: &Spanned<Vec<Spanned<String>>>) -> Vec<Method> {
    let listed = |method: &&Method| written.get_ref().iter().any(|name| name.get_ref() == method.as_str());
    METHODS.iter().filter(listed).cloned().collect()
}

/// Talks to the author of a manifest.
pub(super) struct Author<'a> {
    pub(super) source: &'a Source,
    pub(super) schemas: &'a Schemas,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Author<'_> {
    fn fault<T>(&mut self, place: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.diagnostics.push(Diagnostic::fault(message).at(self.source, place.span()).hint(hint));
    }

    fn warn<T>(&mut self, place: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.diagnostics.push(Diagnostic::warning(message).at(self.source, place.span()).hint(hint));
    }

    fn limits(&mut self, event: &crate::site::manifest::RawEvent) -> JsonLimits {
        let max = JsonLimits::MAX;
        let string = event.max_string.as_ref().map(|s| Spanned::new(s.span(), s.get_ref().0));
        let string_bytes = self.lower("max-string", string.as_ref(), max.string_bytes as u64);
        JsonLimits {
            depth: self.lower("max-depth", event.max_depth.as_ref(), max.depth),
            nodes: self.lower("max-nodes", event.max_nodes.as_ref(), max.nodes),
            string_bytes: usize::try_from(string_bytes).unwrap_or(max.string_bytes),
            items: self.lower_count("max-items", event.max_items.as_ref(), max.items),
            members: self.lower_count("max-members", event.max_members.as_ref(), max.members),
        }
    }

    fn lower_count(&mut self, key: &str, written: Option<&Spanned<u32>>, max: usize) -> usize {
        let bound = self.lower(key, written, u32::try_from(max).unwrap_or(u32::MAX));
        usize::try_from(bound).unwrap_or(max)
    }

    /// A limit may be lowered only.
    fn lower<T: Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        written: Option<&Spanned<T>>,
        max: T,
    ) -> T {
        match written {
            Some(bound) if *bound.get_ref() > max => {
                self.fault(bound, format!("`{key}` is above the platform's limit"), format!("at most {max}"));
                max
            }
            Some(bound) => *bound.get_ref(),
            None => max,
        }
    }

    fn injection(&mut self, written: Option<&Spanned<String>>) -> Mode {
        match written.map(|w| w.get_ref().as_str()) {
            None | Some("detect") => Mode::Detect,
            Some("off") => Mode::Off,
            Some("block") => Mode::Block,
            Some(other) => {
                let message = format!("`injection` cannot be `{other}`");
                if let Some(place) = written {
                    self.fault(place, message, "`off`, `detect` (the default) or `block`");
                }
                Mode::Block
            }
        }
    }

    fn headers(&mut self, written: &[Spanned<String>]) -> HeaderList {
        let mut list = HeaderList::new();
        for name in written {
            if let Err(fault) = list.add(name.get_ref()) {
                let message = fault.to_string().replace("{name}", name.get_ref());
                self.fault(name, message, "list only what the function reads");
            }
        }
        if written.len() > MAX_LISTED_HEADERS
            && let Some(last) = written.last()
        {
            self.fault(
                last,
                format!("more than {MAX_LISTED_HEADERS} headers are listed"),
                "list only what the function reads",
            );
        }
        list
    }

    pub(super) fn schema(
        &mut self,
        named: Option<&Spanned<String>>,
        source: Option<&Source>,
        depth: u32,
    ) -> Option<Arc<Schema>> {
        let named = named?;
        match source {
            Some(source) => self.schemas.compile(source, depth, &mut self.diagnostics),
            None => {
                self.fault(
                    named,
                    format!("`{}` could not be read", named.get_ref()),
                    "put the schema beside the manifest",
                );
                None
            }
        }
    }

    fn media_types(
        &mut self,
        written: Option<&Spanned<Vec<Spanned<String>>>>,
        has_schema: bool,
    ) -> Vec<MediaType> {
        let Some(written) = written else {
            return if has_schema { vec![MediaType::json()] } else { Vec::new() };
        };
        let mut types: Vec<MediaType> = Vec::new();
        for name in written.get_ref() {
            match MediaType::listed(name.get_ref()) {
                None => self.fault(
                    name,
                    format!("`{}` is no media type that a function can take", name.get_ref()),
                    "write one type in lower case, without wildcard or parameters; no `multipart`",
                ),
                Some(media_type) if types.contains(&media_type) => {
                    self.fault(name, format!("`{}` is listed twice", name.get_ref()), "remove one");
                }
                Some(media_type) => {
                    if matches!(media_type.form, Form::Json | Form::Pairs) && !has_schema {
                        self.fault(
                            name,
                            format!("`{}` needs a schema", name.get_ref()),
                            "name one as `[event] schema`: what nobody described cannot be validated",
                        );
                    }
                    types.push(media_type);
                }
            }
        }
        if has_schema && !types.iter().any(|t| matches!(t.form, Form::Json | Form::Pairs)) {
            self.warn(written, "the schema is never used", "list `application/json`, or remove `schema`");
        }
        types
    }

    fn note_raw(&mut self, schema: Option<&Spanned<String>>) {
        let message = "the function gets the exact bytes besides the validated event";
        let hint = "only for checking a signature over them: a second parser may read them differently";
        match schema {
            Some(place) => self.warn(place, message, hint),
            None => self.diagnostics.push(Diagnostic::warning(message).in_file(self.source).hint(hint)),
        }
    }
}

/// Methods that a function can have (C9: never CONNECT or TRACE; OPTIONS is of CORS, which is off).
const METHODS: &[Method] =
    &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

const JSON: &str = "application/json";

const MAX_LISTED_HEADERS: usize = 32;
