//! What one function takes, compiled from its manifest and schemas; and the way of an event through it. What is in a
//! body is read in [`super::content`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use serde_json::Value;
use toml::Spanned;

use super::{
    author::Author,
    cloudevents::{self, ContentMode, Envelope, Structured},
    content::{Content, settle, utf8},
    error::{EventError, Malformed, Part, Reason, Violation, shorten},
    headers::HeaderList,
    injection::{self, Mode, Signal},
    json::{self, JsonLimits},
    media::{self, MediaType},
    place::Place,
    query,
    read::UnreadBody,
    schema::Schema,
    schemas::Schemas,
};
use crate::{
    authn::{Caller, Received},
    authz::{Authorized, AuthorizedParts, Decision},
    id::{FunctionId, RequestId},
    site::{
        diagnostic::{Diagnostic, Source},
        manifest::RawManifest,
        origin::Origin,
    },
};

/// Bounds of a body, as they are in force for one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyBounds {
    /// Largest body of a request, in bytes: the smallest of platform, tenant and manifest.
    pub max_bytes: u64,
    /// Time for a body to arrive.
    pub time: Duration,
    /// Bytes a second at which it must arrive after a grace, so that a place is not held by trickling.
    pub min_rate: u64,
}

impl Default for BodyBounds {
    /// As long as the longest string of an event; 10 s let a phone on a poor line send that much.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024, time: Duration::from_secs(10), min_rate: 1024 }
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
    pub(super) body: BodyBounds,
    pub(super) media_types: Vec<MediaType>,
    takes_cloudevents: bool,
    headers: HeaderList,
    pub(super) limits: JsonLimits,
    pub(super) injection: Mode,
    pub(super) schema: Option<Arc<Schema>>,
    query_schema: Option<Arc<Schema>>,
    origin: Option<Arc<Origin>>,
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
    place: Place,
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

    /// Where the request was made.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The function's input.
    pub fn event(&self) -> &Event {
        &self.event
    }
}

/// What the head alone says of an event, validated; what the body is read by.
#[derive(Debug)]
pub(super) struct Begun<'r> {
    method: Method,
    /// None for a request without a body where one may be absent, and in structured mode, where the body says it.
    media_type: Option<&'r MediaType>,
    /// Attributes that came in headers, of a CloudEvent in structured mode.
    structured: Option<cloudevents::Attributes>,
    rest: String,
    query: String,
    headers: Vec<(HeaderName, String)>,
    signals: Vec<Signal>,
}

impl EventRules {
    /// The same rules where callers find the gateway at `origin`.
    #[must_use]
    pub fn at(self, origin: Option<Arc<Origin>>) -> Self {
        Self { origin, ..self }
    }

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
        let place = Place::new(head.host, self.origin.clone());
        Ok(Validated {
            request_id,
            function: FunctionId { tenant, function },
            caller,
            decision,
            place,
            event,
        })
    }

    /// Reads and validates the input of one request, in the order of design.md §7.
    ///
    /// For this stage alone: an event without evidence is none (INVARIANT Evidence).
    pub(super) async fn read_event(
        &self,
        head: EventHead<'_>,
        body: UnreadBody,
    ) -> Result<Event, EventError> {
        let begun = self.begin(head, body.declared_bytes(), body.is_empty())?;
        self.finish(begun, body.read(self.body).await?)
    }

    /// All that can be said before the body is read.
    pub(super) fn begin(
        &self,
        head: EventHead<'_>,
        declared_bytes: Option<u64>,
        is_empty: bool,
    ) -> Result<Begun<'_>, EventError> {
        if !self.methods.contains(head.method) {
            return Err(EventError::MethodNotAllowed { allow: Arc::clone(&self.allow) });
        }
        if head.rest.is_some() && !self.takes_rest {
            return Err(EventError::NoRest);
        }
        if declared_bytes.is_some_and(|declared| declared > self.body.max_bytes) {
            return Err(EventError::TooLarge { limit: self.body.max_bytes });
        }
        let mode = self.takes_cloudevents.then(|| ContentMode::of(head.headers)).transpose()?;
        let media_type = match mode {
            Some(ContentMode::Structured) => None,
            Some(ContentMode::Binary) | None => self.media_type(&head, is_empty)?,
        };
        if head.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(EventError::UnsupportedEncoding);
        }
        let rest = head.rest.map(|rest| query::rest(rest, &self.limits)).transpose()?.unwrap_or_default();
        let mut headers = self.headers.pick(head.headers)?;
        let mut structured = None;
        match mode {
            Some(ContentMode::Structured) => {
                structured = Some(cloudevents::header_attributes(head.headers)?);
            }
            Some(ContentMode::Binary) => headers.extend(Envelope::of_headers(head.headers)?.into_headers()),
            None => {}
        }
        let mut signals = Vec::new();
        let query = self.query(head.query.unwrap_or_default(), &mut signals)?;
        Ok(Begun { method: head.method.clone(), media_type, structured, rest, query, headers, signals })
    }

    /// The event whose body this is.
    pub(super) fn finish(&self, begun: Begun<'_>, received: Bytes) -> Result<Event, EventError> {
        let Begun { method, media_type, structured, rest, query, mut headers, mut signals } = begun;
        let content = match (structured, media_type) {
            (Some(repeated), _) => {
                let Structured { envelope, content_type, data } =
                    Structured::read(utf8(&received)?, &self.limits, &repeated)?;
                headers.extend(envelope.into_headers());
                self.data(&method, content_type.as_deref(), data, &mut signals)?
            }
            (None, Some(media_type)) => self.content(media_type, &received, &mut signals)?,
            (None, None) if received.is_empty() => Content::default(),
            (None, None) => return Err(EventError::UnsupportedMediaType),
        };
        if self.injection != Mode::Off && !rest.is_empty() {
            injection::scan_text(&rest, "rest", &mut signals);
        }
        if self.injection == Mode::Block && !signals.is_empty() {
            return Err(EventError::Injection { signals });
        }
        Ok(Event {
            method,
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
    fn media_type(&self, head: &EventHead<'_>, is_empty: bool) -> Result<Option<&MediaType>, EventError> {
        if is_empty && self.may_be_absent(head.method) {
            return Ok(None);
        }
        media::of_request(head.headers, &self.media_types).map(Some)
    }

    /// Whether a request may come without a body, or a CloudEvent without data.
    pub(super) fn may_be_absent(&self, method: &Method) -> bool {
        self.media_types.is_empty() || is_bodiless(method)
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

    /// The way of a JSON body alone, up to the value that is written for the function: what benches measure.
    pub fn check_json(&self, received: &[u8]) -> Result<Value, EventError> {
        let schema = self.schema.as_ref().ok_or(EventError::UnsupportedMediaType)?;
        settle(json::parse_bytes(received, &self.limits)?, schema, &self.limits)
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

    /// Whether it takes CloudEvents, and nothing else; the media types are then those of their data.
    pub fn takes_cloudevents(&self) -> bool {
        self.takes_cloudevents
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
        let takes_cloudevents = author.envelope(event);
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
            takes_cloudevents,
            headers,
            limits,
            injection,
            schema,
            query_schema,
            origin: None,
        };
        (Some(rules), diagnostics)
    }
}

/// Methods that a manifest lists. What is none is told by `site`; here it is simply not answered.
fn methods(written: &Spanned<Vec<Spanned<String>>>) -> Vec<Method> {
    let listed = |method: &&Method| written.get_ref().iter().any(|name| name.get_ref() == method.as_str());
    METHODS.iter().filter(listed).cloned().collect()
}

/// Methods that a function can have (C9: never CONNECT or TRACE; OPTIONS is of CORS, which is off).
const METHODS: &[Method] =
    &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
