//! What is admitted, and what is not.

use super::*;
use crate::site::{diagnostic::Source, manifest::RawManifest, parse::parse_toml, units::Bytes};

fn refused(component: &[u8]) -> String {
    sandbox().admit(component, None).unwrap_err().to_string()
}

fn importing(import: &str) -> String {
    guest("traps").replacen("(component", &format!("(component {import}"), 1)
}

#[test]
fn f06_every_import_is_refused_by_name() {
    for (import, name) in [
        ("(import \"wasi:cli/environment@0.2.0\" (instance))", "wasi:cli/environment@0.2.0"),
        ("(import \"wasi:http/outgoing-handler@0.2.3\" (instance))", "wasi:http/outgoing-handler@0.2.3"),
        ("(import \"sandgate:kv/store@0.1.0\" (instance))", "sandgate:kv/store@0.1.0"),
        ("(import \"host\" (func))", "host"),
        ("(import \"m\" (core module))", "m"),
    ] {
        let told = format!("the component imports `{name}`, which its manifest does not declare");
        assert_eq!(refused(importing(import).as_bytes()), told);
    }
}

#[test]
fn the_handler_must_be_there_and_of_the_worlds_types() {
    let none = refused(b"(component)");
    assert_eq!(
        none,
        "the component exports neither `sandgate:function/handler@0.1.0` nor `wasi:http/incoming-handler` 0.2"
    );
    let other = refused(guest("traps").replace("@0.1.0", "@0.2.0").as_bytes());
    assert_eq!(other, none);
    for (from, to) in [
        ("(field \"status\" u16)", "(field \"status\" u32)"),
        ("(field \"request-id\" string)", "(field \"request\" string)"),
        ("(field \"raw\" (option (list u8)))", "(field \"raw\" (list u8))"),
        ("(export \"handle\" (func $handle))", "(export \"handel\" (func $handle))"),
    ] {
        let text = guest("traps");
        assert!(text.contains(from));
        let told =
            sandbox().admit(text.replace(from, to).as_bytes(), None).map(|_| to).unwrap_err().to_string();
        assert!(
            told.starts_with("the export `sandgate:function/handler@0.1.0` is not the world's: "),
            "{told}"
        );
    }
}

#[test]
fn what_is_no_component_is_refused() {
    assert!(refused(b"").contains("does not parse") || refused(b"").contains("neither"), "{}", refused(b""));
    assert!(refused(b"(module)").contains("core module"));
    assert!(refused(&wat::parse_str("(module)").unwrap()).contains("core module"));
    assert!(refused(b"(component").contains("does not parse"));
    assert!(refused(b"\xff\xfe").contains("does not parse"));
    assert!(refused(b"\0asm").contains("neither"));
    let mut cut = wat::parse_str(guest("traps")).unwrap();
    cut.pop();
    assert!(refused(&cut).contains("malformed"));
}

#[test]
fn f08_sizes_are_bounded_before_anything_is_parsed() {
    let sandbox = sandbox_with(|settings| {
        settings.admission.binary_bytes = 100;
        settings.admission.text_bytes = 50;
    });
    let told = |bytes: &[u8]| sandbox.admit(bytes, None).unwrap_err().to_string();
    assert_eq!(told(&[b' '; 51]), "the text component has 51 bytes, of 50 allowed");
    let binary = [b"\0asm".as_slice(), &[0; 97]].concat();
    assert_eq!(told(&binary), "the binary component has 101 bytes, of 100 allowed");
}

#[test]
fn f08_what_was_refused_is_not_compiled_again_only_to_be_refused_again() {
    let sandbox = sandbox();
    let told = || sandbox.admit(b"(component (import \"host\" (func)))", None).unwrap_err().to_string();
    assert_eq!(told(), told());
    let Compiling { compiled, refused, failed, remembered, running, waiting, .. } = sandbox.compiling();
    assert_eq!((compiled, refused, failed, remembered), (0, 1, 0, 1));
    assert_eq!((running, waiting), (0, 0));
    sandbox.admit(HELLO.as_bytes(), None).unwrap();
    assert_eq!(sandbox.compiling().compiled, 1);
    // What is no fault of the component is tried again.
    let sandbox = sandbox_with(|settings| settings.compiler = CompilerCommand::at("/nowhere/sandgate"));
    assert!(sandbox.admit(HELLO.as_bytes(), None).is_err() && sandbox.admit(HELLO.as_bytes(), None).is_err());
    let Compiling { refused, failed, remembered, .. } = sandbox.compiling();
    assert_eq!((refused, failed, remembered), (0, 2, 0));
}

#[test]
fn a_fault_in_component_text_names_its_file() {
    let sandbox = sandbox();
    for _ in 0..2 {
        // From memory too, and for each file that has these bytes.
        let told = sandbox.admit(b"(component", None).unwrap_err().in_file("functions/acme/x/\u{1b}x.wat");
        let place = "--> functions/acme/x/\\u{1b}x.wat:1:";
        assert!(told.to_string().contains(place) && !told.to_string().contains("<anon>"), "{told}");
    }
}

#[test]
fn f13_a_component_beyond_the_pools_caps_is_refused() {
    let many = |what: &str, count: usize| {
        let mut text = guest("traps");
        let more =
            format!("(core module $more {what}){}", "(core instance (instantiate $more))".repeat(count));
        text = text.replace("(core instance $guest", &format!("{more}(core instance $guest"));
        sandbox().admit(text.as_bytes(), None).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(many("(memory 1)", 3), Ok(()));
    assert!(many("(memory 1)", 4).unwrap_err().contains("memories"));
    assert_eq!(many("(table 1 funcref)", 8), Ok(()));
    assert!(many("(table 1 funcref)", 9).unwrap_err().contains("tables"));
    assert_eq!(many("", 15), Ok(()));
    assert!(many("", 16).unwrap_err().contains("instances"));
    assert!(many("(memory 1025)", 1).unwrap_err().contains("memory"));
    assert!(many("(table 20001 funcref)", 1).unwrap_err().contains("table"));
}

#[test]
fn f05_proposals_that_no_guest_needs_are_refused() {
    for (name, core) in [
        ("threads", "(memory 1 1 shared)"),
        ("atomics", "(memory 1) (func (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))"),
        ("memory64", "(memory i64 1)"),
        ("multi-memory", "(memory 1) (memory 1)"),
        ("custom page sizes", "(memory 1 (pagesize 1))"),
        ("tail calls", "(func $f (return_call $f))"),
        ("gc", "(type (struct (field i32)))"),
        ("gc arrays", "(type (array i8))"),
        ("externref", "(func (param externref))"),
        ("exceptions", "(tag)"),
        ("legacy exceptions", "(func try end)"),
        ("function references", "(type $t (func)) (func (param (ref null $t)))"),
        (
            "relaxed simd",
            "(func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))",
        ),
        ("wide arithmetic", "(func (result i64 i64) (i64.mul_wide_u (i64.const 1) (i64.const 1)))"),
        ("stack switching", "(type $f (func)) (type (cont $f))"),
    ] {
        let told = refused(format!("(component (core module {core}))").as_bytes());
        assert!(told.starts_with("the component is not valid here: "), "{name}: {told}");
    }
    for (name, text) in [
        ("async", "(component (core func (canon context.get i32 0)))"),
        ("streams", "(component (type (stream u8)))"),
        ("futures", "(component (type (future u8)))"),
        ("error context", "(component (core func (canon error-context.drop)))"),
        ("fixed-length lists", "(component (type (list u8 4)))"),
        ("maps", "(component (type (map string u8)))"),
    ] {
        let told = refused(text.as_bytes());
        assert!(told.starts_with("the component is not valid here: "), "{name}: {told}");
    }
}

#[test]
fn f35_what_a_component_says_is_escaped_and_cut() {
    let long = crate::sandbox::admission::printable(&"x".repeat(5_000));
    assert!(long.len() < 700 && long.ends_with('…'));
    assert_eq!(
        crate::sandbox::admission::printable("a\u{1b}[2J\u{202e}\n\0"),
        "a\\u{1b}[2J\\u{202e}\n\\u{0}"
    );
    let told = refused("(component (import \"a\u{1b}[31m\" (func)))".as_bytes());
    assert!(!told.contains('\u{1b}'), "{told:?}");
}

#[test]
fn f10_equal_bytes_are_one_component() {
    let sandbox = sandbox();
    let one = sandbox.admit(HELLO.as_bytes(), None).unwrap();
    let same = sandbox.admit(HELLO.as_bytes(), None).unwrap();
    assert!(Arc::ptr_eq(&one, &same));
    let binary = sandbox.admit(&wat::parse_str(HELLO).unwrap(), None).unwrap();
    assert!(!Arc::ptr_eq(&one, &binary));
    assert_eq!(one.digest(), Digest::of(HELLO.as_bytes()));
}

#[tokio::test]
async fn f09_a_stored_component_is_loaded_when_it_is_first_called() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = Some(dir.path().to_owned());
    let start = || sandbox_with(|settings| settings.data_dir = data_dir.clone());
    let first = runner(&start(), "acme", HELLO, limits(|_| ()));
    assert!(!used(&first, b"{}").await.1.cold);

    let second = runner(&start(), "acme", HELLO, limits(|_| ()));
    let (reply, usage) = used(&second, b"{}").await;
    assert!(reply.is_ok() && usage.cold);
    assert!(!used(&second, b"{}").await.1.cold);
}

#[tokio::test]
async fn f09_a_stored_component_that_was_changed_is_compiled_anew_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("hello.wat");
    fs::write(&origin, HELLO).unwrap();
    let data_dir = Some(dir.path().to_owned());
    let start = || sandbox_with(|settings| settings.data_dir = data_dir.clone());
    let spoil = || {
        let entry = fs::read_dir(dir.path().join("artefacts")).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&entry, bytes).unwrap();
    };
    let admit = |sandbox: &Arc<Sandbox>, origin: Option<&Path>| {
        let component = sandbox.admit(HELLO.as_bytes(), origin).unwrap();
        sandbox.runner(function("acme"), component, limits(|_| ()))
    };
    admit(&start(), None);

    spoil();
    let (reply, usage) = used(&admit(&start(), Some(&origin)), b"{}").await;
    assert!(reply.is_ok() && usage.cold);

    spoil();
    let result = run(&admit(&start(), None), b"{}").await;
    assert!(matches!(result, Err(SandboxError::Admission(AdmissionError::Gone { .. }))), "{result:?}");

    admit(&start(), None);
    spoil();
    let changed = admit(&start(), Some(&origin));
    fs::write(&origin, "(component)").unwrap();
    let result = run(&changed, b"{}").await;
    assert!(matches!(result, Err(SandboxError::Admission(AdmissionError::Changed))), "{result:?}");
}

#[tokio::test]
async fn f09_an_artefact_that_could_not_be_read_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let start = || sandbox_with(|settings| settings.data_dir = Some(dir.path().to_owned()));
    start().admit(HELLO.as_bytes(), None).unwrap();
    let artefacts = dir.path().join("artefacts");
    let entry = fs::read_dir(&artefacts).unwrap().next().unwrap().unwrap().path();
    // The system would not: here because a folder is in the way, elsewhere because no descriptor is free.
    let (aside, sandbox) = (dir.path().join("aside"), start());
    let hello = runner(&sandbox, "acme", HELLO, limits(|_| ()));
    fs::rename(&entry, &aside).unwrap();
    fs::create_dir(&entry).unwrap();
    let result = run(&hello, b"{}").await;
    assert!(matches!(result, Err(SandboxError::Admission(AdmissionError::Gone { .. }))), "{result:?}");
    fs::remove_dir(&entry).unwrap();
    fs::hard_link(&aside, &entry).unwrap();
    assert!(run(&hello, b"{}").await.is_ok());
    assert!(entry.exists());
}

#[tokio::test]
async fn what_one_tenant_does_to_its_file_is_nothing_to_another_with_the_same_component() {
    let dir = tempfile::tempdir().unwrap();
    let start = || sandbox_with(|settings| settings.data_dir = Some(dir.path().to_owned()));
    start().admit(HELLO.as_bytes(), None).unwrap();
    let [theirs, ours] = ["theirs.wat", "ours.wat"].map(|name| dir.path().join(name));
    for file in [&theirs, &ours] {
        fs::write(file, HELLO).unwrap();
    }
    let sandbox = start();
    let admitted = |file: &Path| sandbox.admit(HELLO.as_bytes(), Some(file)).unwrap();
    let (_other, component) = (admitted(&theirs), admitted(&ours));
    fs::write(&theirs, "(component)").unwrap();
    fs::remove_dir_all(dir.path().join("artefacts")).unwrap();
    let hello = sandbox.runner(function("acme"), component, limits(|_| ()));
    assert!(run(&hello, b"{}").await.is_ok());
}

#[test]
fn inspection_tells_world_imports_and_needs() {
    let hello = inspect(HELLO.as_bytes()).unwrap();
    assert_eq!((hello.world, hello.imports.len()), (World::Narrow, 0));
    assert_eq!(hello.exports, ["sandgate:function/handler@0.1.0"]);
    assert_eq!((hello.layout.core_modules, hello.memories, hello.initial_pages), (1, Some(1), Some(1)));
    let told = hello.to_string();
    assert!(told.contains("world       sandgate:function (narrow)\n"), "{told}");
    assert!(told.contains("imports     nothing\n"), "{told}");

    let importing = inspect(importing("(import \"wasi:cli/stdin@0.2.0\" (instance))").as_bytes()).unwrap();
    assert_eq!(importing.imports, ["wasi:cli/stdin@0.2.0"]);
    assert_eq!(inspect(b"(component)").unwrap().world, World::Unknown);
    let portable = "(component (instance $i) (export \"wasi:http/incoming-handler@0.2.3\" (instance $i)))";
    assert_eq!(inspect(portable.as_bytes()).unwrap().world, World::Portable);
    let json = serde_json::to_value(&hello).unwrap();
    assert_eq!((json["world"].as_str(), json["core_modules"].as_u64()), (Some("sandgate:function"), Some(1)));
}

#[test]
fn an_inspection_writes_a_manifest_that_is_one() {
    let large = HELLO.replace("(memory (export \"memory\") 1", "(memory (export \"memory\") 1000");
    assert_ne!(large, HELLO);
    let portable = "(component (instance $i) (export \"wasi:http/incoming-handler@0.2.3\" (instance $i)))";
    for (text, memory) in [(HELLO, None), (portable, None), (&*large, Some(Bytes::mib(125)))] {
        let manifest = inspect(text.as_bytes()).unwrap().manifest("a \"quoted\".wasm").unwrap();
        let manifest = parse_toml::<RawManifest>(&Source::new("function.toml", manifest)).unwrap();
        assert_eq!(manifest.component.get_ref(), "a \"quoted\".wasm");
        assert_eq!(manifest.limits.memory.map(|memory| *memory.get_ref()), memory);
    }
    assert_eq!(inspect(b"(component)").unwrap().manifest("a.wasm"), None);
    let importing = inspect(importing("(import \"wasi:cli/stdin@0.2.0\" (instance))").as_bytes()).unwrap();
    assert_eq!(importing.manifest("a.wasm"), None);
}
