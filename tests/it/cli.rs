//! The command line: what it says, and how it ends.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use sandgate::{authn::dev, site::tenant::RawTenant};

use crate::{sample, world::World};

/// Exit code, standard output, standard error.
pub(crate) fn sandgate(args: &[&str]) -> (u8, String, String) {
    crate::guest::compiled_by_sandgate();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("sandgate").chain(args.iter().copied()).map(Into::into);
    let code = sandgate::cli::run(args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn every_help_has_a_purpose_its_defaults_and_an_example() {
    let mut all = String::new();
    for command in [
        &["dev"][..],
        &["serve"],
        &["check"],
        &["token", "mint"],
        &["token", "proof"],
        &["token", "inspect"],
        &["policy", "test"],
        &["policy", "matrix"],
        &["function", "inspect"],
        &["openapi"],
        &["audit", "verify"],
        &["audit", "show"],
        &["logs"],
        &["block"],
        &["unblock"],
        &["corpus"],
        &["doctor"],
    ] {
        let (code, help, _) = sandgate(&[command, &["--help"]].concat());
        assert_eq!(code, 0);
        assert!(help.contains("Example"), "{command:?}: {help}");
        all.push_str(&format!("$ sandgate {} --help\n{help}\n", command.join(" ")));
    }
    assert_snapshot("help", &all);
}

#[test]
fn the_sample_site_has_no_fault_and_its_policies_do_what_their_tests_say() {
    let site = sample::site();
    let site = site.path().to_str().unwrap();
    let (code, out, err) = sandgate(&["check", "--site", site]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = sandgate(&["policy", "test", "--site", site]);
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = sandgate(&["policy", "matrix", "--site", site]);
    assert_eq!(code, 0);
    assert_snapshot("matrix", &out);
}

/// A site in which every kind of author went wrong at least once, next to a tenant with warnings only.
fn faulty_site() -> World {
    let manifest = |lines: &str| {
        format!("component = \"component.wat\"\n{lines}\n[event]\nschema = \"event.schema.json\"\n")
    };
    World::with("echo", &crate::guest::echo())
        .file(
            "functions/acme/echo/function.toml",
            &(manifest("methods = [\"PSOT\"]")
                + "query = \"query.schema.json\"\nheaders = [\"cookie\"]\n[limits]\ncpu = \"10m\"\n"),
        )
        .file("functions/acme/echo/event.schema.json", r#"{"type":"object","properties":{"a":{"type":"strin"}}}"#)
        .function("acme", "broken", "(component")
        .function("acme", "typo", &crate::guest::echo())
        .file("functions/acme/typo/function.toml", &manifest("methods = [\"POST\"]\nlabel = [\"money\"]"))
        .file("policies/acme/revoked.json", "{\"tokens\": 3}")
        .file(
            "policies/acme/policies.cedar",
            "@id(\"theirs\")\npermit(principal == Caller::\"globex/eve\", action, resource);\n\
             permit(principal, action == Action::\"invoke\", resource == Function::\"acme/ehco\");\n",
        )
        .tenant("globex")
        .file(
            "policies/globex/tenant.toml",
            "[[issuers]]\nissuer = \"https://x.example\"\naudiences = [\"a\"]\nalgorithms = [\"HS256\"]\n\
             keys = \"../acme/jwks.json\"\n",
        )
        .file("policies/globex/policies.cedar", "@id(\"x\")\npermit(principal, action resource);\n")
        .tenant("umbrella")
        .file(
            "policies/umbrella/tenant.toml",
            "[[issuers]]\nissuer = \"https://x.example\"\naudience = [\"a\"]\nalgorithms = [\"ES256\"]\n",
        )
        // What does not parse hides nothing of what lies beside it.
        .file(
            "policies/umbrella/policies.cedar",
            "@id(\"gone\")\npermit(principal, action == Action::\"invoke\", resource == Function::\"umbrella/reprot\");\n",
        )
        .file("policies/umbrella/more.cedar", "@id(\"x\")\npermit(principal, action resource);\n")
        .file("policies/umbrella/tests.toml", "[[test]]\nname = \"x\"\nexpects = \"allow\"\n")
        .file("policies/umbrella/revoked.json", "{\"tokens\": 3}")
        .function("umbrella", "report", "(component")
        .file("functions/umbrella/report/event.schema.json", r#"{"type":"objekt"}"#)
        .tenant("initech")
        .function("initech", "report", &crate::guest::echo())
        .file("functions/initech/report/event.schema.json", r#"{"type":"object","properties":{}}"#)
        .file(
            "policies/initech/policies.cedar",
            "@id(\"gone\")\npermit(principal, action == Action::\"invoke\", resource == Function::\"initech/reprot\");\n",
        )
}

/// What is printed of a site, without where it is.
fn masked(text: &str, world: &World) -> String {
    text.replace(world.path().to_str().unwrap(), "<site>")
}

fn assert_snapshot(name: &str, text: &str) {
    insta::with_settings!({ snapshot_path => "../snapshots" }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn check_tells_every_fault_of_a_site_with_its_place_and_what_to_do() {
    let world = faulty_site();
    let site = world.path().to_str().unwrap();
    let (code, text, err) = sandgate(&["check", "--site", site]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert_snapshot("check", &masked(&text, &world));
    let (code, json, err) = sandgate(&["check", "--json", "--site", site]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert_snapshot("check_json", &masked(&json, &world));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let counted = |severity: &str| {
        json["diagnostics"].as_array().unwrap().iter().filter(|line| line["severity"] == severity).count()
            as u64
    };
    assert_eq!(json["faults"], counted("fault"));
    assert_eq!(json["warnings"], counted("warning"));
}

#[test]
fn check_tells_the_faults_of_a_platform_part() {
    let world = World::with("echo", &crate::guest::echo())
        .file(
            "sandgate.toml",
            "[server]\nlisten = \"here\"\nops_listen = \"127.0.0.1:9443\"\n[limits]\ncpu = \"soon\"\n",
        )
        .file("policies/guardrails.cedar", "@id(\"open\")\npermit(principal, action, resource);\n");
    let (code, text, err) = sandgate(&["check", "--site", world.path().to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert_snapshot("check_platform", &masked(&text, &world));
}

#[test]
fn print_config_shows_every_setting_in_effect_as_a_file_that_reads_the_same() {
    let world = World::new().file("sandgate.toml", "[limits]\ncpu = \"300ms\"\n");
    let site = world.path().to_str().unwrap();
    let (code, printed, err) = sandgate(&["check", "--print-config", "--site", site]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(printed.contains("300ms"), "{printed}");
    assert_snapshot("print_config", &masked(&printed, &world));
    let again = World::new().file("sandgate.toml", &printed);
    let (code, twice, _) = sandgate(&["check", "--print-config", "--site", again.path().to_str().unwrap()]);
    assert_eq!(code, 0);
    assert_eq!(masked(&twice, &again), masked(&printed, &world));
}

/// The command as a process of its own, with this on its standard input.
fn process(args: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sandgate"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
}

/// `acme` with two dev issuers whose keys are made, as `sandgate dev` makes them.
fn dev_site() -> World {
    let issuer = |name: &str| {
        format!(
            "[[issuers]]\nissuer = \"https://{name}.acme.example\"\naudiences = [\"https://gate.example/acme\"]\n\
             algorithms = [\"ES256\"]\nkeys = \"dev\"\ndev = true\nroles = \"/roles\"\nscopes = \"/scope\"\n\
             tags = {{ department = \"/department\" }}\n"
        )
    };
    let toml = format!("{}\n{}name = \"partners\"\n", issuer("dev"), issuer("partners"));
    let world = World::with("echo", &crate::guest::echo()).file("policies/acme/tenant.toml", &toml);
    let raw: RawTenant = toml::from_str(&toml).unwrap();
    dev::DevIssuer::create_all(&world.path().join(dev::DIRECTORY), &"acme".parse().unwrap(), &raw).unwrap();
    world
}

/// What an inspection prints, without what differs from run to run: lengths, key ids, seconds.
fn without_chance(inspected: &str, worlds: [&World; 2]) -> String {
    let mut text = inspected.to_owned();
    for world in worlds {
        for file in
            fs::read_dir(world.path().join(dev::DIRECTORY)).unwrap().map(|entry| entry.unwrap().path())
        {
            let keys = fs::read_to_string(file).unwrap();
            if let Ok(keys) = serde_json::from_str::<serde_json::Value>(&keys) {
                text = text.replace(keys["keys"][0]["kid"].as_str().unwrap(), "<kid>");
            }
        }
    }
    let line = |line: &str| match line.split_whitespace().nth(1) {
        Some("form") if line.ends_with(" bytes in three segments") => {
            "✔ form        <n> bytes in three segments".into()
        }
        Some("expiry") if line.ends_with(" s") => "✔ expiry      in <n> s".into(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_minted_token_is_valid_and_every_refusal_says_why() {
    let (world, other) = (dev_site(), dev_site());
    let site = world.path().to_str().unwrap();
    let inspect = |token: &str| process(&["token", "inspect", "--site", site, "-"], token);
    let mut all = String::new();
    let mut told = |what: &str, (code, out, err): (i32, String, String)| {
        let printed = format!("{}{err}", without_chance(&masked(&out, &world), [&world, &other]));
        all.push_str(&format!("# {what}: exit code {code}\n{}\n\n", printed.trim_end()));
    };

    let minting = ["token", "mint", "--site", site, "--tenant", "acme", "--subject", "alice"];
    let asked = ["--role", "billing", "--role", "admin", "--scope", "read", "--claim", "department=finance"];
    let (code, token, err) = process(&[&minting[..], &asked].concat(), "");
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(token.trim_end().split('.').count(), 3);
    told("as minted", inspect(&token));
    let (code, json, _) =
        process(&["token", "inspect", "--json", "--site", site, "--tenant", "acme", "-"], &token);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["valid"], &json["caller"]), (0, &true.into(), &"acme/alice".into()));
    assert_eq!(json["roles"], serde_json::json!(["acme/admin", "acme/billing"]));

    let (code, partner, _) = process(&[&minting[..], &["--issuer", "partners"]].concat(), "");
    assert_eq!(code, 0);
    told("of the named issuer", inspect(&partner));

    let raw: RawTenant =
        toml::from_str(&fs::read_to_string(world.path().join("policies/acme/tenant.toml")).unwrap()).unwrap();
    let mint = |world: &World, now: SystemTime| {
        let request = dev::MintRequest { now, ..dev::MintRequest::new("alice") };
        dev::mint(&world.path().join(dev::DIRECTORY), &"acme".parse().unwrap(), &raw, &request).unwrap()
    };
    let now = SystemTime::now();
    told("of another site's key", inspect(&mint(&other, now)));
    told("an hour old", inspect(&mint(&world, now - Duration::from_secs(3600))));
    let (head, _) = token.trim_end().rsplit_once('.').unwrap();
    let (_, signature) = partner.trim_end().rsplit_once('.').unwrap();
    told("with another's signature", inspect(&format!("{head}.{signature}")));
    told("no token", inspect("not a token"));
    assert_snapshot("token_inspect", &all);
}

#[test]
fn minting_says_what_to_do_where_it_cannot() {
    let (with, without) = (dev_site(), World::new().tenant("acme"));
    let keyless = dev_site();
    fs::remove_dir_all(keyless.path().join(dev::DIRECTORY)).unwrap();
    let mut all = String::new();
    for (world, args) in [
        (&without, &["--tenant", "acme"][..]),
        (&with, &["--tenant", "acme", "--issuer", "nobody"]),
        (&with, &["--tenant", "globex"]),
        (&keyless, &["--tenant", "acme"]),
        (&with, &["--tenant", "acme", "--ttl", "30h"]),
        (&with, &["--tenant", "acme", "--claim", "department"]),
    ] {
        let fixed = ["token", "mint", "--site", world.path().to_str().unwrap(), "--subject", "alice"];
        let (code, out, err) = process(&[&fixed[..], args].concat(), "");
        assert_eq!((code, out.as_str()), (2, ""));
        all.push_str(&masked(&err, world));
    }
    assert_snapshot("token_mint_refusals", &all);
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
    let site = sample::site();
    let site = site.path().to_str().unwrap();
    let (code, out, _) = sandgate(&["openapi", "--tenant", "acme", "--site", site]);
    assert_eq!(code, 0);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/acme/hello", "/acme/invoice", "/acme/render"]);
    assert!(resolved(&document) >= 3, "each function refers to the problem at least");
    assert_eq!(sandgate(&["openapi", "--tenant", "nobody", "--site", site]).0, 2);
}

/// Schemas that refer to parts of themselves, wherever a document has room for one.
#[test]
fn openapi_keeps_the_references_of_schemas() {
    let schema = r##"{
        "type": "object", "additionalProperties": false, "required": ["node"],
        "properties": {"node": {"$ref": "#/$defs/node"}, "again": {"$ref": "#/properties/node"}},
        "$defs": {"node": {
            "type": "object", "additionalProperties": false,
            "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/node"}}
        }}
    }"##;
    let query = r##"{
        "type": "object", "additionalProperties": false,
        "properties": {"page": {"$ref": "#/$defs/number"}, "$ref": {"type": "string"}},
        "$defs": {"number": {"type": "integer", "minimum": 1}}
    }"##;
    let manifest = "component = \"component.wat\"\nmethods = [\"GET\", \"POST\"]\n[event]\nschema = \"event.schema.json\"\n\
                    query = \"query.schema.json\"\nrest = true\n[response]\nschema = \"response.schema.json\"\n";
    let world = World::with("tree", &crate::guest::echo())
        .file("functions/acme/tree/function.toml", manifest)
        .file("functions/acme/tree/event.schema.json", schema)
        .file("functions/acme/tree/query.schema.json", query)
        .file("functions/acme/tree/response.schema.json", schema);
    let (code, out, err) =
        sandgate(&["openapi", "--tenant", "acme", "--site", world.path().to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    resolved(&document);
    let post = &document["paths"]["/acme/tree"]["post"];
    let page = post["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "page").unwrap();
    assert_eq!(follow(&document, &page["schema"])["minimum"], 1);
    let body = &post["requestBody"]["content"]["application/json"]["schema"];
    let next = &follow(&document, &follow(&document, body)["properties"]["node"])["properties"]["next"];
    assert_eq!(follow(&document, next)["properties"]["name"]["type"], "string");
}

/// Every `$ref` of an OpenAPI document leads somewhere in it (the document is the base of them all: none has an `$id`);
/// how many there are.
fn resolved(document: &serde_json::Value) -> usize {
    let (mut open, mut seen) = (vec![document], 0);
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(members) => {
                if let Some(serde_json::Value::String(reference)) = members.get("$ref") {
                    let pointer =
                        reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    seen += 1;
                }
                open.extend(members.values());
            }
            serde_json::Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    seen
}

/// A schema, or what it refers to in the end.
fn follow<'d>(document: &'d serde_json::Value, schema: &'d serde_json::Value) -> &'d serde_json::Value {
    match schema["$ref"].as_str() {
        Some(reference) => follow(document, document.pointer(reference.strip_prefix('#').unwrap()).unwrap()),
        None => schema,
    }
}

#[test]
fn function_inspect_says_what_a_component_is() {
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/acme/hello/hello.wat");
    let (code, out, _) = sandgate(&["function", "inspect", hello.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.contains("sandgate:function"), "{out}");
}

/// Hands on what a command prints, line by line, until nobody listens: then it is a closed pipe.
struct Lines(tokio::sync::mpsc::UnboundedSender<String>, Vec<u8>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.extend_from_slice(bytes);
        while let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.1.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            self.0.send(line).map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.0.is_closed() { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn logs_go_on_with_what_is_called_after_they_began_and_over_segments() {
    let world = World::with("echo", &crate::guest::echo())
        .file("sandgate.toml", "[audit]\nsegment = \"64KiB\"\n")
        .start()
        .await;
    let id_of = |reply: &crate::client::Reply| reply.header("sandgate-request-id").unwrap().to_owned();
    let before = id_of(&world.invoke("acme/echo").send().await);
    let other = id_of(&world.invoke("acme/other").send().await);
    let site = world.path().to_str().unwrap().to_owned();

    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let args = ["sandgate", "logs", "--follow", "--json", "--tenant", "acme", "--site", &site];
    let args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
    let followed = tokio::task::spawn_blocking(move || {
        sandgate::cli::run(args, &mut Lines(sender, Vec::new()), &mut Vec::new())
    });
    let mut next = async || {
        let line = tokio::time::timeout(crate::client::PATIENCE, lines.recv()).await;
        let line: serde_json::Value = serde_json::from_str(&line.expect("a line in time").unwrap()).unwrap();
        line["request_id"].as_str().unwrap().to_owned()
    };
    assert_eq!([next().await, next().await], [before, other.clone()]);

    // Some 700 bytes each: over the end of the first segment.
    let mut called = Vec::new();
    for _ in 0..100 {
        called.push(id_of(&world.invoke("acme/echo").send().await));
    }
    called.push(id_of(&world.invoke("acme/echo").bearer("expired").send().await));
    let segments = fs::read_dir(world.path().join(".sandgate/audit/invocations")).unwrap().count();
    assert!(segments > 1, "the calls fill more than one segment");
    let mut told = Vec::new();
    for _ in &called {
        told.push(next().await);
    }
    // Refusals have a chain of their own, so the last may be told a turn before those of the other chain.
    called.sort();
    told.sort();
    assert_eq!(told, called);
    drop(lines);
    assert_eq!(followed.await.unwrap(), 0, "a closed pipe is no fault");

    let once = move |args: Vec<String>| {
        let site = site.clone();
        tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            sandgate(&[&["logs", "--site", &site], &args[..]].concat())
        })
    };
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    let (code, out, _) = once(args(&["--request", &other])).await.unwrap();
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
    assert!(out.contains(&format!(" 404 not_found acme/other acme/alice {other} at authorize")), "{out}");
    let (code, out, _) = once(args(&["--function", "echo", "--lines", "3"])).await.unwrap();
    assert_eq!((code, out.lines().count()), (0, 3), "{out}");
    assert!(out.lines().all(|line| line.contains(" 200 ok acme/echo ")), "{out}");
    let (code, out, _) = once(args(&["--tenant", "nobody"])).await.unwrap();
    assert_eq!((code, out.as_str()), (1, ""));
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
