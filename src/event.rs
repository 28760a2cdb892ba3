//! The event: a function's input, sanitized and validated, read only once its caller may invoke the function.
//!
//! Order (design.md §7): method → path → declared length → media type → content coding → query and headers → bounded
//! read → UTF-8 → strict JSON, normal form C and text rules in one pass → wide integers → `x-sanitize` → bounds again →
//! JSON Schema → injection signals. Every step works on the value that the function will get, and the function gets
//! that value written anew.
//!
//! Invariants: **Evidence** ([`Event`] is made here alone), **Unread** ([`UnreadBody`] is opened here alone),
//! **Closed** (no schema, no body; no query schema, no query), **Bounded** ([`JsonLimits`], [`BodyBounds`]), **Once** (an
//! event's text is parsed here and not again).

mod author;
mod caching;
mod cloudevents;
mod content;
pub mod corpus;
mod error;
pub mod fuzz;
mod graph;
mod headers;
pub mod html;
mod injection;
pub mod json;
mod locate;
mod media;
mod number;
mod place;
mod plan;
mod query;
mod read;
mod reply;
mod rules;
mod sanitize;
mod schema;
mod schemas;
pub mod text;

#[cfg(test)]
mod tests;

pub use error::{EventError, Malformed, Part, Reason, Violation};
pub use injection::{Mode as InjectionMode, Signal, SignalKind};
pub use json::JsonLimits;
pub use place::Place;
pub use read::UnreadBody;
pub use reply::{CheckedReply, RawReply, ReplyError, ReplyRules};
pub use rules::{BodyBounds, Event, EventRules, Validated, Written};
pub use schema::property_at;
pub use schemas::Schemas;
