//! TOML into structs, with every fault at its place.
//!
//! `serde` stops at the first fault, and an author wants them all. So after a failure the offending key is taken out
//! of the parsed document and the rest is tried again, `MAX_FAULTS` times at most.

use std::{fmt::Write as _, ops::Range};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer};
use validator::{Validate, ValidationErrors, ValidationErrorsKind};

use super::diagnostic::{Diagnostic, Source};

/// Reads a file into `T`, or tells every fault in it: the error is never empty.
pub fn parse_toml<T: DeserializeOwned>(source: &Source) -> Result<T, Vec<Diagnostic>> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        return Err(errors.iter().take(MAX_SYNTAX_FAULTS).map(|error| syntax(source, error)).collect());
    }
    // The common case pays for no copy: the document is parsed again only for a file with faults.
    T::deserialize(Deserializer::from(document)).map_err(|error| faults::<T>(source, error))
}

/// Reads a file into `T` and holds its values against the ranges of `T`.
pub fn parse_validated<T: DeserializeOwned + Validate>(source: &Source) -> Result<T, Vec<Diagnostic>> {
    let value = parse_toml::<T>(source)?;
    let Err(errors) = value.validate() else { return Ok(value) };
    let (document, _) = DeTable::parse_recoverable(&source.text);
    let mut faults = Vec::new();
    out_of_range(source, Some(document.get_ref()), &mut String::new(), &errors, &mut faults);
    faults.sort_by_key(|fault| fault.line());
    Err(faults)
}

/// Name of the known word that is nearest to a misspelt one, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long words are no misspellings of our short ones, and the distance takes time in the product of lengths.
    if word.len() > MAX_MISSPELT_BYTES {
        return None;
    }
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let best = known.into_iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= 1 + best.chars().count().min(word.chars().count()) / 4).then_some(best)
}

fn syntax(source: &Source, error: &toml::de::Error) -> Diagnostic {
    place(Diagnostic::fault(error.message()), source, error.span())
        .hint("the language is TOML: https://toml.io")
}

/// All that is wrong with a document of sound syntax whose first fault is `error`.
fn faults<T: DeserializeOwned>(source: &Source, mut error: toml::de::Error) -> Vec<Diagnostic> {
    let (mut document, _) = DeTable::parse_recoverable(&source.text);
    let mut faults: Vec<Diagnostic> = Vec::new();
    // Keys that are present, if in vain: telling that they are missing would be telling twice.
    let mut present: Vec<String> = Vec::new();
    loop {
        let fault = Fault::of(&error, source, document.get_ref());
        let told = fault.missing.as_ref().is_some_and(|name| present.contains(name));
        if !told {
            faults.push(fault.diagnostic);
        }
        let Some((key, name)) = fault.key.filter(|_| !told && faults.len() < MAX_FAULTS) else { break };
        present.extend(fault.meant);
        present.push(name);
        if !cut(document.get_mut(), &key) {
            break;
        }
        match T::deserialize(Deserializer::from(document.clone())) {
            Ok(_) => break,
            Err(next) => error = next,
        }
    }
    faults.sort_by_key(|fault| fault.line());
    faults
}

/// One failure of `serde`, in words for the author.
struct Fault {
    diagnostic: Diagnostic,
    /// The key to take out before trying again: its span and name.
    key: Option<(Range<usize>, String)>,
    /// The key that was probably meant by a misspelt one.
    meant: Option<String>,
    /// The key that is said to be missing.
    missing: Option<String>,
}

impl Fault {
    fn of(error: &toml::de::Error, source: &Source, document: &DeTable<'_>) -> Self {
        let message = error.message();
        let key = error.span().and_then(|span| key_at(document, &span));
        let mut fault =
            Self { diagnostic: Diagnostic::fault(""), key: key.clone(), meant: None, missing: None };
        if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            fault.missing = Some(name.to_owned());
            fault.key = None;
            let span = error.span().filter(|span| span.start > 0);
            fault.diagnostic = place(Diagnostic::fault(format!("`{name}` is missing")), source, span);
        } else if let Some((name, known)) = unknown(message, "unknown field `") {
            let name = key.map_or(name, |(_, name)| name);
            let nearest = nearest(&name, known.iter().copied());
            fault.meant = nearest.map(str::to_owned);
            let hint = match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None if known.is_empty() => "no key is known here".to_owned(),
                None => format!("known here: {}", list(&known)),
            };
            fault.diagnostic =
                place(Diagnostic::fault(format!("unknown key `{name}`")), source, error.span()).hint(hint);
        } else if let Some((value, known)) = unknown(message, "unknown variant `") {
            let key = key.map_or_else(|| "value".to_owned(), |(_, name)| name);
            let message = format!("`{key}` cannot be `{value}`");
            fault.diagnostic = place(Diagnostic::fault(message), source, error.span())
                .hint(format!("one of: {}", list(&known)));
        } else {
            let message = match key {
                Some((_, name)) => format!("`{name}`: {message}"),
                None => message.to_owned(),
            };
            fault.diagnostic = place(Diagnostic::fault(message), source, error.span());
        }
        fault
    }
}

/// The word and the known ones of ``unknown field `a`, expected one of `b`, `c` ``, as serde writes it.
fn unknown<'m>(message: &'m str, prefix: &str) -> Option<(String, Vec<&'m str>)> {
    // The author's word may hold anything; the list, at the end, only names from our structs.
    let (word, known) = match message.strip_prefix(prefix)?.rsplit_once("`, expected ") {
        Some((word, known)) => (word, known.split('`').skip(1).step_by(2).collect()),
        None => (message.strip_prefix(prefix)?.split('`').next()?, Vec::new()),
    };
    Some((word.to_owned(), known))
}

fn list(words: &[&str]) -> String {
    let mut list = String::new();
    for word in words {
        let comma = if list.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(list, "{comma}`{word}`");
    }
    list
}

/// At a span, but of several lines only the first: a fault of a table is best shown at its head.
fn place(diagnostic: Diagnostic, source: &Source, span: Option<Range<usize>>) -> Diagnostic {
    let Some(span) = span else { return diagnostic.in_file(source) };
    let text = source.text.get(span.clone()).unwrap_or_default();
    let first = text.find('\n').unwrap_or(text.len());
    diagnostic.at(source, span.start..span.start + first)
}

/// The innermost key whose name or value covers a span. The parser bounds the depth.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<(Range<usize>, String)> {
    let covers = |outer: &Range<usize>| outer.start <= span.start && span.end <= outer.end;
    table.iter().find_map(|(key, value)| {
        let inner = tables_of(value.get_ref()).find_map(|table| key_at(table, span));
        inner.or_else(|| {
            (covers(&key.span()) || covers(&value.span())).then(|| (key.span(), key.get_ref().to_string()))
        })
    })
}

/// Takes the key at that span out, wherever it is.
fn cut(table: &mut DeTable<'_>, key: &Range<usize>) -> bool {
    let here = table.keys().find(|name| name.span() == *key).map(|name| name.get_ref().to_string());
    if let Some(name) = here {
        return table.remove(name.as_str()).is_some();
    }
    table.iter_mut().any(|(_, value)| match value.get_mut() {
        DeValue::Table(table) => cut(table, key),
        DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
            DeValue::Table(table) => cut(table, key),
            _ => false,
        }),
        _ => false,
    })
}

fn tables_of<'v, 'i>(value: &'v DeValue<'i>) -> impl Iterator<Item = &'v DeTable<'i>> {
    let (table, items) = match value {
        DeValue::Table(table) => (Some(table), None),
        DeValue::Array(items) => (None, Some(items)),
        _ => (None, None),
    };
    let inner = items.into_iter().flat_map(|items| items.iter()).filter_map(|item| item.get_ref().as_table());
    table.into_iter().chain(inner)
}

/// What `validator` found, at the place of each value.
fn out_of_range(
    source: &Source,
    table: Option<&DeTable<'_>>,
    path: &mut String,
    errors: &ValidationErrors,
    faults: &mut Vec<Diagnostic>,
) {
    for (field, kind) in errors.errors() {
        let name = field.replace('_', "-");
        let value = table.and_then(|table| table.get(name.as_str()));
        let length = path.len();
        let dot = if path.is_empty() { "" } else { "." };
        let _ = write!(path, "{dot}{name}");
        match kind {
            ValidationErrorsKind::Struct(inner) => {
                out_of_range(source, value.and_then(|v| v.get_ref().as_table()), path, inner, faults);
            }
            // No struct of ours holds a list of structs with ranges.
            ValidationErrorsKind::List(_) => {}
            ValidationErrorsKind::Field(found) => faults.extend(found.iter().map(|error| {
                let bound = |name: &str| error.params.get(name).map(|v| v.to_string().replace('"', ""));
                let message = match (bound("min"), bound("max"), &error.message) {
                    (_, _, Some(message)) => format!("`{path}`: {message}"),
                    (Some(min), Some(max), _) => format!("`{path}` is out of its range, {min} to {max}"),
                    (Some(min), None, _) => format!("`{path}` is below {min}"),
                    (None, Some(max), _) => format!("`{path}` is above {max}"),
                    (None, None, _) => format!("`{path}` is not valid ({})", error.code),
                };
                place(Diagnostic::fault(message), source, value.map(|v| v.span()))
            })),
        }
        path.truncate(length);
    }
}

/// Most faults told of one file: who has more mends some and asks again.
const MAX_FAULTS: usize = 20;

/// After a syntax fault the parser goes on as well as it can, and what it then says is less and less to the point.
const MAX_SYNTAX_FAULTS: usize = 3;

/// Our longest key has half as many.
const MAX_MISSPELT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::site::{config::ServerConfig, manifest::RawManifest, tenant::RawTenant};

    fn told<T: DeserializeOwned>(text: &str) -> String {
        match parse_toml::<T>(&Source::new("function.toml", text)) {
            Ok(_) => "no fault".to_owned(),
            Err(faults) => faults.iter().map(|fault| fault.render(false) + "\n").collect(),
        }
    }

    #[test]
    fn several_unknown_keys_are_told_at_once_with_the_nearest_known_one() {
        let text = "component = \"a.wasm\"\nmethod = [\"POST\"]\n[event]\nmax-byte = \"1KiB\"\nzzz = 1\n[limits]\ncpu = \"50\"\n";
        insta::assert_snapshot!(told::<RawManifest>(text), @r#"
        error: unknown key `method`
         --> function.toml:2:1
          |
        2 | method = ["POST"]
          | ^^^^^^
          |
          = help: did you mean `methods`?
        error: unknown key `max-byte`
         --> function.toml:4:1
          |
        4 | max-byte = "1KiB"
          | ^^^^^^^^
          |
          = help: did you mean `max-bytes`?
        error: unknown key `zzz`
         --> function.toml:5:1
          |
        5 | zzz = 1
          | ^^^
          |
          = help: known here: `schema`, `query`, `rest`, `raw`, `envelope`, `max-bytes`, `media-types`, `injection`, `headers`, `max-depth`, `max-nodes`, `max-string`, `max-items`, `max-members`
        error: `cpu`: a time span is a whole number with `ms`, `s`, `m`, `h` or `d`, such as `50ms`
         --> function.toml:7:7
          |
        7 | cpu = "50"
          |       ^^^^
        "#);
    }

    #[test]
    fn a_missing_key_is_told_where_it_should_be() {
        insta::assert_snapshot!(told::<RawTenant>("name = \"Acme\"\n\n[[issuers]]\nissuer = \"https://a\"\nkeys = 5\n"), @r#"
        error: `audiences` is missing
         --> function.toml:3:1
          |
        3 | [[issuers]]
          | ^^^^^^^^^^^
        error: `keys`: invalid type: integer `5`, expected a string
         --> function.toml:5:8
          |
        5 | keys = 5
          |        ^
        "#);
        insta::assert_snapshot!(told::<RawManifest>(""), @r#"
        error: `component` is missing
        --> function.toml
        "#);
    }

    #[test]
    fn broken_syntax_is_told_at_its_line() {
        insta::assert_snapshot!(told::<RawManifest>("component = \"a.wasm\nmethods = [\"POST\"]\n"), @r#"
        error: invalid basic string, expected `"`
         --> function.toml:1:20
          |
        1 | component = "a.wasm
          |                    ^
          |
          = help: the language is TOML: https://toml.io
        "#);
    }

    #[test]
    fn nearest_knows_a_slip_from_another_word() {
        assert_eq!(nearest("isuers", ["name", "issuers"]), Some("issuers"));
        assert_eq!(nearest("max_bytes", ["max-bytes", "methods"]), Some("max-bytes"));
        assert_eq!(nearest("colour", ["name", "issuers"]), None);
        assert_eq!(nearest("", []), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_told_and_never_panics(text in "[ -~\\n\"\\[\\]=a-e.é\u{0}]{0,200}") {
            let source = Source::new("any.toml", text);
            for faults in [
                parse_toml::<RawManifest>(&source).err(),
                parse_toml::<RawTenant>(&source).err(),
                parse_validated::<ServerConfig>(&source).err(),
            ].into_iter().flatten() {
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    fault.render(true);
                    fault.one_line();
                }
            }
        }

        #[test]
        fn a_manifest_with_any_keys_and_values_is_read_or_told(
            entries in prop::collection::vec((
                prop::sample::select(vec!["component", "methods", "labels", "summary", "event", "limits", "x", "\"a`b\"", "event.max-bytes", "limits.cpu"]),
                prop::sample::select(vec!["1", "-5", "\"a\"", "[]", "[1]", "{}", "{x=1}", "[{x=1}]", "true", "1e400", "99999999999999999999", "\"1KiB\"", "{cpu=1, wall={}}"]),
            ), 0..8),
        ) {
            let text: String = entries.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            if let Err(faults) = parse_toml::<RawManifest>(&Source::new("any.toml", text)) {
                prop_assert!(!faults.is_empty() && faults.len() <= MAX_FAULTS);
                for fault in faults {
                    fault.render(false);
                }
            }
        }
    }
}
