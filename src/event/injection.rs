//! Injection signals: strings that look like SQL or script (libinjection's method, by a port of it).
//!
//! A signal is a hint, not a verdict: it is recorded and given to the function, which knows whether its strings go into
//! SQL or HTML at all. A tenant may choose `block`, and then prose that quotes SQL is refused now and then. What share
//! of attacks and of harmless texts is told is measured by [`corpus::measure`](super::corpus::measure).

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::error::push_segment;

/// What a function's manifest wants done about signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Not looked for.
    Off,
    /// Recorded and given to the function.
    #[default]
    Detect,
    /// The event is refused.
    Block,
}

/// What a string looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// SQL that closes or extends a query.
    Sql,
    /// HTML or a URL that runs script.
    Script,
}

impl SignalKind {
    /// Its name in records and in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Script => "script",
        }
    }
}

/// One string of an event that looks like an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// JSON pointer into the body, `?name` for a parameter of the query, `rest` for the path.
    pub pointer: String,
    /// What it looks like.
    pub kind: SignalKind,
}

/// Most signals of one event: more say nothing new.
const MAX_SIGNALS: usize = 32;

/// Signals of every string and name of a value, under pointers that begin with `pointer`.
pub(crate) fn scan(value: &Value, pointer: &mut String, signals: &mut Vec<Signal>) {
    let length = pointer.len();
    match value {
        Value::String(text) => scan_text(text, pointer, signals),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if !matches!(item, Value::Number(_) | Value::Bool(_) | Value::Null) {
                    push_segment(pointer, &index.to_string());
                    scan(item, pointer, signals);
                    pointer.truncate(length);
                }
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                push_segment(pointer, name);
                scan_text(name, pointer, signals);
                scan(member, pointer, signals);
                pointer.truncate(length);
            }
        }
        _ => {}
    }
}

/// Signals of one text.
pub(crate) fn scan_text(text: &str, pointer: &str, signals: &mut Vec<Signal>) {
    if signals.len() >= MAX_SIGNALS {
        return;
    }
    for kind in kinds(text) {
        let mut pointer = pointer.to_owned();
        super::error::shorten(&mut pointer);
        signals.push(Signal { pointer, kind });
    }
}

/// What a text looks like.
pub(crate) fn kinds(text: &str) -> impl Iterator<Item = SignalKind> {
    let found = if is_plain(text) { (false, false) } else { (looks_like_sql(text), looks_like_script(text)) };
    let sql = found.0.then_some(SignalKind::Sql);
    sql.into_iter().chain(found.1.then_some(SignalKind::Script))
}

/// Whether a text is one word or number, which is no attack by itself: most strings of most events.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn looks_like_sql(text: &str) -> bool {
    unwinding(|| libinjectionrs::detect_sqli(text.as_bytes()).is_injection())
}

fn looks_like_script(text: &str) -> bool {
    unwinding(|| libinjectionrs::detect_xss(text.as_bytes()).is_injection())
}

/// The detector indexes into its input; should it ever panic, the text is one that it cannot read, and is told.
fn unwinding(detect: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(detect)).unwrap_or(true)
}
