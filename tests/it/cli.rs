//! The command line: what it says, and how it ends.

use std::path::Path;

use crate::world::World;

/// Exit code, standard output, standard error.
fn sandgate(args: &[&str]) -> (u8, String, String) {
    crate::guest::compiled_by_sandgate();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("sandgate").chain(args.iter().copied()).map(Into::into);
    let code = sandgate::cli::run(args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn own_site() -> &'static str {
    env!("CARGO_MANIFEST_DIR")
}

#[test]
fn every_help_has_a_purpose_its_defaults_and_an_example() {
    let mut all = String::new();
    for command in [
        &["dev"][..],
        &["serve"],
        &["check"],
        &["token", "mint"],
        &["token", "inspect"],
        &["policy", "test"],
        &["policy", "matrix"],
        &["function", "inspect"],
        &["openapi"],
        &["audit", "verify"],
        &["audit", "show"],
        &["corpus"],
        &["doctor"],
    ] {
        let (code, help, _) = sandgate(&[command, &["--help"]].concat());
        assert_eq!(code, 0);
        assert!(help.contains("Example"), "{command:?}: {help}");
        all.push_str(&format!("$ sandgate {} --help\n{help}\n", command.join(" ")));
    }
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("help", all) });
}

#[test]
fn the_sample_site_has_no_fault_and_its_policies_do_what_their_tests_say() {
    let (code, out, err) = sandgate(&["check", "--site", own_site()]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = sandgate(&["policy", "test", "--site", own_site()]);
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = sandgate(&["policy", "matrix", "--site", own_site()]);
    assert_eq!(code, 0);
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("matrix", out) });
}

#[test]
fn check_finds_every_fault_of_a_site_at_once() {
    let world = World::with("echo", "(component")
        .file(
            "functions/acme/echo/event.schema.json",
            r#"{"type":"object","properties":{"a":{"type":"strin"}}}"#,
        )
        .file(
            "policies/acme/policies.cedar",
            "@id(\"x\")\npermit(principal == Caller::\"globex/eve\", action, resource);\n",
        )
        .tenant("globex")
        .file(
            "policies/globex/tenant.toml",
            "[[issuers]]\nissuer = \"https://x.example\"\naudience = [\"a\"]\n",
        );
    let site = world.path().to_str().unwrap();
    let (code, out, _) = sandgate(&["check", "--site", site]);
    assert_eq!(code, 1);
    for told in [
        "functions/acme/echo/function.toml:1",
        "functions/acme/echo/event.schema.json",
        "policies/acme/policies.cedar:2",
        "policies/globex/tenant.toml:3",
        "audiences",
    ] {
        assert!(out.contains(told), "{told} is not told:\n{out}");
    }
    let (code, json, _) = sandgate(&["check", "--json", "--site", site]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(code, 1);
    assert!(json["faults"].as_u64().unwrap() >= 4, "{json}");
}

#[test]
fn a_schema_open_to_anything_is_a_warning_that_can_be_denied() {
    let world = World::with("echo", &crate::guest::echo())
        .file("functions/acme/echo/event.schema.json", r#"{"type":"object","properties":{}}"#);
    let site = world.path().to_str().unwrap();
    let (code, out, err) = sandgate(&["check", "--site", site]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("warning"), "{out}");
    assert_eq!(sandgate(&["check", "--deny-warnings", "--site", site]).0, 1);
}

#[test]
fn wrong_usage_and_a_missing_site_exit_2() {
    assert_eq!(sandgate(&["chek"]).0, 2);
    let (code, _, err) = sandgate(&["check", "--site", "/nonexistent"]);
    assert_eq!(code, 2);
    assert!(err.contains("is not a site"), "{err}");
}

/// Whoever can reach a development gateway may know its keys, whether a flag or a file let them in.
#[test]
fn development_is_served_on_loopback_only() {
    let flag = World::new();
    let site = flag.path().to_str().unwrap();
    let (code, _, err) = sandgate(&["dev", "--site", site, "--listen", "0.0.0.0:1"]);
    assert_eq!(code, 2);
    assert!(err.contains("0.0.0.0:1 is not"), "{err}");
    let file = World::new().file("sandgate.toml", "[server]\nlisten = \"0.0.0.0:1\"\n");
    let (code, _, err) = sandgate(&["dev", "--site", file.path().to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("0.0.0.0:1 is not"), "{err}");
}

#[test]
fn openapi_describes_every_function_and_its_references_resolve() {
    let (code, out, _) = sandgate(&["openapi", "--tenant", "acme", "--site", own_site()]);
    assert_eq!(code, 0);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/acme/hello", "/acme/invoice", "/acme/render"]);
    for reference in out.split("\"$ref\": \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(pointer.starts_with("/$defs") || document.pointer(pointer).is_some(), "{reference}");
    }
    assert_eq!(sandgate(&["openapi", "--tenant", "nobody", "--site", own_site()]).0, 2);
}

#[test]
fn function_inspect_says_what_a_component_is() {
    let hello = Path::new(own_site()).join("functions/acme/hello/hello.wat");
    let (code, out, _) = sandgate(&["function", "inspect", hello.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.contains("sandgate:function"), "{out}");
}

#[tokio::test]
async fn what_the_gateway_recorded_is_shown_and_verified() {
    let world = World::with("echo", &crate::guest::echo()).start().await;
    let reply = world.invoke("acme/echo").send().await;
    let id = reply.header("sandgate-request-id").unwrap().to_owned();
    let site = world.path().to_str().unwrap().to_owned();
    world.running.stop().await;
    tokio::task::spawn_blocking(move || {
        let (code, out, _) = sandgate(&["audit", "verify", "--site", &site]);
        assert_eq!(code, 0, "{out}");
        assert!(out.contains("tail not anchored") && out.contains("sound"), "{out}");
        let (code, out, _) = sandgate(&["audit", "show", "--request", &id, "--json", "--site", &site]);
        assert_eq!(code, 0);
        assert!(out.contains(&id), "{out}");
        assert_eq!(sandgate(&["audit", "show", "--tenant", "nobody", "--site", &site]).0, 1);
    })
    .await
    .unwrap();
}

/// What differs between machines is masked: numbers that are measured, the kernel's version, walls that it does not have.
#[test]
fn doctor_says_what_is_in_force_and_what_must_change() {
    let sound = World::with("echo", "").file("sandgate.toml", "[server]\nmax-connections = 64\n");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["gate.example".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().pem();
    let sound = sound.file("certs/server.pem", &certificate);
    let site = sound.path().to_str().unwrap();
    let (code, told, err) = sandgate(&["doctor", "--site", site]);
    assert_eq!((code, err.as_str()), (0, ""), "{told}");
    let mask = |line: &str| match line.split_at_checked(19) {
        Some((what, found)) => match what.trim() {
            "certificate" => format!("{what}ends in [DAYS] days"),
            "vm.max_map_count" | "open files" => {
                format!("{what}[LIMIT], of {}", found.split("of ").last().unwrap())
            }
            "compile process" => format!("{what}confined by [WALLS]"),
            "kernel" => format!("{what}[KERNEL]"),
            _ => line.to_owned(),
        },
        None => line.to_owned(),
    };
    let masked: Vec<String> = told.lines().map(mask).collect();
    insta::with_settings!({ snapshot_path => "../snapshots" }, { insta::assert_snapshot!("doctor", masked.join("\n")) });

    // Each of these alone would be a reason for exit 1.
    let data = sound.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let unsound = sound
        .file("certs/server.pem", "")
        .file("sandgate.toml", "[server]\nmax-connections = 1000000\n[sandbox]\ninstances = 65536\n");
    let site = unsound.path().to_str().unwrap();
    let (code, told, _) = sandgate(&["doctor", "--site", site, "--data", data.to_str().unwrap(), "--json"]);
    assert_eq!(code, 1);
    let findings: serde_json::Value = serde_json::from_str(&told).unwrap();
    let must = findings.as_array().unwrap().iter().filter(|finding| finding["change"]["must"] == true);
    let must: Vec<_> = must.map(|finding| finding["what"].as_str().unwrap()).collect();
    let measured = ["certificate", "data directory", "vm.max_map_count", "open files"];
    assert!(must.iter().all(|what| measured.contains(what)), "{must:?}");
    assert!(must.contains(&"certificate") && must.contains(&"data directory"), "{must:?}");
}
