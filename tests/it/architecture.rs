//! Dependencies run one way, and each vendor has one door.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Top to bottom: a module may use those that come after it.
const ORDER: &[&str] = &[
    "cli", "server", "tls", "http", "pipeline", "record", "sandbox", "event", "authz", "authn", "site", "id",
];

/// Who may use which crate.
const DOORS: &[(&str, &[&str])] = &[
    ("jsonwebtoken", &["authn"]),
    ("cedar_policy", &["authz"]),
    ("wasmtime", &["sandbox"]),
    ("axum", &["http"]),
    ("StatusCode", &["http"]),
    ("validator", &["site", "event"]),
    ("jsonschema", &["event"]),
    // Key sets are fetched by a client whose TLS has to be told its provider.
    ("rustls", &["tls", "server", "authn"]),
];

#[test]
fn dependencies_run_one_way_and_each_vendor_has_one_door() {
    let mut wrong = Vec::new();
    for (module, file, code) in sources() {
        let place = |line: usize| format!("{}:{}", file.display(), line + 1);
        let level = ORDER.iter().position(|name| *name == module);
        for name in grouped(&code) {
            let at = ORDER.iter().position(|known| *known == name);
            if at.zip(level).is_some_and(|(at, level)| at < level) {
                wrong.push(format!("{}: `{module}` uses `{name}`, which is above it", file.display()));
            }
        }
        for (number, line) in code.lines().enumerate() {
            let line = line.trim();
            if line.starts_with("//") {
                continue;
            }
            for (at, name) in ORDER.iter().enumerate() {
                let uses =
                    line.contains(&format!("crate::{name}::")) || line.contains(&format!("crate::{{{name}"));
                if uses && level.is_some_and(|level| at < level) {
                    wrong.push(format!("{}: `{module}` uses `{name}`, which is above it", place(number)));
                }
            }
            for (vendor, doors) in DOORS {
                let uses = line.contains(&format!("{vendor}::")) && !line.contains(&format!("_{vendor}::"));
                if uses && !doors.contains(&module.as_str()) {
                    wrong.push(format!("{}: `{vendor}` belongs to {doors:?}", place(number)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules that `use crate::{…};` names, over however many lines.
fn grouped(code: &str) -> Vec<String> {
    let groups = code.split("use crate::{").skip(1).map(|rest| rest.split(';').next().unwrap_or_default());
    let mut names = Vec::new();
    for group in groups {
        let (mut depth, mut name) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(std::mem::take(&mut name)),
                c if depth == 0 => name.push(c),
                _ => {}
            }
        }
        names.push(name);
    }
    names.iter().map(|name| name.trim().split("::").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn groups_of_imports_are_read_whole() {
    let code = "use crate::{\n    id::TenantName,\n    record::{AuditLog, Metrics},\n    http,\n};\nuse crate::{site, cli};";
    assert_eq!(grouped(code), ["id", "record", "http", "", "site", "cli"]);
}

/// Module, file and code of every source, without its tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files
        .into_iter()
        .filter(|file| {
            !file.ends_with("tests.rs") && !file.components().any(|part| part.as_os_str() == "tests")
        })
        .map(|file| {
            let inner = file.strip_prefix(&root).unwrap();
            let first = inner.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            (first.trim_end_matches(".rs").to_owned(), file, code)
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
