//! Components that are meant to harm whoever compiles them, and the process that they harm instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    sync::{Arc, mpsc},
    time::Duration,
};

use sandgate::{
    authn,
    pipeline::{Builder, Patience, Revision},
    record::Metrics,
    sandbox::{CompileLimits, CompilerCommand, Probe, Sandbox, Settings},
    server::{key_fetch, sandbox_settings},
    site::{
        Site,
        units::{Bytes, Span},
    },
};

use crate::{
    guest::echo,
    world::{MANIFEST, World, eventually},
};

const SANDGATE: &str = env!("CARGO_BIN_EXE_sandgate");

fn probe(walls: &str) -> Probe {
    let output = Command::new(SANDGATE)
        .args(["compile-component", "--probe", &format!("\"{walls}\"")])
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// What was not refused.
fn reached(probe: &Probe) -> Vec<&str> {
    probe.attempts.iter().filter(|(_, refused)| refused.is_none()).map(|(what, _)| what.as_str()).collect()
}

#[test]
fn f08_the_compile_process_reaches_no_file_no_network_and_no_process() {
    let probe = probe("all");
    if probe.confinement.seccomp {
        assert_eq!((reached(&probe), probe.attempts.len()), (vec![], 10));
    } else {
        eprintln!("this kernel has no seccomp: of {:?} only files are out of reach", probe.attempts);
        assert!(probe.attempts["read a file"].is_some() && probe.attempts["create a file"].is_some());
    }
}

#[test]
fn f08_each_wall_around_the_compile_process_stands_alone() {
    let files = ["create a file", "list a folder", "read a file", "start a program", "open a TCP socket"];
    let limits = probe("limits");
    let sockets = ["open a UDP socket", "open a Unix socket"];
    for what in files.into_iter().chain(sockets) {
        assert!(limits.attempts[what].is_some(), "the limits let it {what}");
    }
    let landlock = probe("landlock");
    // Of the network, Landlock knows TCP, from its fourth version on.
    let files =
        &files[..if landlock.confinement.landlock.is_some_and(|version| version >= 4) { 5 } else { 4 }];
    match landlock.confinement.landlock {
        Some(_) => files.iter().for_each(|what| {
            assert!(landlock.attempts[*what].is_some(), "Landlock lets it {what}");
        }),
        None => eprintln!("this kernel has no Landlock"),
    }
    let seccomp = probe("seccomp");
    match seccomp.confinement.seccomp {
        true => assert_eq!(reached(&seccomp), Vec::<&str>::new()),
        false => eprintln!("this kernel has no seccomp"),
    }
}

/// What a component comes to under these limits.
fn refused(component: &[u8], limit: impl FnOnce(&mut CompileLimits)) -> String {
    let mut settings = Settings { compiler: CompilerCommand::at(SANDGATE), ..Settings::default() };
    limit(&mut settings.compile);
    let sandbox = Sandbox::start(&settings).expect("it starts");
    let refused = sandbox.admit(component, None).map(|_| "admitted".to_owned());
    refused.unwrap_or_else(|error| error.to_string())
}

#[test]
fn f08_a_compiler_that_takes_too_much_is_stopped_and_says_of_what() {
    let nested = binary(&[nested_blocks(100_000)]);
    let cpu = refused(&nested, |limits| limits.cpu = Span::secs(1));
    assert_eq!(cpu, "the compiler was stopped at 1s of CPU time");
    let wall = refused(&nested, |limits| limits.wall = Span::ms(1));
    assert_eq!(wall, "the compiler was stopped after 1ms");
    let large = binary(&vec![additions(140_000); 30]);
    let memory = refused(&large, |limits| limits.memory = Bytes::mib(40));
    assert_eq!(memory, "the compiler was stopped at 40MiB of memory");
}

#[test]
fn f08_a_program_that_is_no_compiler_is_not_believed() {
    let told = |program: &str| {
        let compiler = CompilerCommand::at(program);
        let sandbox = Sandbox::start(&Settings { compiler, ..Settings::default() }).expect("it starts");
        sandbox.admit(echo().as_bytes(), None).expect_err("nothing compiles").to_string()
    };
    assert_eq!(told("/nowhere/sandgate"), "the compile process could not be started");
    // One says nothing, one says the wrong thing without end.
    for program in ["/usr/bin/true", "/usr/bin/yes"] {
        let told = told(program);
        assert!(told.starts_with("the compile process gave no answer: "), "{told}");
    }
}

#[tokio::test]
async fn f08_every_bomb_ends_as_a_refusal_and_the_neighbour_is_served() {
    let platform = "[sandbox]\ncompile-cpu = \"1s\"\ncompile-memory = \"256MiB\"\n";
    let world = World::with("echo", &echo()).tenant("globex").file("sandgate.toml", platform).start().await;
    let shell = echo();
    let whole = wat::parse_str(&shell).expect("it parses");
    let bombs: BTreeMap<&str, (Vec<u8>, &str)> = BTreeMap::from([
        ("fifty-mebibytes", (binary(&vec![additions(140_000); 55]), "larger than 33554432 bytes")),
        ("a-million-locals", (binary(&[locals(1_000_000)]), "too many locals")),
        ("locals-by-the-thousand", (binary(&vec![locals(50_000); 5_000]), "the compiler was stopped")),
        ("nested-blocks", (binary(&[nested_blocks(100_000)]), "the compiler was stopped")),
        ("branches", (binary(&vec![branches(1_000, 400); 30]), "the compiler was stopped")),
        ("one-branch", (binary(&[branches(300_000, 1)]), "br_table")),
        ("long-function", (binary(&[additions(200_000)]), "bytes in one function")),
        ("many-functions", (binary(&vec![locals(1); 70_000]), "70000 functions, of 60000 allowed")),
        ("truncated", (whole[..whole.len() - 7].to_vec(), "malformed")),
        ("malformed", (flipped(&whole), "the component")),
        ("a-core-module", (b"\0asm\x01\0\0\0".to_vec(), "this is a core module")),
        ("noise", ((0..9_999_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect(), "text")),
        (
            "nested-text",
            (text("(component (core module (func ", "(block ", 120_000), "the compiler was stopped"),
        ),
        ("nested-components", (text("", "(component ", 80_000), "does not parse")),
        ("open-parentheses", ("(".repeat(1 << 20).into_bytes(), "does not parse")),
        ("long-text", ([b"(component)".as_slice(), &vec![b' '; 1 << 20]].concat(), "of 1048576 allowed")),
    ]);
    for (name, (bytes, _)) in &bombs {
        world.write(
            &format!("functions/globex/{name}/function.toml"),
            MANIFEST.replace("component.wat", "bomb"),
        );
        world.write(&format!("functions/globex/{name}/event.schema.json"), crate::world::SCHEMA);
        world.write(&format!("functions/globex/{name}/bomb"), bytes);
    }
    let refusals = || {
        let revision = world.running.gateway.revision();
        let faults = revision.diagnostics().filter(|(_, diagnostic)| diagnostic.is_fault());
        let told =
            faults.map(|(_, fault)| (fault.path().unwrap_or_default().to_owned(), fault.message.clone()));
        told.collect::<BTreeMap<String, String>>()
    };
    // Meanwhile, and afterwards, the neighbour is served. Which limit stops a compiler first is the machine's load to say.
    for name in bombs.keys() {
        let file = format!("functions/globex/{name}/function.toml");
        // One after the other: they are one tenant's.
        eventually(&format!("{name} is refused"), || async {
            assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
            refusals().get(&file).is_some_and(|told| !told.contains("goes on"))
        })
        .await;
    }
    let refusals = refusals();
    for (name, (_, expected)) in &bombs {
        let told = &refusals[&format!("functions/globex/{name}/function.toml")];
        assert!(told.contains(expected), "{name}: {told}");
        assert!(told.len() < 1_000 && !told.contains('\0'), "{name}: {told}");
    }
    assert_eq!(world.invoke("acme/echo").send().await.summary(), "200");
}

#[test]
fn f08_a_reload_does_not_wait_for_one_tenants_compiler() {
    let slow = format!("{} ;; other bytes", echo());
    let world = World::with("slow", &slow).tenant("globex").function("globex", "echo", &echo());
    let data = tempfile::tempdir().unwrap();
    let site = Site::read(world.path());
    let settings = sandbox_settings(&site.platform.config, Some(data.path().to_owned()));
    let ours = Settings { compiler: CompilerCommand::at(SANDGATE), ..settings.clone() };
    // One component is compiled already.
    Sandbox::start(&ours).unwrap().admit(echo().as_bytes(), None).unwrap();

    let (gate, program) = (data.path().join("gate"), data.path().join("compiler"));
    let script = format!("#!/bin/sh\ncat '{}' >/dev/null\nexec '{SANDGATE}' \"$@\"\n", gate.display());
    // Written by another process: this one may be starting a program, which would keep the file busy.
    let made = Command::new("/bin/sh")
        .args(["-c", "mkfifo \"$1\" && printf %s \"$3\" > \"$2\" && chmod 700 \"$2\"", "sh"])
        .args([&gate, &program])
        .arg(&script)
        .status();
    assert!(made.unwrap().success());
    let held = Settings { compiler: CompilerCommand::at(&program), ..settings };
    let builder = Builder {
        sandbox: Sandbox::start(&held).unwrap(),
        shared: authn::Shared::new(1 << 20, key_fetch(world.path(), &site.platform.config)),
        metrics: Arc::new(Metrics::new()),
        development: true,
        schemas: Default::default(),
        patience: Patience { first: Duration::ZERO, later: Duration::ZERO },
    };
    let (tell, told) = mpsc::channel();
    builder.sandbox.when_compiled(move |tenants| tell.send(tenants).unwrap());
    let build = |before: Option<&Revision>| builder.build(&site, before).expect("a sound platform").0;
    let served = |revision: &Revision| {
        revision.serving().map(|tenant| tenant.name.to_string()).collect::<BTreeSet<_>>()
    };
    let first = build(None);
    let second = build(Some(&first));
    for revision in [&first, &second] {
        assert_eq!(served(revision), BTreeSet::from(["globex".to_owned()]));
        let faults: Vec<&str> = revision.diagnostics().map(|(_, told)| &*told.message).collect();
        assert!(
            matches!(faults[..], [fault] if fault.starts_with("compiling the component goes on")),
            "{faults:?}"
        );
    }
    assert!(told.try_recv().is_err(), "it has not ended");
    // A reader opens the other end once the compile process has its turn.
    fs::write(&gate, "").unwrap();
    let ended = told.recv_timeout(crate::client::PATIENCE).expect("it ends");
    assert_eq!(ended, BTreeSet::from(["acme".parse().unwrap()]));
    // Nothing of the site has changed, and yet the part is built anew.
    let third = build(Some(&second));
    assert_eq!(served(&third), BTreeSet::from(["acme".to_owned(), "globex".to_owned()]));
    assert_eq!(third.diagnostics().filter(|(_, told)| told.is_fault()).count(), 0);
    let compiling = builder.sandbox.compiling();
    assert_eq!((compiling.compiled, compiling.failed, compiling.running), (1, 0, 0));
    assert!(!compiling.taken.is_zero());
}

#[tokio::test]
async fn f08_a_refused_component_that_is_only_touched_is_refused_from_memory() {
    let world = World::with("echo", &echo()).tenant("globex").start().await;
    let count = |result: &str| {
        let text = world.running.gateway.metrics_text();
        let name = format!("sandgate_compilations_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&*name)).unwrap().parse::<u64>().unwrap()
    };
    let bomb = |manifest: &str| {
        world.write("functions/globex/bomb/function.toml", format!("{MANIFEST}{manifest}"));
        world.write("functions/globex/bomb/event.schema.json", crate::world::SCHEMA);
        world.write("functions/globex/bomb/component.wat", "(component");
    };
    bomb("");
    eventually("it is refused", || async { count("refused") == 1 }).await;
    for n in 0..2 {
        let before = count("remembered");
        bomb(&format!("max-depth = {}\n", 3 + n));
        eventually("it is refused again", || async { count("remembered") > before }).await;
    }
    assert_eq!((count("refused"), count("compiled")), (1, 1));
    assert!(world.metric("sandgate_compiling{state=\"waiting\"} 0"));
    let told = || {
        let revision = world.running.gateway.revision();
        let mut faults = revision.diagnostics().filter(|(_, told)| told.is_fault());
        faults.any(|(_, told)| told.message.contains("--> functions/globex/bomb/component.wat:1:"))
    };
    eventually("its file is named", || async { told() }).await;
}

/// A component of one core module, with these functions of no parameters.
fn binary(functions: &[Vec<u8>]) -> Vec<u8> {
    let count = number(functions.len());
    let types = section(1, &[1, 0x60, 0, 0]);
    let declared = section(3, &[count.clone(), vec![0; functions.len()]].concat());
    let bodies = functions.iter().flat_map(|body| [number(body.len()), body.clone()].concat());
    let code = section(10, &count.iter().copied().chain(bodies).collect::<Vec<_>>());
    let module = [b"\0asm\x01\0\0\0".as_slice(), &types, &declared, &code].concat();
    [b"\0asm\x0d\0\x01\0".as_slice(), &section(1, &module)].concat()
}

fn section(id: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![id], number(bytes.len()), bytes.to_vec()].concat()
}

/// LEB128.
fn number(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        bytes.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return bytes;
        }
    }
}

fn locals(count: usize) -> Vec<u8> {
    [vec![1], number(count), vec![0x7f, 0x0b]].concat()
}

fn nested_blocks(depth: usize) -> Vec<u8> {
    [vec![0], [0x02, 0x40].repeat(depth), vec![0x0b; depth + 1]].concat()
}

/// `n += 1`, so many times.
fn additions(count: usize) -> Vec<u8> {
    [vec![1, 1, 0x7f], [0x20, 0, 0x41, 1, 0x6a, 0x21, 0].repeat(count), vec![0x0b]].concat()
}

/// So many tables of so many branches, each to every of a thousand blocks.
fn branches(targets: usize, tables: usize) -> Vec<u8> {
    let depth = 1_000;
    let labels: Vec<u8> = (0..targets).flat_map(|label| number(label % depth)).collect();
    let table = [vec![0x02, 0x40, 0x41, 0, 0x0e], number(targets), labels, vec![0, 0x0b]].concat();
    let blocks = [0x02, 0x40].repeat(depth);
    [vec![0], blocks, table.repeat(tables), vec![0x0b; depth + 1]].concat()
}

fn text(before: &str, opened: &str, depth: usize) -> Vec<u8> {
    format!("{before}{}{}", opened.repeat(depth), ")".repeat(depth + before.matches('(').count()))
        .into_bytes()
}

/// Bits turned where sections begin, so that the preamble stays.
fn flipped(whole: &[u8]) -> Vec<u8> {
    let flip = |(at, byte): (usize, &u8)| if at >= 40 && at.is_multiple_of(7) { byte ^ 0x55 } else { *byte };
    whole.iter().enumerate().map(flip).collect()
}
