use super::*;
use crate::site::{diagnostic::Source, parse::parse_validated};

fn read(text: &str) -> Result<ServerConfig, String> {
    parse_validated(&Source::new("sandgate.toml", text))
        .map_err(|faults| faults.iter().map(|fault| fault.render(false) + "\n").collect())
}

#[test]
fn nothing_written_means_the_defaults_and_they_are_within_their_ranges() {
    assert_eq!(read("").unwrap(), ServerConfig::default());
    assert!(ServerConfig::default().validate().is_ok());
}

#[test]
fn what_is_printed_means_the_same_and_leaves_no_key_out() {
    let mut config = ServerConfig::default();
    config.audit.checkpoint_key = Some("/etc/sandgate/checkpoint.pem".into());
    config.keys.extra_roots = Some("roots.pem".into());
    config.server.max_connections = 7;
    config.server.origin = Some("https://gate.example".parse().unwrap());
    let printed = config.print();
    assert_eq!(read(&printed).unwrap(), config);
    let written: toml::Table = toml::from_str(&printed).unwrap();
    assert_eq!(written, toml::Table::try_from(&config).unwrap());
}

#[test]
fn what_is_settled_at_start_is_told_when_it_changes_and_said_where_it_is_printed() {
    let start = ServerConfig::default();
    assert_eq!(start.held_until_restart(&start), [""; 0]);
    let next = "[server]\nlisten = \"127.0.0.1:1\"\nproxies = [\"10.0.0.0/8\"]\nmax-connections = 1\n\
                [limits]\nmemory = \"1GiB\"\ncpu = \"2s\"\n[audit]\ncheckpoint-key = \"k\"\n[sandbox]\ninstances = 1\n";
    let next = read(next).unwrap();
    let held = ["server.listen", "limits.memory", "audit.checkpoint-key", "sandbox.instances"];
    assert_eq!(start.held_until_restart(&next), held);
    let back = ["server.listen", "audit.checkpoint-key", "sandbox.instances"];
    assert_eq!(next.held_until_restart(&start), back, "a smaller ceiling holds at once");

    // Where a setting is printed, its comment or its section's says the same.
    let (mut section, mut of_section, mut comments) = (String::new(), String::new(), String::new());
    let mut said = Vec::new();
    for line in start.print().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            of_section = std::mem::take(&mut comments);
        } else if let Some((key, _)) =
            line.trim_start_matches("# ").split_once(" =").filter(|(key, _)| !key.contains(' '))
        {
            let own = std::mem::take(&mut comments);
            if own.contains("A change holds at once") {
                continue;
            }
            let told = of_section.clone() + &own;
            if told.to_lowercase().contains("settled at start") || told.contains("waits for a restart") {
                said.push(format!("{section}.{key}"));
            }
        } else {
            comments.push_str(line);
        }
    }
    said.sort();
    let mut settled = SETTLED_AT_START.to_vec();
    settled.sort_unstable();
    assert_eq!(said, settled);
}

#[test]
fn all_settings() {
    insta::assert_snapshot!(ServerConfig::default().print(), @r#"
    # All settings as they are in effect. A file with these lines means the same.

    # Listeners and connections. A change holds for connections that are opened from then on.
    [server]
    # The data plane, settled at start. Loopback: nothing outside is served before somebody asks for it.
    listen = "127.0.0.1:8443"
    # Health and metrics, plain HTTP, settled at start. They tell who is served here, so they stay on loopback too.
    ops-listen = "127.0.0.1:9443"
    # Where callers find the data plane, such as `https://gate.example`: no Host header is believed about that. DPoP
    # proofs must name it, so `serve` refuses issuers of `binding = "dpop"` without it; `dev` takes `https://localhost`
    # and its port.
    # origin =
    # Connections open at once, 1 to 1000000; each may cost some 100 KiB. More wait in the kernel's queue.
    max-connections = 4096
    # Connections of one client, 1 to 1000000: an IPv4 address, or an IPv6 /64. An office behind one address has many.
    max-connections-per-client = 1024
    # TLS handshakes worked on at once, 1 to 1000000; more wait for their turn within handshake-timeout.
    max-handshakes = 512
    # Those of one client, 1 to 1000000; more are refused.
    max-handshakes-per-client = 64
    # Balancers, as networks such as "10.0.0.0/8", that say by the PROXY protocol (version 2) who their client is.
    # They must say so, and nobody else may: policies and limits believe it.
    proxies = []
    # Time for the TLS handshake, 1s to 1m: a slow client must not hold a place for nothing.
    handshake-timeout = "10s"
    # Time for a request's head, 1s to 1m: of the first one from the handshake, of others from their first byte.
    header-timeout = "10s"
    # Time that a connection stays open with nothing under way, 1s to 1h: clients reuse one within seconds.
    idle-timeout = "1m"
    # Time for a request's body to arrive, 1s to 1h: a phone on a poor line sends 64 KiB in a few seconds.
    body-timeout = "20s"
    # Bytes a second, 1B to 1MiB, at which bodies of requests must come and replies be taken once a client has kept
    # the gate waiting for 5 s: trickling holds memory.
    min-rate = "1KiB"
    # Time for a request as a whole, from its head to the end of its reply, 1s to 2h. It comes after all other
    # limits, so let it be more than body-timeout and `[limits] wall` together; the connection is cut.
    request-timeout = "2m"
    # Time that requests in flight get to finish after SIGTERM, 0ms to 10m; most supervisors kill after 30 s.
    drain = "25s"

    # Certificate chain and key of the data plane, PEM; a relative path starts at the site.
    [tls]
    # The chain, leaf first.
    certificate = "certs/server.pem"
    # Its private key: readable by its owner alone.
    key = "certs/server.key"
    # Whether a client that asks by name (SNI) for a host that neither a tenant lists nor the certificate above covers
    # is refused. No: it gets that certificate and will see for itself; balancers check health by odd names.
    strict-sni = false

    # Ceilings: no tenant and no function gets more, whatever its files say.
    [limits]
    # Thread CPU time of one invocation, 1ms to 1m.
    cpu = "1s"
    # Time on the wall of one invocation, 10ms to 30m: it holds a place in the pool that long.
    wall = "30s"
    # Memories and tables of one invocation, 64KiB to 4GiB. The pool reserves address space for the ceiling at start: what
    # is beyond that waits for a restart.
    memory = "128MiB"
    # Body of one reply, 0B to 64MiB; it is buffered whole.
    response = "8MiB"
    # Invocations of one function in flight at once, 1 to 65536.
    concurrency = 256

    # What a function gets that does not say: enough for a small one, and little to lose by a faulty one.
    [defaults]
    # Thread CPU time of one invocation.
    cpu = "50ms"
    # Time on the wall of one invocation.
    wall = "2s"
    # Memories and tables of one invocation.
    memory = "64MiB"
    # Body of one reply.
    response = "1MiB"
    # Invocations of one function in flight at once: one function must not fill the whole pool.
    concurrency = 64

    # Bodies of requests.
    [events]
    # Ceiling for `[event] max-bytes` of functions, 1B to 64MiB; a body is held in memory.
    max-bytes = "1MiB"

    # The audit chain, under the data directory. Settled at start.
    [audit]
    # "process": written before the reply's first byte, which survives `kill -9`; "machine": synced to disk first,
    # which survives loss of power and costs a disk's latency.
    durability = "process"
    # Size at which a segment is closed and the next begun, 64KiB to 1GiB: what `verify` reads at once.
    segment = "64MiB"
    # Size beyond which whole oldest segments go, 1MiB to 1024GiB. A disk that fills up stops the gate instead.
    retain = "16GiB"
    # Ed25519 key (PKCS #8, PEM) that signs checkpoints. It lies outside the data directory: who can rewrite the
    # chain must not be able to sign it. Without it there are no checkpoints, and `verify` says so.
    # checkpoint-key =

    # Key sets of issuers that are fetched over https. Settled at start.
    [keys]
    # Whether they may come from loopback, link-local and private addresses. No: whoever can write a URL into
    # tenant.toml could otherwise make the gate knock at doors inside.
    allow-private = false
    # Certificates (PEM) of further authorities that issuers' servers may have theirs from.
    # extra-roots =

    # The pool that instances come from, and what makes components of files. Settled at start.
    [sandbox]
    # Instances at once, 1 to 65536, of which no tenant holds more than it leaves. More requests are told to come again.
    instances = 512
    # Memory of all guests together, 64MiB to 16TiB, of which no tenant gets more than it leaves. Unless it is said, three
    # quarters of what the machine has, or the gateway's control group: beyond that the kernel would end the gateway.
    # memory =
    # Memory that a slot of the pool keeps after use, 0B to 16MiB, of what its guest wrote: clearing a few pages is
    # cheaper than giving them back to the kernel and faulting them in again. Python writes 2 MiB for a small call.
    # A kernel before 6.7 cannot tell what was written, and at most 64 KiB are kept.
    keep-resident = "256KiB"
    # Largest component, 1KiB to 256MiB: the time and memory of its compilation grow with it.
    component = "32MiB"
    # Whether components of `wasi:http/proxy` 0.2 are served. They reach no more than others, but more of the engine
    # stands behind what they reach; a site that has none may say no.
    portable = true
    # Where functions run: "shared", in the gateway's own process; "process", each tenant's in a worker process of its
    # own, which can reach nothing and whose end is nobody else's. A tenant.toml may ask for more than this, not for less.
    # A change holds at once: for calls that begin from then on.
    isolation = "shared"
    # Worker processes at once, 1 to 4096: one for each tenant that is isolated and called. Beyond, the one that was idle
    # for longest ends, and if none is idle, requests are told to come again.
    workers = 32
    # Instances at once in one worker process, 1 to 65536, of which no function takes more than it leaves free. The process's
    # memory is bounded by as many times `[limits] memory`.
    worker-instances = 32
    # Time without a call after which a worker process ends, 1s to 1d; the next call starts one, in some 20 ms.
    worker-idle = "5m"
    # Memory of the process that compiles one component, 64MiB to 64GiB: an interpreter of a scripting language takes 400 MiB.
    compile-memory = "1GiB"
    # Processor time of that process, 1s to 1h: such an interpreter takes 10 s.
    compile-cpu = "1m"

    # Caches. Settled at start.
    [cache]
    # Verified tokens that are kept, over all tenants, 0 to 10000000; some 2 KiB each. What falls out is verified again.
    tokens = 65536
    "#);
}

#[test]
fn a_value_out_of_range_is_told_at_its_place() {
    let text = "[server]\nlisten = \"127.0.0.1:8443\"\nbody-timeout = \"0ms\"\nmax-connections = 0\n[audit]\ndurability = \"machine\"\nretain = \"1KiB\"\n";
    insta::assert_snapshot!(read(text).unwrap_err(), @r#"
    error: `server.body-timeout` is out of its range, 1s to 1h
     --> sandgate.toml:3:16
      |
    3 | body-timeout = "0ms"
      |                ^^^^^
    error: `server.max-connections` is out of its range, 1 to 1000000
     --> sandgate.toml:4:19
      |
    4 | max-connections = 0
      |                   ^
    error: `audit.retain` is out of its range, 1MiB to 1024GiB
     --> sandgate.toml:7:10
      |
    7 | retain = "1KiB"
      |          ^^^^^^
    "#);
}

#[test]
fn a_wrong_word_is_told_with_the_right_ones() {
    insta::assert_snapshot!(read("[audit]\ndurability = \"disk\"\n[tsl]\nkey = \"k\"\n[server]\nlisten = \"localhost\"\n").unwrap_err(), @r#"
    error: `durability` cannot be `disk`
     --> sandgate.toml:2:14
      |
    2 | durability = "disk"
      |              ^^^^^^
      |
      = help: one of: `process`, `machine`
    error: unknown key `tsl`
     --> sandgate.toml:3:2
      |
    3 | [tsl]
      |  ^^^
      |
      = help: did you mean `tls`?
    error: `listen`: invalid socket address syntax
     --> sandgate.toml:6:10
      |
    6 | listen = "localhost"
      |          ^^^^^^^^^^^
    "#);
}
