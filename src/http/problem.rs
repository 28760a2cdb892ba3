//! Every refusal as a caller sees it: `application/problem+json` (RFC 9457) with a status and a public code.
//!
//! The caller learns the code and nothing else; the operator learns everything from the request id.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::{headers::DPOP_NONCE, route::RouteError};
use crate::{
    authn::{AuthnError, ProofError},
    authz::AuthzError,
    event::{EventError, Violation},
    id::RequestId,
    pipeline::Refusal,
    sandbox::SandboxError,
};

/// The public codes: a closed list, the same in README, `openapi` and the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// No credential, or none that is valid here.
    Unauthenticated,
    /// Keys could not be had, the tenant's part is faulty, or the call could not be recorded.
    Unavailable,
    /// No such function.
    NotFound,
    /// Policy says no.
    Forbidden,
    /// The manifest does not list the method.
    MethodNotAllowed,
    /// The body, or a bound within it.
    TooLarge,
    /// Media type or encoding.
    UnsupportedMediaType,
    /// Not strict JSON, query or path.
    Malformed,
    /// Breaks the schema.
    InvalidEvent,
    /// The connection was opened for another host than the request is for.
    Misdirected,
    /// The request came too slowly.
    Timeout,
    /// No room.
    Overloaded,
    /// The function trapped or broke its contract.
    FunctionFailed,
    /// The function ran out of CPU or wall time.
    FunctionTimeout,
    /// Our bug.
    Internal,
}

impl Code {
    /// Every code, in the order of README's table.
    pub const ALL: [Self; 15] = [
        Self::Unauthenticated,
        Self::Unavailable,
        Self::NotFound,
        Self::Forbidden,
        Self::MethodNotAllowed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Malformed,
        Self::InvalidEvent,
        Self::Misdirected,
        Self::Timeout,
        Self::Overloaded,
        Self::FunctionFailed,
        Self::FunctionTimeout,
        Self::Internal,
    ];

    /// The code as it stands in the reply, the record and the metric.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// HTTP status.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// One line for people.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Unauthenticated => {
                (S::UNAUTHORIZED, "unauthenticated", "No valid credential for this tenant")
            }
            Self::Unavailable => (S::SERVICE_UNAVAILABLE, "unavailable", "Not available at the moment"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "No such function"),
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "Not allowed"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "The function does not answer this method")
            }
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large", "The request is too large"),
            Self::UnsupportedMediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The function does not take this media type or encoding",
            ),
            Self::Malformed => (S::BAD_REQUEST, "malformed", "The request is not well-formed"),
            Self::InvalidEvent => {
                (S::UNPROCESSABLE_ENTITY, "invalid_event", "The event does not fit the function's schema")
            }
            Self::Misdirected => {
                (S::MISDIRECTED_REQUEST, "misdirected", "This connection was opened for another host")
            }
            Self::Timeout => (S::REQUEST_TIMEOUT, "timeout", "The request came too slowly"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "No room at the moment"),
            Self::FunctionFailed => (S::BAD_GATEWAY, "function_failed", "The function failed"),
            Self::FunctionTimeout => (S::GATEWAY_TIMEOUT, "function_timeout", "The function ran out of time"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "An error of the gateway"),
        }
    }
}

/// A refusal in the caller's terms.
#[derive(Debug)]
pub struct Problem {
    /// The public code.
    pub code: Code,
    /// What the schema said, by place; at most 20, never a value.
    pub errors: Vec<Violation>,
    /// Methods for `Allow`.
    pub allow: Option<String>,
    /// Whether a credential came with the request (RFC 6750 §3: only then is there an `error`).
    pub offered: bool,
    /// The nonce that a proof must have: the one thing that a refused caller is told besides (RFC 9449 §9). Only the owner of
    /// a valid token hears it.
    pub nonce: Option<String>,
}

/// Seconds that `Retry-After` asks for: long enough that retries do not feed an overload, short enough to be followed.
const RETRY_AFTER: &str = "2";

/// The body, in the members' order of RFC 9457 §3.1.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    instance: String,
    code: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

impl Problem {
    /// A problem that has nothing to add to its code.
    pub fn plain(code: Code) -> Self {
        Self { code, errors: Vec::new(), allow: None, offered: false, nonce: None }
    }

    /// The reply.
    pub fn response(&self, request_id: RequestId) -> Response<Full<Bytes>> {
        let body = Body {
            r#type: format!("urn:sandgate:error:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            instance: request_id.to_string(),
            code: self.code.as_str(),
            errors: &self.errors,
        };
        // Strings and numbers only: serialising them cannot fail.
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(json)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthenticated {
            let challenge = match (&self.nonce, self.offered) {
                (Some(_), _) => r#"DPoP error="use_dpop_nonce""#,
                (None, true) => r#"Bearer realm="sandgate", error="invalid_token""#,
                (None, false) => r#"Bearer realm="sandgate""#,
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(nonce) = self.nonce.as_deref().and_then(|nonce| HeaderValue::from_str(nonce).ok()) {
            headers.insert(DPOP_NONCE, nonce);
        }
        if matches!(self.code, Code::Unavailable | Code::Overloaded) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|a| HeaderValue::from_str(a).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<RouteError> for Code {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::TooLong | RouteError::NotAPath | RouteError::Hostile => Self::Malformed,
            RouteError::NamesNothing => Self::NotFound,
        }
    }
}

/// The whole table: a new reason to refuse asks to be thought about here.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::UnknownTenant(_) => Self::plain(Code::Unauthenticated),
            Refusal::FaultyTenant(_) | Refusal::Audit(_) => Self::plain(Code::Unavailable),
            Refusal::UnknownFunction(_) => Self::plain(Code::NotFound),
            // As if policy said so: what is blocked, and why, is the operator's.
            Refusal::Blocked { .. } => Self::plain(Code::Forbidden),
            Refusal::Authn(AuthnError::Proof(ProofError::Nonce { fresh })) => {
                Self { nonce: Some(fresh.clone()), ..Self::plain(Code::Unauthenticated) }
            }
            Refusal::Authn(error) => Self::plain(authn(error)),
            Refusal::Authz(error) => Self::plain(authz(error)),
            Refusal::Event(error) => event(error),
            Refusal::Sandbox(error) => Self::plain(sandbox(error)),
            Refusal::Panicked => Self::plain(Code::Internal),
        }
    }
}

fn authn(error: &AuthnError) -> Code {
    use AuthnError as E;
    match error {
        E::KeysUnavailable { .. } => Code::Unavailable,
        E::Misrouted { .. } => Code::Internal,
        E::MissingToken
        | E::SeveralHeaders
        | E::NotBearer
        | E::TooLong
        | E::NotThreeSegments
        | E::NotBase64 { .. }
        | E::MalformedHeader { .. }
        | E::Critical
        | E::Encrypted
        | E::KeyIdTooLong
        | E::TokenType { .. }
        | E::UnknownIssuer { .. }
        | E::UnknownKey { .. }
        | E::AmbiguousKey { .. }
        | E::Algorithm { .. }
        | E::Signature { .. }
        | E::MalformedClaims { .. }
        | E::Claim { .. }
        | E::Expired
        | E::NotYetValid
        | E::Audience
        | E::IssuedInFuture
        | E::LivesTooLong { .. }
        | E::Subject
        | E::TenantClaim { .. }
        | E::Attributes { .. }
        | E::Revoked { .. }
        | E::NotBound { .. }
        | E::BoundUnasked { .. }
        | E::BoundAsBearer
        | E::UnboundAsDpop
        | E::Certificate { .. } => Code::Unauthenticated,
        E::Proof(error) => proof(error),
    }
}

fn proof(error: &ProofError) -> Code {
    use ProofError as E;
    match error {
        E::Full => Code::Overloaded,
        E::NoOrigin => Code::Internal,
        E::Missing
        | E::Several
        | E::TooLong
        | E::Malformed(_)
        | E::Type
        | E::Algorithm
        | E::PrivateKey
        | E::Key { .. }
        | E::OtherKey
        | E::Signature
        | E::MalformedClaims { .. }
        | E::Claim { .. }
        | E::Method
        | E::Url
        | E::Token
        | E::Time { .. }
        | E::Nonce { .. }
        | E::Used => Code::Unauthenticated,
    }
}

fn authz(error: &AuthzError) -> Code {
    match error {
        // An error while deciding is a deny, and looks like any other.
        AuthzError::Forbidden { .. }
        | AuthzError::Evaluation { .. }
        | AuthzError::Request(_)
        | AuthzError::Caller(_)
        | AuthzError::Slice { .. } => Code::Forbidden,
        AuthzError::TenantMismatch { .. } => Code::Internal,
    }
}

fn event(error: &EventError) -> Problem {
    use EventError as E;
    match error {
        E::MethodNotAllowed { allow } => {
            Problem { allow: Some(allow.to_string()), ..Problem::plain(Code::MethodNotAllowed) }
        }
        E::NoRest => Problem::plain(Code::NotFound),
        E::TooLarge { .. } => Problem::plain(Code::TooLarge),
        E::UnsupportedMediaType | E::UnsupportedEncoding => Problem::plain(Code::UnsupportedMediaType),
        // Of a client that is gone the record says so; this is for whoever may be there all the same.
        E::Malformed(_) | E::BodyLost { .. } | E::ClientGone { .. } => Problem::plain(Code::Malformed),
        E::Invalid { errors } => Problem { errors: errors.clone(), ..Problem::plain(Code::InvalidEvent) },
        // Where the strings are would teach an attacker what passes.
        E::Injection { .. } => Problem::plain(Code::InvalidEvent),
        E::Timeout { .. } => Problem::plain(Code::Timeout),
        E::Mismatch | E::Write { .. } => Problem::plain(Code::Internal),
    }
}

fn sandbox(error: &SandboxError) -> Code {
    use SandboxError as E;
    match error {
        E::Trapped { .. }
        | E::OutOfMemory(_)
        | E::ResponseTooLarge(_)
        | E::ContractBroken(_)
        | E::ReplyRefused(_)
        | E::WorkerDied(_)
        | E::Admission(_) => Code::FunctionFailed,
        E::CpuExhausted(_) | E::WallExhausted(_) => Code::FunctionTimeout,
        E::Overloaded(_) => Code::Overloaded,
        E::Internal { .. } => Code::Internal,
    }
}
