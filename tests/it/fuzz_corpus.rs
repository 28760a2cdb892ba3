//! What fuzzers start from and what they found, and every fixture besides, through each fuzz target's function.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use sandgate::{authn, authz, event, sandbox, server, site};

type Target = (&'static str, fn(&[u8]));

/// Each target of `fuzz/`, and the function that it wraps.
const TARGETS: [Target; 12] = [
    ("bearer", authn::fuzz::bearer),
    ("cloudevents", event::fuzz::cloudevents),
    ("dpop", authn::fuzz::dpop),
    ("head", server::fuzz::head),
    ("jwks", authn::fuzz::jwks),
    ("manifest", event::fuzz::manifest),
    ("path_and_query", event::fuzz::path_and_query),
    ("policy_loading", authz::fuzz::policy_loading),
    ("revocations", authn::fuzz::revocations),
    ("site", site::fuzz),
    ("strict_json", event::fuzz::strict_json),
    ("worker_frames", sandbox::fuzz::worker_frames),
];

#[test]
fn every_target_keeps_its_promises_over_every_corpus_and_fixture() {
    let corpus = read("fuzz/corpus");
    let mut inputs = read("tests/fixtures");
    for (target, _) in TARGETS {
        let seeds = corpus.keys().filter(|path| path.starts_with(&format!("fuzz/corpus/{target}/"))).count();
        assert!(seeds > 4, "{target} has {seeds} seeds");
    }
    inputs.extend(corpus);
    for (path, bytes) in &inputs {
        for (target, run) in TARGETS {
            let ended = std::panic::catch_unwind(|| run(bytes));
            assert!(ended.is_ok(), "`{target}` breaks its promises over `{path}`");
        }
    }
}

#[test]
fn every_fuzz_target_is_run_over_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let written: BTreeSet<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(written, TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect());
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in &written {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "`{target}` is in no [[bin]]");
    }
}

/// Every file under a folder of the repository, by its path there.
fn read(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            files.extend(read(&path));
        } else {
            files.insert(path, fs::read(entry.path()).unwrap());
        }
    }
    files
}
