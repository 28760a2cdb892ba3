//! Tenants whose functions run in processes of their own: the same answers, and an end that nobody else notices.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use sandgate::sandbox::Probe;
use serde_json::{Value, json};

use crate::{
    client::Reply,
    guest::{echo, guest},
    world::{Live, MANIFEST, World, eventually},
};

const SANDGATE: &str = env!("CARGO_BIN_EXE_sandgate");

impl World {
    /// The tenant's functions run in a process of its own.
    fn isolated(self, tenant: &str) -> Self {
        let path = format!("policies/{tenant}/tenant.toml");
        let text = fs::read_to_string(self.path().join(&path)).unwrap();
        self.file(&path, &format!("isolation = \"process\"\n{text}"))
    }

    /// A function that never returns, and has a while to do so.
    fn looping(self, tenant: &str) -> Self {
        self.function(tenant, "loops", &guest("loops"))
            .file("sandgate.toml", "[limits]\ncpu = \"30s\"\n")
            .file(
                &format!("functions/{tenant}/loops/function.toml"),
                &format!("{MANIFEST}[limits]\ncpu = \"30s\"\nwall = \"30s\"\n"),
            )
    }
}

/// The worker that the call ran in.
fn worker(live: &Live, reply: &Reply) -> i32 {
    let record = live.record(reply);
    i32::try_from(record["worker"].as_i64().unwrap_or_else(|| panic!("{record}"))).unwrap()
}

async fn worker_of(live: &Live, function: &str) -> i32 {
    let reply = live.invoke(function).send().await;
    assert_eq!(reply.summary(), "200");
    worker(live, &reply)
}

fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Invocations that have come so far.
fn running(live: &Live) -> u64 {
    let text = live.running.gateway.metrics_text();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("sandgate_stage_seconds_count{stage=\"validate\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

/// `echo` of two isolated tenants, and of one that is not.
fn neighbours() -> World {
    World::with("echo", &echo())
        .isolated("acme")
        .tenant("globex")
        .function("globex", "echo", &echo())
        .isolated("globex")
        .tenant("initech")
        .function("initech", "echo", &echo())
}

/// Calls, and goes on when the guest is about to run.
async fn begun(live: &Live, function: &str) -> tokio::task::JoinHandle<Reply> {
    let before = running(live);
    let (client, version, request) = live.invoke(function).finish();
    let call = tokio::spawn(async move { client.send(version, request).await });
    eventually("the call runs", || async { running(live) > before }).await;
    call
}

#[tokio::test]
async fn f30_f32_an_isolated_tenant_runs_in_a_process_of_its_own() {
    let live = neighbours().function("acme", "other", &echo()).start().await;
    let shared = live.invoke("initech/echo").send().await;
    assert_eq!((shared.summary().as_str(), &live.record(&shared)["worker"]), ("200", &Value::Null));
    assert!(live.metric("sandgate_workers 0"), "a worker starts with the first call");

    let first = live.invoke("acme/echo").json(json!({"name": "Ada"})).send().await;
    assert_eq!((first.summary().as_str(), &first.body[..]), ("200", &b"{\"name\":\"Ada\"}"[..]));
    assert_eq!(live.record(&first)["start"], "cold");
    let acme = worker(&live, &first);
    let again = live.invoke("acme/echo").send().await;
    assert_eq!((worker(&live, &again), &live.record(&again)["start"]), (acme, &json!("warm")));
    assert_eq!(worker_of(&live, "acme/other").await, acme);
    // Whoever ends a service tells all of its processes, and calls in flight are answered all the same.
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(Pid::from_raw(acme).unwrap(), signal).unwrap();
        assert_eq!(worker_of(&live, "acme/echo").await, acme);
    }
    let globex = worker_of(&live, "globex/echo").await;
    let ours = i32::try_from(std::process::id()).unwrap();
    assert!(acme != globex && acme != ours && globex != ours);
    assert!(live.metric("sandgate_workers 2"));

    let status = fs::read_to_string(format!("/proc/{acme}/status")).unwrap();
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    assert_eq!((of("PPid:"), of("NSsid:")), (ours.to_string().as_str(), acme.to_string().as_str()));
    live.running.stop().await;
    eventually("the workers are gone", || async { !lives(acme) && !lives(globex) }).await;
}

#[tokio::test]
async fn f30_a_worker_has_one_socket_and_nothing_else() {
    let live = World::with("echo", &echo()).isolated("acme").start().await;
    let pid = worker_of(&live, "acme/echo").await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let confined = probe("all").confinement;
    if confined.seccomp {
        assert_eq!((of("Seccomp:"), of("NoNewPrivs:")), ("2", "1"));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for none in ["Max core file size", "Max processes"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(none)).unwrap();
        assert_eq!(line.split_whitespace().next(), Some("0"), "{none}");
    }
    // Others' descriptors are root's to see, of a process that cannot be dumped.
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for descriptor in descriptors {
        let target = fs::read_link(descriptor.unwrap().path()).unwrap();
        let target = target.to_str().unwrap().replace(&format!("/proc/{pid}/"), "/proc/self/");
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    let known = [
        "/dev/null",
        "/proc/self/pagemap",
        "anon_inode",
        "anon_inode:[eventfd]",
        "anon_inode:[eventpoll]",
        "socket",
    ];
    let unknown: Vec<_> =
        kinds.keys().filter(|kind| !known.contains(&kind.as_str()) && !kind.starts_with("/memfd:")).collect();
    assert!(unknown.is_empty(), "{kinds:?}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(String::from_utf8_lossy(&environment), "MIMALLOC_ARENA_RESERVE=16MiB\0");
}

fn probe(walls: &str) -> Probe {
    let output = Command::new(SANDGATE)
        .args(["worker", "--probe", &format!("\"{walls}\"")])
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn f30_a_worker_reaches_no_file_no_network_and_no_process() {
    let reached = |probe: &Probe| -> Vec<String> {
        let open = probe.attempts.iter().filter(|(_, refused)| refused.is_none());
        open.map(|(what, _)| what.clone()).collect()
    };
    let all = probe("all");
    if all.confinement.seccomp {
        assert_eq!((reached(&all), all.attempts.len()), (vec![], 8));
    } else {
        eprintln!("this kernel has no seccomp: of {:?} only files are out of reach", all.attempts);
        assert!(all.attempts["read a file"].is_some() && all.attempts["create a file"].is_some());
    }
    let seccomp = probe("seccomp");
    if seccomp.confinement.seccomp {
        assert_eq!(reached(&seccomp), Vec::<String>::new());
    }
    let landlock = probe("landlock");
    if landlock.confinement.landlock.is_some() {
        for what in ["create a file", "list a folder", "read a file", "start a program"] {
            assert!(landlock.attempts[what].is_some(), "Landlock lets it {what}");
        }
    }
}

#[tokio::test]
async fn f30_whatever_a_function_does_is_answered_and_recorded_the_same_in_a_worker() {
    const GUESTS: [&str; 10] = [
        "echo",
        "traps",
        "loops",
        "recurses",
        "grows-and-gives-up",
        "grows-and-answers",
        "begins-large",
        "floods-little",
        "answers-header",
        "reads-out-of-bounds",
    ];
    let limits = "[limits]\ncpu = \"20ms\"\nwall = \"20s\"\nmemory = \"4MiB\"\nresponse = \"64KiB\"\n";
    let mut world = World::new().tenant("acme").tenant("globex").isolated("globex");
    for name in GUESTS {
        for tenant in ["acme", "globex"] {
            world = world
                .function(tenant, name, &guest(name))
                .file(&format!("functions/{tenant}/{name}/function.toml"), &format!("{MANIFEST}{limits}"));
        }
    }
    #[cfg(feature = "portable")]
    for tenant in ["acme", "globex"] {
        let path = format!("{}/tests/guests/count/count.wasm", env!("CARGO_MANIFEST_DIR"));
        world = world.component(tenant, "portable", &fs::read(path).unwrap());
    }
    let live = world.start().await;
    let names = GUESTS.into_iter().chain(cfg!(feature = "portable").then_some("portable"));
    for name in names {
        let mut told = Vec::new();
        for tenant in ["acme", "globex"] {
            // The first call loads.
            live.invoke(&format!("{tenant}/{name}")).json(json!({"name": "Ada"})).send().await;
            let reply = live.invoke(&format!("{tenant}/{name}")).json(json!({"name": "Ada"})).send().await;
            let record = live.record(&reply);
            assert_eq!(record["worker"].is_null(), tenant == "acme", "{record}");
            let seen = |name: &str| record[name].clone();
            let seen =
                ["stage", "limits", "peak_memory", "bytes_in", "bytes_out", "start", "outcome"].map(seen);
            let body = if reply.status == 200 { reply.body.clone() } else { reply.summary().into() };
            told.push((reply.summary(), body, seen));
        }
        assert_eq!(told[0], told[1], "{name}");
    }
}

#[tokio::test]
async fn f30_a_worker_that_dies_fails_its_calls_and_nobody_elses() {
    let live = neighbours().looping("acme").start().await;
    let neighbour = worker_of(&live, "globex/echo").await;
    let mut before = 0;
    for (count, signal, told) in [
        (1, Signal::KILL, "9 (SIGKILL)"),
        (2, Signal::SEGV, "11 (SIGSEGV)"),
        (3, Signal::ABORT, "6 (SIGABRT)"),
    ] {
        let pid = worker_of(&live, "acme/echo").await;
        assert_ne!(pid, before, "another worker is started");
        before = pid;
        let call = begun(&live, "acme/loops").await;
        eventually("the worker is gone", || async {
            // The engine looks at each fault before it lets the process die of it.
            let gone = kill_process(Pid::from_raw(pid).unwrap(), signal).is_err();
            gone || !lives(pid)
        })
        .await;
        let reply = call.await.unwrap();
        assert_eq!(reply.summary(), "502 function_failed");
        let record = live.record(&reply);
        let reason = record["outcome"]["reason"].as_str().unwrap();
        assert_eq!(reason, format!("worker died: it ended by signal {told}"));
        assert_eq!(record["worker"], pid);
        assert!(live.metric(&format!("sandgate_worker_deaths_total{{kind=\"signal\"}} {count}")));
        assert_eq!(worker_of(&live, "globex/echo").await, neighbour);
        assert_eq!(live.invoke("initech/echo").send().await.summary(), "200");
    }
    worker_of(&live, "acme/echo").await;
}

#[tokio::test]
async fn f30_workers_that_die_one_after_the_other_are_not_started_without_end() {
    let live = World::with("echo", &echo()).isolated("acme").start().await;
    let mut starts = 0;
    let refused = loop {
        let reply = live.invoke("acme/echo").send().await;
        if reply.status != 200 {
            break reply;
        }
        starts += 1;
        assert!(starts < 20, "nothing bounds how often a worker is started");
        let pid = worker(&live, &reply);
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        eventually("its end is noticed", || async {
            live.metric(&format!("sandgate_worker_deaths_total{{kind=\"signal\"}} {starts}"))
        })
        .await;
    };
    assert_eq!(refused.summary(), "503 overloaded");
    let reason = live.record(&refused)["outcome"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("the worker process is started again later"), "{reason}");
    eventually("it is started again", || async { live.invoke("acme/echo").send().await.status == 200 }).await;
}

#[tokio::test]
async fn f30_a_call_that_nobody_waits_for_ends_and_its_worker_lives_on() {
    let live = World::with("echo", &echo()).looping("acme").isolated("acme").start().await;
    live.write(
        "functions/acme/loops/function.toml",
        format!("{MANIFEST}[limits]\ncpu = \"30s\"\nwall = \"30s\"\nconcurrency = 1\n"),
    );
    let pid = worker_of(&live, "acme/echo").await;
    eventually("one call at a time is the limit", || async {
        let revision = live.running.gateway.revision();
        let acme = revision.serving().next().unwrap().clone();
        let function = acme.function(&"loops".parse().unwrap()).map(|f| f.runner.limits().concurrency.value);
        function.ok() == Some(1)
    })
    .await;
    for count in 1..=3 {
        let call = begun(&live, "acme/loops").await;
        call.abort();
        call.await.expect_err("it was dropped");
        eventually("the call is over", || async {
            live.records().iter().filter(|record| record["outcome"]["status"] == 499).count() == count
        })
        .await;
    }
    assert_eq!(worker_of(&live, "acme/echo").await, pid);
    let deaths = ["signal", "exit", "protocol", "overrun"];
    for kind in deaths {
        assert!(live.metric(&format!("sandgate_worker_deaths_total{{kind=\"{kind}\"}} 0")), "{kind}");
    }
}

#[tokio::test]
async fn f30_a_changed_function_reaches_its_worker_and_a_changed_setting_its_tenant() {
    let live = World::with("echo", &echo()).isolated("acme").start().await;
    let pid = worker_of(&live, "acme/echo").await;
    live.write("functions/acme/echo/component.wat", guest("traps"));
    eventually("the new component runs", || async {
        live.invoke("acme/echo").send().await.summary() == "502 function_failed"
    })
    .await;
    let trapped = live.invoke("acme/echo").send().await;
    assert_eq!(worker(&live, &trapped), pid, "in the same process");
    let text = fs::read_to_string(live.path().join("policies/acme/tenant.toml")).unwrap();
    live.write("policies/acme/tenant.toml", text.replace("isolation = \"process\"\n", ""));
    eventually("it runs in the gateway's process", || async {
        let reply = live.invoke("acme/echo").send().await;
        live.record(&reply)["worker"].is_null()
    })
    .await;
    eventually("its worker is gone", || async { !lives(pid) }).await;
    live.write("sandgate.toml", "[sandbox]\nisolation = \"process\"\n");
    eventually("the platform isolates all", || async {
        let reply = live.invoke("acme/echo").send().await;
        live.record(&reply)["worker"].is_number()
    })
    .await;
}

#[tokio::test]
async fn f30_there_are_so_many_workers_and_no_more() {
    let live = neighbours()
        .looping("acme")
        .file("sandgate.toml", "[sandbox]\nworkers = 1\n[limits]\ncpu = \"30s\"\n")
        .start()
        .await;
    let acme = worker_of(&live, "acme/echo").await;
    // The one that has nothing to do goes.
    let globex = worker_of(&live, "globex/echo").await;
    eventually("the first is gone", || async { !lives(acme) }).await;
    let again = worker_of(&live, "acme/echo").await;
    assert!(again != acme && live.metric("sandgate_workers 1"));
    eventually("the second is gone", || async { !lives(globex) }).await;
    // One that has something to do stays.
    let call = begun(&live, "acme/loops").await;
    eventually("the worker is busy", || async {
        live.invoke("globex/echo").send().await.summary() == "503 overloaded"
    })
    .await;
    call.abort();
    eventually("there is room again", || async { live.invoke("globex/echo").send().await.status == 200 })
        .await;
}

#[tokio::test]
async fn f30_a_worker_with_nothing_to_do_ends() {
    let live = World::with("echo", &echo())
        .isolated("acme")
        .file("sandgate.toml", "[sandbox]\nworker-idle = \"1s\"\n")
        .start()
        .await;
    let pid = worker_of(&live, "acme/echo").await;
    eventually("it ends", || async { !lives(pid) }).await;
    assert!(
        live.metric("sandgate_workers 0") && live.metric("sandgate_worker_deaths_total{kind=\"exit\"} 0")
    );
    assert_ne!(worker_of(&live, "acme/echo").await, pid);
}
