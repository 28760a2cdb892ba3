//! Dependencies run one way, and each vendor has one door.
//!
//! Read are all paths of the code, those of `use` trees one by one: an import in a group, under another name or by way of
//! `super` counts as much as one that is spelt out.

use std::{
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
    vec::IntoIter,
};

/// Top to bottom: a module may use those that come after it.
const ORDER: &[&str] = &[
    "cli", "server", "http", "pipeline", "tls", "record", "sandbox", "event", "authz", "authn", "site", "id",
];

/// Who may use which crate, or which name of one: modules with all that is in them.
const DOORS: &[(&str, &[&str])] = &[
    ("clap", &["cli"]),
    ("axum", &["http"]),
    ("StatusCode", &["http"]),
    ("jsonwebtoken", &["authn"]),
    ("cedar_policy", &["authz"]),
    ("wasmtime", &["sandbox"]),
    ("validator", &["site", "event"]),
    ("jsonschema", &["event"]),
    ("libinjectionrs", &["event"]),
    ("notify", &["site"]),
    ("prometheus_client", &["record"]),
    // Key sets are fetched by a client whose TLS has to be told its provider.
    ("rustls", &["tls", "server", "authn::fetch"]),
    ("tokio_rustls", &["tls", "server", "authn::fetch"]),
    ("reqwest", &["authn::fetch"]),
    ("x509_parser", &["tls"]),
];

#[test]
fn dependencies_run_one_way_and_each_vendor_has_one_door() {
    let mut wrong = Vec::new();
    for (module, file, code) in sources() {
        for (line, path) in paths(&code) {
            wrong.extend(judge(&module, &path).map(|fault| format!("{}:{line}: {fault}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is wrong with a path in a module, if anything is.
fn judge(module: &[String], path: &[String]) -> Option<String> {
    let own = |name: &str| ORDER.iter().position(|known| *known == name);
    let written = path.join("::");
    if let Some(target) = within_crate(module, path) {
        let (from, to) = (module.first()?, target.first()?);
        let upward = own(from).zip(own(to)).is_some_and(|(from, to)| to < from);
        return upward.then(|| format!("`{from}` uses `{to}`, which is above it: `{written}`"));
    }
    let (_, doors) = DOORS.iter().find(|(vendor, _)| {
        // A crate is named first, a type anywhere.
        path.first().is_some_and(|first| first == vendor)
            || (vendor.starts_with(char::is_uppercase) && path.iter().any(|name| name == vendor))
    })?;
    let place = module.join("::");
    let inside =
        |door: &&str| place == **door || place.strip_prefix(*door).is_some_and(|rest| rest.starts_with("::"));
    (!doors.iter().any(inside)).then(|| format!("`{written}` belongs to {doors:?}"))
}

/// A path of this crate, from its root: `crate`, `self` and `super` resolved.
fn within_crate(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let climbs = path.iter().take_while(|name| *name == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "self" => (module, &path[1..]),
        "super" => (&module[..module.len().saturating_sub(climbs)], &path[climbs..]),
        _ => return None,
    };
    Some(base.iter().chain(rest).cloned().collect())
}

/// All paths of a code, with their lines: of `use` trees every leaf, elsewhere every chain of names with `::`.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut tokens = tokens(code).into_iter().peekable();
    while let Some((line, token)) = tokens.next() {
        // `extern "C"` has no name after it.
        let imports = token == "use" || token == "extern" && tokens.next_if(|(_, t)| t == "crate").is_some();
        if imports {
            leaves(&mut tokens, &mut Vec::new(), line, &mut found);
        } else if is_name(&token) {
            let mut path = vec![token];
            while tokens.next_if(|(_, token)| token == "::").is_some() {
                match tokens.next_if(|(_, token)| is_name(token)) {
                    Some((_, name)) => path.push(name),
                    None => break,
                }
            }
            // A single name is a field, a variable or what a `use` has brought.
            if path.len() > 1 {
                found.push((line, path));
            }
        }
    }
    found
}

/// The leaves of a `use` tree below `prefix`, up to the end of this branch. Its new name, if it gets one, does not count.
fn leaves(
    tokens: &mut Peekable<IntoIter<(usize, String)>>,
    prefix: &mut Vec<String>,
    line: usize,
    found: &mut Vec<(usize, Vec<String>)>,
) {
    let depth = prefix.len();
    let mut renamed = false;
    while let Some((_, token)) = tokens.next_if(|(_, token)| !matches!(token.as_str(), "," | "}" | ";")) {
        match token.as_str() {
            "{" => {
                while tokens.peek().is_some_and(|(_, token)| token != "}") {
                    leaves(tokens, prefix, line, found);
                    tokens.next_if(|(_, token)| token == ",");
                }
                tokens.next();
                prefix.truncate(depth);
                return;
            }
            "as" => renamed = true,
            // In a group it is the group's own path.
            "self" if depth > 0 => {}
            name if is_name(name) && !renamed => prefix.push(token),
            _ => {}
        }
    }
    found.push((line, prefix.clone()));
    prefix.truncate(depth);
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single signs of a code, with their lines: without comments, texts and characters.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (code, 1);
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let (length, counts) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if let Some(length) = text_at(rest) {
            (length, false)
        } else if is_word(first) {
            (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        let (token, after) = rest.split_at(length);
        if counts {
            found.push((line, token.to_owned()));
        }
        line += token.matches('\n').count();
        rest = after;
    }
    found
}

/// Length of the literal that begins here: a text, raw or not, or a character. A lifetime is none.
fn text_at(code: &str) -> Option<usize> {
    let plain = code.strip_prefix('b').unwrap_or(code);
    let before = code.len() - plain.len();
    if let Some(raw) = plain.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inner = before + 1 + hashes + 1;
            return Some(code[inner..].find(&end).map_or(code.len(), |at| inner + at + end.len()));
        }
    }
    let quote = plain.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in plain.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(before + at + c.len_utf8()),
            // Two characters and no quote: a lifetime.
            _ if quote == '\'' && !plain.starts_with("'\\") && at > 1 => return None,
            _ => {}
        }
    }
    None
}

#[test]
fn every_way_to_name_a_thing_is_read() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let faults = |place: &str, code: &str| {
        let judged = paths(code).into_iter().filter_map(|(_, path)| judge(&module(place), &path));
        judged.collect::<Vec<_>>().len()
    };
    for (place, code, wrong) in [
        ("site", "use wasmtime;", 1),
        ("site", "use wasmtime as engine;", 1),
        ("site", "use ::wasmtime::{self, Store as S};", 2),
        ("site", "extern crate wasmtime;", 1),
        ("site", "fn f() -> wasmtime::Result<()> {}", 1),
        ("site", "#[derive(wasmtime::component::Lift)] struct A;", 1),
        ("sandbox::run", "use wasmtime::{Store, Trap};", 0),
        ("pipeline", "use http::StatusCode;", 1),
        ("pipeline", "use http::{Method, StatusCode as S, header};", 1),
        ("pipeline", "use http::Method;", 0),
        ("http::problem", "use http::{Method, StatusCode};", 0),
        ("authn::fetch", "use reqwest::Client; use rustls::crypto; use tokio_rustls::TlsConnector;", 0),
        ("authn::remote", "use reqwest::Client; use rustls::crypto; use tokio_rustls::TlsConnector;", 3),
        ("authn::fetcher", "use reqwest::Client;", 1),
        ("authn", "use crate::event::Event;", 1),
        ("authn", "use crate::{id::TenantName, event::{self, Event}};", 2),
        ("authn", "use crate::{\n    site,\n    event as later,\n};", 1),
        ("authn", "use super::event::Event;", 1),
        ("authn::keys::deep", "use super::super::super::event::Event;", 1),
        ("authn::keys::deep", "use super::super::super::{id, event::Event};", 1),
        ("authn::keys::deep", "use super::super::event::Event;", 0),
        ("authn::keys", "fn f() { super::super::event::read() }", 1),
        ("authn::keys", "use self::event::Event;", 0),
        ("authn", "pub(in crate::event) fn f() {}", 1),
        ("event", "use crate::{authn::Caller, authz::Decision, id, site};", 0),
        (
            "site",
            "// use wasmtime;\nconst A: &str = \"wasmtime::Store\"; const B: char = '\"'; // wasmtime::Store",
            0,
        ),
        (
            "site",
            "const A: &str = r#\"\"wasmtime::Store\"#; fn f<'a>(a: &'a str) -> wasmtime::Store<'a> {}",
            1,
        ),
    ] {
        assert_eq!(faults(place, code), wrong, "in {place}: {code}");
    }
    let lines: Vec<usize> =
        paths("use a::b;\n\nfn d() -> e::F {}\n").into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines.first(), Some(&1));
    assert_eq!(lines.last(), Some(&3));
}

/// Path of the module, file and code of every source, without its tests.
fn sources() -> Vec<(Vec<String>, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files
        .into_iter()
        .filter(|file| {
            !file.ends_with("tests.rs") && !file.components().any(|part| part.as_os_str() == "tests")
        })
        .map(|file| {
            let inner = file.strip_prefix(&root).unwrap().with_extension("");
            let module =
                inner.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            (module, file, code)
        })
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
