//! Ten thousand tenants of ten functions beside a site of one tenant: start, memory, latency, cold calls, reload.
//!
//! `env -u RUST_BACKTRACE cargo bench --bench scale` takes some minutes; `SCALE_TENANTS=100` some seconds. The gateway's own
//! binary serves, in processes of its own, so that start, CPU time and resident memory are what an operator would see;
//! what is called is called by one client over one kept connection, the two sites in turn. `SCALE_SITES=DIR` makes the
//! sites there and keeps them. `SCALE_UNLIKE=1` gives every tenant texts of its own where tenants otherwise have the
//! same: manifests and schemas.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

const FUNCTIONS: usize = 10;
/// Tenants that calls are spread over.
const CALLED: usize = 1_000;
/// Rounds of calls; each has one call for every called tenant, on either site.
const ROUNDS: usize = 9;
/// Cold functions of either size.
const COLD: usize = 50;
const RELOADS: usize = 5;
const HELLO: &str = include_str!("../functions/acme/hello/hello.wat");
const SCHEMA: &str = include_str!("../functions/acme/hello/event.schema.json");
const BODY: &[u8] = br#"{"name":"Ada Lovelace"}"#;

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags of their own.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let count = setting("SCALE_TENANTS").map_or(10_000, |n| n.parse().expect("SCALE_TENANTS is a number"));
    let temporary = tempfile::tempdir().expect("a folder");
    let root = setting("SCALE_SITES").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&root, count));
}

#[expect(clippy::disallowed_methods, reason = "the bench's own settings are of no concern to the gateway")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn measure(root: &Path, count: usize) {
    let many = Site::new(root.join("many"));
    let tenants: Vec<Tenant> = (0..count.max(1)).map(|n| many.tenant(&format!("t{n:05}"))).collect();
    let cold = many.cold();
    let one = Site::new(root.join("one"));
    let only = one.tenant("t00000");

    // Compiles what is not yet stored: a start from a store is what is measured.
    let store = root.join("data-many");
    let prime = Site::new(root.join("prime"));
    prime.tenant("t00000");
    prime.cold();
    prime.serve(&store).stop();

    let mut gate = many.serve(&store);
    row("tenants × functions", format!("{count} × {FUNCTIONS}"));
    row("start, until it serves", seconds(gate.started));
    row("  of both cores' time", seconds(gate.cpu_at_start));
    row("resident after start", mib(gate.resident("VmRSS")));
    row("  at most until then", mib(gate.resident("VmHWM")));
    if count * (FUNCTIONS + 2) > 1_000 {
        // Of a large site the folders beyond the first are watched on the side, and then it is looked at once more.
        let settled = gate.wait_for("a revision is in force");
        row("  every folder watched and looked at again", seconds(settled - gate.spawned));
        row("  resident then", mib(gate.resident("VmRSS")));
    }

    let small = one.serve(&root.join("data-one"));
    let called: Vec<&Tenant> = tenants.iter().step_by((count / CALLED).max(1)).take(CALLED).collect();
    let (mut to_many, mut to_one) = (many.connect(&gate).await, one.connect(&small).await);
    for (n, tenant) in called.iter().enumerate() {
        call(&mut to_many, tenant, n % FUNCTIONS).await;
        call(&mut to_one, &only, n % FUNCTIONS).await;
    }
    row(&format!("resident after {} tenants were called", called.len()), mib(gate.resident("VmRSS")));
    let (mut of_many, mut of_one) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        (to_many, to_one) = (many.connect(&gate).await, one.connect(&small).await);
        for (n, tenant) in called.iter().enumerate() {
            of_many.push(call(&mut to_many, tenant, n % FUNCTIONS).await);
            of_one.push(call(&mut to_one, &only, n % FUNCTIONS).await);
        }
    }
    let (p50_many, p50_one) = (quantile(&mut of_many, 0.5), quantile(&mut of_one, 0.5));
    row(&format!("p50 of a call, spread over {} tenants", called.len()), micros(p50_many));
    row("p50 of a call, site of one tenant", micros(p50_one));
    row("  ratio", format!("{:.3}", p50_many.as_secs_f64() / p50_one.as_secs_f64()));
    let (p99_many, p99_one) = (quantile(&mut of_many, 0.99), quantile(&mut of_one, 0.99));
    row("p99, many · one", format!("{} · {}", micros(p99_many), micros(p99_one)));
    small.stop();

    let mut to_many = many.connect(&gate).await;
    // So that the tenant's token is known, and its first decision made.
    call_path(&mut to_many, &cold, "cold/first").await;
    for (kind, what) in [("small", "artefact of the sample's `hello`"), ("large", "artefact near 1 MiB")] {
        let mut first = Vec::new();
        for n in 0..COLD {
            first.push(call_path(&mut to_many, &cold, &format!("cold/{kind}{n}")).await);
        }
        let (p50, p95) = (quantile(&mut first, 0.5), quantile(&mut first, 0.95));
        row(
            &format!("first call of a cold function, {what}, p50 · p95"),
            format!("{} · {}", micros(p50), micros(p95)),
        );
    }
    row("  largest artefact stored", mib(largest(&store.join("artefacts"))));

    let (mut waited, mut spent) = (Vec::new(), Vec::new());
    for n in 0..RELOADS {
        let before = gate.cpu();
        let changed = Instant::now();
        let policies = many.dir.join("policies/t00000/policies.cedar");
        let text = fs::read_to_string(&policies).expect("policies");
        fs::write(&policies, format!("{text}// change {n}\n")).expect("policies");
        waited.push(gate.wait_for("a revision is in force") - changed);
        spent.push(gate.cpu() - before);
    }
    row("one tenant changed: from write to swap, p50", seconds(quantile(&mut waited, 0.5)));
    row("  of both cores' time", seconds(quantile(&mut spent, 0.5)));
    row(
        "resident at the end · at most",
        format!("{} · {}", mib(gate.resident("VmRSS")), mib(gate.resident("VmHWM"))),
    );
    gate.stop();
}

/// A site in the making.
struct Site {
    dir: PathBuf,
    certificate: String,
}

/// One that may call.
struct Tenant {
    name: String,
    token: String,
}

impl Site {
    /// The sample's schema and guardrails, and a certificate.
    fn new(dir: PathBuf) -> Self {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        for file in ["schema.cedarschema", "guardrails.cedar"] {
            write(
                &dir.join("policies").join(file),
                fs::read(sample.join(file)).expect("the sample's policies"),
            );
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let certificate = made.cert.pem();
        write(&dir.join("certs/server.pem"), &certificate);
        write(&dir.join("certs/server.key"), made.signing_key.serialize_pem());
        Self { dir, certificate }
    }

    /// A tenant with an issuer, a key and ten functions of its own. They share the tenant's one copy of the component.
    fn tenant(&self, name: &str) -> Tenant {
        let tenant = self.callers(name, (0..FUNCTIONS).map(|n| format!("f{n}")));
        let own = if setting("SCALE_UNLIKE").is_some() { name } else { "all" };
        let shared = self.dir.join("functions").join(name).join("hello.wat");
        if shared.exists() {
            return tenant;
        }
        write(&shared, HELLO);
        for n in 0..FUNCTIONS {
            let folder = self.dir.join(format!("functions/{name}/f{n}"));
            write(&folder.join("function.toml"), manifest(&format!("Function {n} of {own}"), "hello.wat"));
            write(
                &folder.join("event.schema.json"),
                SCHEMA.replace("Whom to greet", &format!("Event {n} of {own}")),
            );
            fs::hard_link(&shared, folder.join("hello.wat")).expect("a link");
        }
        tenant
    }

    /// Functions that each have a component of their own.
    fn cold(&self) -> Tenant {
        let names = (0..COLD).flat_map(|n| [format!("small{n}"), format!("large{n}")]);
        let tenant = self.callers("cold", names.chain(["first".to_owned()]));
        let add = |name: String, component: Vec<u8>| {
            let folder = self.dir.join("functions/cold").join(&name);
            write(&folder.join("function.toml"), manifest(&name, "hello.wasm"));
            write(&folder.join("event.schema.json"), SCHEMA);
            write(&folder.join("hello.wasm"), component);
        };
        add("first".to_owned(), padded(COLD, 0));
        for n in 0..COLD {
            add(format!("small{n}"), padded(n, 0));
            add(format!("large{n}"), padded(n, 1_150));
        }
        tenant
    }

    /// The operator's and the tenant's files under `policies/`: one policy a function.
    fn callers(&self, name: &str, functions: impl Iterator<Item = String>) -> Tenant {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let (x, y) = pair.public_key().as_ref().get(1..).expect("an uncompressed point").split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": name, "x": encode(x), "y": encode(y)});
        let folder = self.dir.join("policies").join(name);
        write(&folder.join("jwks.json"), json!({"keys": [key]}).to_string());
        let (issuer, audience) =
            (format!("https://idp.{name}.example"), format!("https://gate.example/{name}"));
        write(
            &folder.join("tenant.toml"),
            format!(
                "name = \"{name}\"\n[[issuers]]\nissuer = \"{issuer}\"\naudiences = [\"{audience}\"]\n\
                 algorithms = [\"ES256\"]\nkeys = \"jwks.json\"\nroles = \"/roles\"\nscopes = \"/scope\"\n"
            ),
        );
        let mut policies = String::new();
        for function in functions {
            // Writing to a String cannot fail.
            let _ = write!(
                policies,
                "// Serves whoever may try things out.\n@id(\"{function}-invoker\")\n@hint(\"wants role `invoker`\")\npermit (\n  \
                 principal in Role::\"{name}/invoker\",\n  action == Action::\"invoke\",\n  \
                 resource == Function::\"{name}/{function}\"\n)\nwhen {{ principal.scopes.contains(\"call\") }};\n\n"
            );
        }
        write(&folder.join("policies.cedar"), policies);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let claims = json!({
            "iss": issuer, "aud": audience, "sub": "alice", "iat": now, "exp": now + 7200, "jti": "1",
            "roles": ["invoker"], "scope": "call",
        });
        let segment = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!(
            "{}.{}",
            segment(&json!({"alg": "ES256", "typ": "at+jwt", "kid": name})),
            segment(&claims)
        );
        let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        Tenant { name: name.to_owned(), token: format!("{message}.{}", encode(signature.as_ref())) }
    }

    /// The gateway's own binary, on free ports.
    fn serve(&self, data: &Path) -> Gate {
        let spawned = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"])
            .arg(&self.dir)
            .arg("--data")
            .arg(data)
            .env_remove("RUST_BACKTRACE")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the gateway starts");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match serde_json::from_str::<Value>(&line) {
                    Ok(event) => _ = sender.send((Instant::now(), event)),
                    Err(_) => println!("{line}"),
                }
            }
        });
        let mut gate = Gate {
            child,
            log,
            spawned,
            started: Duration::ZERO,
            cpu_at_start: Duration::ZERO,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        gate.started = gate.wait_for("serving") - spawned;
        gate.cpu_at_start = gate.cpu();
        gate
    }

    async fn connect(&self, gate: &Gate) -> SendRequest<Full<Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate"))
            .expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(gate.address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender
    }
}

/// A gateway in a process of its own.
struct Gate {
    child: Child,
    log: mpsc::Receiver<(Instant, Value)>,
    spawned: Instant,
    started: Duration,
    cpu_at_start: Duration,
    address: SocketAddr,
}

impl Gate {
    /// When it logged this message; what went wrong before is shown.
    fn wait_for(&mut self, message: &str) -> Instant {
        loop {
            let (at, event) =
                self.log.recv_timeout(Duration::from_secs(300)).expect("the gateway logs in time");
            let fields = event.get("fields").cloned().unwrap_or_default();
            let said = |key: &str| fields.get(key).and_then(Value::as_str);
            if said("message") == Some(message) {
                if let Some(address) = said("address") {
                    self.address = address.parse().expect("an address");
                }
                return at;
            }
            if event.get("level").and_then(Value::as_str) != Some("INFO") {
                println!("{event}");
            }
        }
    }

    /// User and system time of all its threads; the kernel counts in hundredths of a second.
    fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    fn resident(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(key)).expect("a line of /proc");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") << 10
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("a running gateway")
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.child.wait().expect("an end");
    }
}

async fn call(to: &mut SendRequest<Full<Bytes>>, tenant: &Tenant, function: usize) -> Duration {
    call_path(to, tenant, &format!("{}/f{function}", tenant.name)).await
}

/// From the request's first byte to the reply's last.
async fn call_path(to: &mut SendRequest<Full<Bytes>>, tenant: &Tenant, path: &str) -> Duration {
    let request = Request::post(format!("/{path}"))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {}", tenant.token))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(BODY)))
        .expect("a request");
    let began = Instant::now();
    to.ready().await.expect("a kept connection");
    let reply = to.send_request(request).await.expect("a reply");
    let status = reply.status();
    let body = reply.into_body().collect().await.expect("a body").to_bytes();
    let took = began.elapsed();
    assert!(status.is_success(), "{path}: {status} {body:?}");
    took
}

fn manifest(summary: &str, component: &str) -> String {
    format!(
        "component = \"{component}\"\nmethods = [\"POST\"]\nsummary = \"{summary}\"\n\n[event]\n\
         schema = \"event.schema.json\"\nmax-bytes = \"4KiB\"\n\n[limits]\ncpu = \"10ms\"\nwall = \"500ms\"\n\
         memory = \"1MiB\"\nresponse = \"8KiB\"\n"
    )
}

/// The sample's `hello`, unlike any other by what is never called in it: so many functions of some 900 B of machine code.
fn padded(own: usize, functions: usize) -> Vec<u8> {
    let mut code = format!("(func (result i32) (i32.const {own}))");
    for f in 0..functions {
        code.push_str("(func (param i32) (result i32) (local.get 0)");
        for k in 0..40 {
            let _ = write!(code, "(i32.mul (i32.const {}))(i32.load offset={k})", own + f * 40 + k);
        }
        code.push(')');
    }
    let memory = "(memory (export \"memory\") 1)";
    wat::parse_str(HELLO.replace(memory, &format!("{memory} {code}"))).expect("a component")
}

fn largest(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("artefacts");
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).max().unwrap_or_default()
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

fn quantile(figures: &mut [Duration], at: f64) -> Duration {
    figures.sort();
    let last = figures.len().saturating_sub(1);
    figures.get((last as f64 * at).round() as usize).copied().unwrap_or_default()
}

fn row(what: &str, figure: String) {
    println!("{what:<75} {figure}");
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

fn micros(span: Duration) -> String {
    format!("{} µs", span.as_micros())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
