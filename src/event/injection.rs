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

/// What a text looks like, as it is and as a consumer would read it that decodes a URL once more.
pub(crate) fn kinds(text: &str) -> impl Iterator<Item = SignalKind> {
    let (mut sql, mut script) = (false, false);
    if !is_plain(text) {
        sql = looks_like_sql(text);
        script = looks_like_script(text);
        if !(sql && script)
            && let Some(decoded) = decoded_again(text)
        {
            sql = sql || looks_like_sql(&decoded);
            script = script || looks_like_script(&decoded);
        }
    }
    sql.then_some(SignalKind::Sql).into_iter().chain(script.then_some(SignalKind::Script))
}

/// Whether a text is one word or number: no attack by itself, and most strings of most events.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn looks_like_sql(text: &str) -> bool {
    let detect = |text: &str| unwinding(|| libinjectionrs::detect_sqli(text.as_bytes()).is_injection());
    let found = |text: &str| detect(text) && !is_formula(text);
    found(text) && without_quotation(text).is_none_or(|unquoted| found(&unquoted))
}

fn looks_like_script(text: &str) -> bool {
    // The detector needs a tag, or an attribute with its value.
    text.contains(['<', '=']) && unwinding(|| libinjectionrs::detect_xss(text.as_bytes()).is_injection())
}

/// The detector indexes into its input; should it ever panic, the text is one that it cannot read, and is told.
fn unwinding(detect: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(detect)).unwrap_or(true)
}

/// The text with its percent-encoding decoded, `+` a space; none without any.
fn decoded_again(text: &str) -> Option<String> {
    let mut encoded = text.match_indices('%').filter_map(|(at, _)| text.as_bytes().get(at + 1..at + 3));
    encoded.find(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    let spaced = text.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Whether what the detector found is a formula, as in `y = sin(x) / x` or `5 or 6`: no quote, comment or word of a query,
/// and no condition (a logical operator together with a comparison).
fn is_formula(text: &str) -> bool {
    if text.contains(['\'', '"', '`', '\\', '#', '@']) || text.contains("--") || text.contains("/*") {
        return false;
    }
    let is_in = |list: &[&str], word: &str| list.iter().any(|w| w.eq_ignore_ascii_case(word));
    let words = || text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    if words().any(|word| is_in(QUERY_WORDS, word)) {
        return false;
    }
    let logical = text.contains("&&") || text.contains("||") || words().any(|word| is_in(LOGICAL, word));
    let compares = text.contains(['=', '<', '>']) || words().any(|word| is_in(COMPARING, word));
    !(logical && compares)
}

/// The text without its quotation marks, if it quotes as prose does: two or more pieces, each opened after a space and
/// before a word, each closed after a word and before a space or punctuation (`I like 'Hamlet' and 'Macbeth'.`). An
/// attack opens and closes the quotes of the query around it, so that its own stand otherwise.
fn without_quotation(text: &str) -> Option<String> {
    if !text.contains(['\'', '"']) || text.contains("--") || text.contains("/*") {
        return None;
    }
    let mut unquoted = String::with_capacity(text.len());
    let mut open = None;
    let mut pieces = 0;
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let after = chars.peek().copied().unwrap_or(' ');
        let apostrophe = c == '\'' && before.is_alphanumeric() && after.is_alphabetic();
        match (c, open) {
            ('\'', _) if apostrophe => unquoted.push('_'),
            ('\'' | '"', None) => {
                let opens =
                    (before.is_whitespace() || matches!(before, '(' | '[')) && after.is_alphanumeric();
                open = opens.then_some(c);
                open?;
                pieces += 1;
            }
            ('\'' | '"', Some(quote)) if quote == c => {
                let ends =
                    after.is_whitespace() || matches!(after, '.' | ',' | ';' | ':' | '!' | '?' | ')' | ']');
                if before.is_whitespace() || !ends {
                    return None;
                }
                open = None;
            }
            ('\'' | '"', Some(_)) => unquoted.push(' '),
            _ => unquoted.push(c),
        }
        before = c;
    }
    (open.is_none() && pieces >= 2).then_some(unquoted)
}

const LOGICAL: &[&str] = &["and", "or", "xor"];

const COMPARING: &[&str] = &["like", "rlike", "regexp", "between", "sounds", "in", "is"];

/// Words of statements, and functions that attacks call: with any of them a text is no formula.
const QUERY_WORDS: &[&str] = &[
    "alter",
    "ascii",
    "begin",
    "benchmark",
    "binary",
    "case",
    "cast",
    "char",
    "chr",
    "collate",
    "compress",
    "concat",
    "conv",
    "convert",
    "create",
    "database",
    "declare",
    "delete",
    "drop",
    "exec",
    "execute",
    "extractvalue",
    "from",
    "group",
    "handler",
    "having",
    "hex",
    "insert",
    "into",
    "length",
    "limit",
    "load_file",
    "lower",
    "lpad",
    "md5",
    "mid",
    "ord",
    "order",
    "pg_sleep",
    "procedure",
    "rpad",
    "schema",
    "select",
    "set",
    "sha1",
    "shutdown",
    "sleep",
    "substr",
    "substring",
    "truncate",
    "uncompress",
    "unhex",
    "union",
    "update",
    "updatexml",
    "upper",
    "user",
    "version",
    "waitfor",
    "when",
    "where",
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kinds_of(text: &str) -> Vec<SignalKind> {
        kinds(text).collect()
    }

    #[test]
    fn d12_attacks_are_told_by_kind() {
        for text in
            ["1' OR '1'='1", "1 UNION SELECT password FROM users--", "x%27%20or%201%3D1--", "1 or 1 = 1"]
        {
            assert_eq!(kinds_of(text), [SignalKind::Sql], "{text}");
        }
        for text in
            ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "%3Csvg%20onload%3Dalert(1)%3E"]
        {
            assert!(kinds_of(text).contains(&SignalKind::Script), "{text}");
        }
    }

    #[test]
    fn d12_names_formulas_and_quotations_are_not_told() {
        for text in
            ["O'Brien", "y = sin(x) / x", "5 or 6", "I like 'Hamlet' and 'Macbeth'.", "a < b", "50% off"]
        {
            assert_eq!(kinds_of(text), [], "{text}");
        }
    }

    #[test]
    fn d12_signals_tell_the_place_and_are_bounded() {
        let mut signals = Vec::new();
        scan(&json!({"a": [{"b/c": "1' OR '1'='1"}, "ok"], "<script>": 1}), &mut String::new(), &mut signals);
        let told: Vec<(&str, SignalKind)> = signals.iter().map(|s| (s.pointer.as_str(), s.kind)).collect();
        assert_eq!(told, [("/a/0/b~1c", SignalKind::Sql), ("/<script>", SignalKind::Script)]);
        let mut many = Vec::new();
        scan(&json!(vec!["1' OR '1'='1"; 100]), &mut String::new(), &mut many);
        assert_eq!(many.len(), MAX_SIGNALS);
    }
}
