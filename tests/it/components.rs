//! The components of the sample site are what the sources beside them made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use aws_lc_rs::digest::{SHA256, digest};

use crate::sample;

#[test]
fn components_and_sources_are_of_one_build() {
    for folder in built_functions() {
        let noted = noted(&folder);
        for (path, sum) in &noted {
            let bytes = fs::read(folder.join(path)).unwrap_or_else(|_| panic!("{path} of {folder:?}"));
            let now = digest(&SHA256, &bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>();
            assert_eq!(&now, sum, "{path} of {folder:?} has changed since: run functions/build.sh");
        }
        for source in sources(&folder) {
            let path = source.strip_prefix(&folder).unwrap().to_str().unwrap();
            assert!(noted.contains_key(path), "{path} of {folder:?} is new since: run functions/build.sh");
        }
    }
}

#[test]
fn components_stay_under_a_mebibyte() {
    for folder in built_functions() {
        for component in noted(&folder).keys().filter(|path| path.ends_with(".wasm")) {
            assert!(fs::metadata(folder.join(component)).unwrap().len() < 1 << 20, "{component}");
        }
    }
}

/// Needs the compilers that `functions/build.sh` keeps in `target/guests`; where it never ran, only the sums above are compared.
#[test]
fn components_are_what_their_sources_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("target/guests").is_dir() {
        eprintln!("not built again: functions/build.sh was never run here");
        return;
    }
    let build = Command::new(root.join("functions/build.sh")).arg("--check").output().unwrap();
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stdout));
}

/// Folders of functions whose component is built, as opposed to written as text, and committed.
fn built_functions() -> Vec<PathBuf> {
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions");
    let folders = entries(&functions).into_iter().filter(|tenant| tenant.is_dir()).flat_map(|t| entries(&t));
    let folders = folders.filter(|f| f.is_dir() && sample::is_committed(f));
    let built = folders.filter(|f| entries(f).iter().any(|p| has_extension(p, &["wasm"])));
    let built = built.collect::<Vec<_>>();
    assert!(built.len() >= 3, "{built:?}");
    built
}

/// What `functions/build.sh` noted: path → SHA-256, in the manner of `sha256sum`.
fn noted(folder: &Path) -> BTreeMap<String, String> {
    let file = folder.join("SOURCES.sha256");
    let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{file:?} is missing"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once("  ").unwrap()).map(|(sum, path)| (path.into(), sum.into())).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if has_extension(&path, &["rs", "c", "h", "lock"]) || path.ends_with("Cargo.toml") {
            found.push(path);
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
}
