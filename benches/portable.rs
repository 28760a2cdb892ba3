//! The portable world beside `wasmtime serve`: the same components on the same cores, in one run.
//!
//! `cargo bench --bench portable` needs `h2load` (Debian: nghttp2-client) and, for the comparison, a `wasmtime` on the PATH or
//! at `$WASMTIME`. Ours serves over TLS with token, policy, validation and record, theirs plain HTTP/1.1 without any of it;
//! both make an instance for each request. Either is a process of its own, and they take turns, so that a machine whose speed
//! drifts slows both: the figures to quote are ratios. `PORTABLE_ONLY=count` measures one component, `PORTABLE_ROUNDS=9` more
//! often, `PORTABLE_SECONDS=1` shorter; `PORTABLE_GATE=FILE` another build of the gateway.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const CONNECTIONS: &str = "16";
/// Calls over one connection, of which the first is the cold one.
const CALLS: &str = "300";
/// Compilations of small components; of large ones, one.
const COMPILATIONS: usize = 5;

/// What theirs is tried with; it is compared at whichever is fastest for the component.
const SETTINGS: [&[&str]; 3] = [
    &[],
    &["-O", "pooling-allocator=y"],
    &[
        "-O",
        "pooling-allocator=y,pooling-memory-keep-resident=262144,pooling-table-keep-resident=16384,\
         pooling-async-stack-keep-resident=32768,pooling-pagemap-scan=auto",
    ],
];

/// A component of `tests/guests`, and what it is called with.
struct Guest {
    name: &'static str,
    media_type: &'static str,
    body: &'static str,
    /// Of its `[event]`.
    event: &'static str,
}

const GUESTS: [Guest; 4] = [
    Guest {
        name: "anything",
        media_type: "application/json",
        body: r#"{"name":"Ada"}"#,
        event: "schema = \"event.schema.json\"",
    },
    Guest {
        name: "count",
        media_type: "text/plain",
        body: "a b\nc d\n",
        event: "media-types = [\"text/plain\"]",
    },
    Guest {
        name: "javascript",
        media_type: "application/octet-stream",
        body: r#"{"target":{"a":"b"},"patch":{"a":"c"}}"#,
        event: "media-types = [\"application/octet-stream\"]",
    },
    Guest {
        name: "python",
        media_type: "application/octet-stream",
        body: "name,mass\nVenus,4.87\nEarth,5.97\n",
        event: "media-types = [\"application/octet-stream\"]",
    },
];

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags of their own.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let only = setting("PORTABLE_ONLY");
    let wanted = |guest: &&Guest| only.as_ref().is_none_or(|only| only == guest.name);
    let guests: Vec<&Guest> = GUESTS.iter().filter(wanted).filter(|guest| guest.is_built()).collect();
    compile(&guests);
    if Command::new("h2load").arg("--version").output().is_err() {
        println!("h2load is not installed (Debian: nghttp2-client): no call was measured");
        return;
    }
    let peer = peer();
    let site = Site::new(&guests);
    for guest in guests {
        cold(&site, guest, peer.as_deref());
        beside(&site, guest, peer.as_deref());
    }
}

/// How long it takes until a component is machine code: in a process of its own for each, confined.
fn compile(guests: &[&Guest]) {
    let job = json!({
        "limits": {"memory": "1GiB", "cpu": "1m", "wall": "5m"},
        "layout": {"core_modules": 32, "components": 64, "functions": 60_000, "function_bytes": 1 << 20},
        "copy_on_write": true,
    });
    let compiled = |component: &Path| {
        let began = Instant::now();
        let mut command = Command::new(gate());
        command.args(["compile-component", &job.to_string()]).env_clear().stderr(Stdio::null());
        command.stdin(fs::File::open(component).expect("a component"));
        assert!(command.output().expect("the compiler").status.success());
        began.elapsed()
    };
    let empty = tempfile::NamedTempFile::new().expect("a file");
    row(
        "compile process, started, confined, and given nothing",
        millis(median(repeat(COMPILATIONS, || compiled(empty.path())))),
    );
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/acme/hello/hello.wat");
    row("compile `hello`, 1 page of text", millis(median(repeat(COMPILATIONS, || compiled(&hello)))));
    for guest in guests {
        let bytes = fs::metadata(guest.component()).expect("a component").len();
        let times = if bytes > 1 << 20 { 1 } else { COMPILATIONS };
        let took = median(repeat(times, || compiled(&guest.component())));
        row(&format!("compile `{}`, {} KiB", guest.name, bytes >> 10), millis(took));
    }
}

/// From a new process to a reply, and what a call costs then, over one connection.
fn cold(site: &Site, guest: &Guest, peer: Option<&Path>) {
    let ours = site.serve();
    let calls = site.calls(&ours, guest);
    told_cold(guest, "sandgate, artefact stored", &ours, &calls);
    drop(ours);
    if let Some(peer) = peer {
        let theirs = Server::wasmtime(peer, guest, &[]);
        let calls = load(&theirs, guest, None, &["-n", CALLS, "-c", "1"]).micros;
        told_cold(guest, "wasmtime serve", &theirs, &calls);
    }
}

fn told_cold(guest: &Guest, who: &str, server: &Server, calls: &[u64]) {
    let (first, warm) = calls.split_first().expect("calls");
    let warm = quantile(warm, 0.5);
    row(
        &format!("`{}` at {who}: serves after · first call · warm call", guest.name),
        format!("{} · {first} µs · {warm} µs", millis(server.started)),
    );
}

/// Sixteen connections, servers in turn.
fn beside(site: &Site, guest: &Guest, peer: Option<&Path>) {
    let rounds = setting("PORTABLE_ROUNDS").map_or(5, |n| n.parse().expect("PORTABLE_ROUNDS is a number"));
    let ours = site.serve();
    let best = peer.map(|peer| fastest(peer, guest));
    let theirs = peer.zip(best).map(|(peer, best)| Server::wasmtime(peer, guest, best));
    // The first call of a component is another figure.
    site.calls(&ours, guest);
    let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        if let Some(theirs) = &theirs {
            of_theirs.push(round(theirs, guest, None));
        }
        of_ours.push(round(&ours, guest, Some(&site.token)));
    }
    let ours = Load::median_of(&of_ours);
    row(&format!("`{}` sandgate, TLS and all five steps", guest.name), ours.to_string());
    if of_theirs.is_empty() {
        println!("no `wasmtime` on the PATH or at $WASMTIME: nothing to compare with");
        return;
    }
    let theirs = Load::median_of(&of_theirs);
    let settings = best.unwrap_or_default().join(" ");
    row(&format!("`{}` wasmtime serve {settings}", guest.name), theirs.to_string());
    row(
        &format!("`{}` ratio: requests a second · CPU time of a request", guest.name),
        format!("{:.2} · {:.2}", ours.rate / theirs.rate, ours.cpu / theirs.cpu),
    );
}

fn round(server: &Server, guest: &Guest, token: Option<&str>) -> Load {
    let seconds = setting("PORTABLE_SECONDS").unwrap_or_else(|| "4".to_owned());
    load(server, guest, token, &["-c", CONNECTIONS, "-D", &seconds, "--warm-up-time", "1"])
}

/// Which settings suit this component best.
fn fastest(peer: &Path, guest: &Guest) -> &'static [&'static str] {
    let rate = |settings: &&&[&str]| round(&Server::wasmtime(peer, guest, settings), guest, None).rate;
    let measured = SETTINGS.iter().map(|settings| (rate(&settings), *settings));
    measured.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, settings)| settings).unwrap_or_default()
}

/// What one run of `h2load` said.
#[derive(Default)]
struct Load {
    /// Requests a second.
    rate: f64,
    /// The server's CPU time for one request, in microseconds.
    cpu: f64,
    p50: u64,
    p99: u64,
    /// From request to reply, in order.
    micros: Vec<u64>,
}

impl Load {
    fn median_of(rounds: &[Self]) -> Self {
        let middle = |figure: &dyn Fn(&Self) -> f64| median(rounds.iter().map(figure).collect());
        Self {
            rate: middle(&|round| round.rate),
            cpu: middle(&|round| round.cpu),
            p50: middle(&|round| round.p50 as f64) as u64,
            p99: middle(&|round| round.p99 as f64) as u64,
            micros: Vec::new(),
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rate, cpu, p50, p99, .. } = self;
        write!(f, "{rate:8.0} req/s  {cpu:6.1} µs of CPU each  p50 {p50} µs  p99 {p99} µs")
    }
}

/// Calls with one body, counted only if every one of them was answered well.
fn load(server: &Server, guest: &Guest, token: Option<&str>, how: &[&str]) -> Load {
    let folder = tempfile::tempdir().expect("a folder");
    let (body, log) = (folder.path().join("body"), folder.path().join("log"));
    fs::write(&body, guest.body).expect("a body");
    let mut command = Command::new("h2load");
    command.args(["--h1", "-t", "1", "-H", &format!("content-type: {}", guest.media_type)]).args(how);
    command.arg("-d").arg(&body).arg("--log-file").arg(&log);
    let url = match token {
        Some(token) => {
            command.args(["-H", &format!("authorization: Bearer {token}")]);
            format!("https://{}/acme/{}", server.address, guest.name)
        }
        None => format!("http://{}/", server.address),
    };
    let before = server.cpu();
    let Output { stdout, .. } = command.arg(url).output().expect("h2load runs");
    let cpu = server.cpu() - before;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let log = fs::read_to_string(&log).expect("a log");
    let calls: Vec<(&str, u64)> = log
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t').skip(1);
            Some((columns.next()?, columns.next()?.parse().ok()?))
        })
        .collect();
    assert!(!calls.is_empty() && calls.iter().all(|(status, _)| *status == "200"), "{text}");
    let finished = text.lines().find(|line| line.contains("finished in")).unwrap_or_default();
    let rate = finished.split(", ").nth(1).and_then(|rate| rate.trim_end_matches(" req/s").parse().ok());
    let micros: Vec<u64> = calls.iter().map(|(_, micros)| *micros).collect();
    Load {
        rate: rate.expect("a rate"),
        // Those of the warm-up are logged too, and were paid for.
        cpu: cpu.as_secs_f64() * 1e6 / micros.len() as f64,
        p50: quantile(&micros, 0.5),
        p99: quantile(&micros, 0.99),
        micros,
    }
}

/// The repository's own site with the guests as functions of `acme`, and a token for it.
struct Site {
    dir: tempfile::TempDir,
    token: String,
}

impl Site {
    fn new(guests: &[&Guest]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (root, to) = (Path::new(env!("CARGO_MANIFEST_DIR")), dir.path());
        for folder in ["policies", "functions"] {
            copy(&root.join(folder), &to.join(folder));
        }
        let mut policies = String::new();
        for guest in guests {
            let Guest { name, event, .. } = guest;
            let folder = to.join("functions/acme").join(name);
            fs::create_dir_all(&folder).expect("a folder");
            fs::copy(guest.component(), folder.join("component.wasm")).expect("a component");
            fs::copy(to.join("functions/acme/hello/event.schema.json"), folder.join("event.schema.json"))
                .expect("a schema");
            let manifest = format!(
                "component = \"component.wasm\"\nmethods = [\"POST\"]\n[event]\n{event}\n[limits]\ncpu = \"500ms\"\n"
            );
            fs::write(folder.join("function.toml"), manifest).expect("a manifest");
            policies += &format!(
                "// Serves the bench.\n@id(\"{name}-any\")\n@hint(\"any role\")\npermit (principal in Tenant::\"acme\", \
                 action == Action::\"invoke\", resource == Function::\"acme/{name}\");\n"
            );
        }
        fs::write(to.join("policies/acme/guests.cedar"), policies).expect("policies");
        let mut site = Self { dir, token: String::new() };
        // Keys and artefacts are made at the first start.
        let began = site.serve();
        row("gateway with all of them, nothing stored: serves after", millis(began.started));
        drop(began);
        site.token = site.mint();
        row("  everything stored", millis(median(repeat(COMPILATIONS, || site.serve().started))));
        site
    }

    fn serve(&self) -> Server {
        let mut command = Command::new(gate());
        command.args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"]);
        Server::sandgate(command.arg(self.dir.path()))
    }

    fn mint(&self) -> String {
        let mut command = Command::new(gate());
        command.args([
            "token",
            "mint",
            "--tenant",
            "acme",
            "--subject",
            "alice",
            "--role",
            "invoker",
            "--ttl",
            "1h",
        ]);
        let minted = command.arg("--site").arg(self.dir.path()).output().expect("a token").stdout;
        String::from_utf8(minted).expect("a token").trim().to_owned()
    }

    /// One after another, the component's first call among them but not the token's.
    fn calls(&self, server: &Server, guest: &Guest) -> Vec<u64> {
        let hello =
            Guest { name: "hello", media_type: "application/json", body: r#"{"name":"Ada"}"#, event: "" };
        load(server, &hello, Some(&self.token), &["-n", CALLS, "-c", "1"]);
        load(server, guest, Some(&self.token), &["-n", CALLS, "-c", "1"]).micros
    }
}

/// A server in a process of its own, which ends with this.
struct Server {
    child: Child,
    address: SocketAddr,
    /// From the start of the process until it serves.
    started: Duration,
}

impl Server {
    fn sandgate(command: &mut Command) -> Self {
        let began = Instant::now();
        let child = command.env_remove("RUST_BACKTRACE").stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.expect("the gateway starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| {
            let event: Value = serde_json::from_str(&line).ok()?;
            event.get("fields")?.get("address")?.as_str()?.parse().ok()
        });
        let started = began.elapsed();
        // It goes on logging, and a full pipe would hold it back.
        thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("the gateway serves"), started }
    }

    fn wasmtime(program: &Path, guest: &Guest, settings: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a port");
        let began = Instant::now();
        let mut command = Command::new(program);
        command
            .args(["serve", "-S", "cli", "--addr", &address.to_string()])
            .args(settings)
            .arg(guest.component());
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("wasmtime starts");
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(120), "wasmtime serves");
            // It tells nobody when it listens; a millisecond is the error of `started`.
            thread::sleep(Duration::from_millis(1));
        }
        Self { child, address, started: began.elapsed() }
    }

    /// User and system time of all its threads; the kernel counts in hundredths of a second.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a running server");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What is left of either is of no interest.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Guest {
    fn component(&self) -> PathBuf {
        let Self { name, .. } = self;
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}/{name}.wasm"))
    }

    /// Those of scripting languages are too large to be committed.
    fn is_built(&self) -> bool {
        let built = self.component().is_file();
        if !built {
            println!("`{0}` was not built: `functions/build.sh guests/{0}`", self.name);
        }
        built
    }
}

fn gate() -> PathBuf {
    setting("PORTABLE_GATE").unwrap_or_else(|| env!("CARGO_BIN_EXE_sandgate").to_owned()).into()
}

fn peer() -> Option<PathBuf> {
    let program = PathBuf::from(setting("WASMTIME").unwrap_or_else(|| "wasmtime".to_owned()));
    let version = Command::new(&program).arg("--version").output().ok()?;
    print!("beside {}", String::from_utf8_lossy(&version.stdout));
    Some(program)
}

#[expect(clippy::disallowed_methods, reason = "the bench's own settings are of no concern to the gateway")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder of the sample") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a file");
        }
    }
}

fn repeat<T>(times: usize, mut measure: impl FnMut() -> T) -> Vec<T> {
    (0..times).map(|_| measure()).collect()
}

fn median<T: PartialOrd + Copy + Default>(mut figures: Vec<T>) -> T {
    figures.sort_by(|a, b| a.partial_cmp(b).expect("figures that compare"));
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn quantile(figures: &[u64], at: f64) -> u64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable();
    let last = figures.len().saturating_sub(1);
    figures.get((last as f64 * at).round() as usize).copied().unwrap_or_default()
}

fn row(what: &str, figure: String) {
    println!("{what:<70} {figure}");
}

fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1e3)
}
