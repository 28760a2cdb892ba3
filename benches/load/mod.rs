//! `h2load` against the sample, beside the process that serves it.

use std::{io::Write as _, net::SocketAddr, process::Command};

use crate::figures::{ROUNDS, cpu, median};

const CONNECTIONS: &str = "16";
const SECONDS: &str = "4";
const WARM_UP_SECONDS: &str = "1";

/// The protocols that are measured, as `h2load` is told of them.
pub(crate) const PROTOCOLS: [&str; 2] = ["--h1", "--max-concurrent-streams=1"];

/// Whether `h2load` is there; says so if not.
pub(crate) fn has_h2load() -> bool {
    let there = Command::new("h2load").arg("--version").output().is_ok();
    if !there {
        println!("h2load is not installed (Debian: nghttp2-client): nothing measured");
    }
    there
}

/// One call, again and again.
pub(crate) struct Calls {
    url: String,
    token: String,
    event: tempfile::NamedTempFile,
    process: u32,
}

/// What they came to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// CPU time of the process that serves for each of them, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Medians of rounds in which all took turns.
pub(crate) async fn in_turn<const N: usize>(protocol: &str, all: [&Calls; N]) -> [Load; N] {
    let mut rounds = [const { Vec::new() }; N];
    for calls in all {
        calls.load(protocol, WARM_UP_SECONDS).await;
    }
    for _ in 0..ROUNDS {
        for (calls, rounds) in all.iter().zip(&mut rounds) {
            rounds.push(calls.load(protocol, SECONDS).await);
        }
    }
    rounds.map(|rounds| Load {
        rate: median(rounds.iter().map(|load| load.rate)),
        cpu_us: median(rounds.iter().map(|load| load.cpu_us)),
    })
}

impl Calls {
    /// Calls of `acme/hello` at the gate, or at what answers in its stead, by this process.
    pub(crate) fn new(address: SocketAddr, token: &str, process: u32) -> Self {
        let mut event = tempfile::NamedTempFile::new().expect("a file");
        event.write_all(br#"{"name":"Ada"}"#).expect("an event");
        Self { url: format!("https://{address}/acme/hello"), token: token.to_owned(), event, process }
    }

    async fn load(&self, protocol: &str, seconds: &str) -> Load {
        let mut command = tokio::process::Command::new("h2load");
        command
            .args([protocol, "-c", CONNECTIONS, "-t", "1", "-D", seconds])
            .args([
                "-H",
                &format!("authorization: Bearer {}", self.token),
                "-H",
                "content-type: application/json",
            ])
            .arg("-d")
            .arg(self.event.path())
            .arg(&self.url);
        let before = cpu(self.process);
        let out = command.output().await.expect("h2load runs");
        let spent = cpu(self.process) - before;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let field =
            |label: &str| text.lines().find(|l| l.contains(label)).map(str::to_owned).unwrap_or_default();
        let requests = field("requests:");
        assert!(requests.contains(" 0 failed") && field("status codes:").contains(" 0 4xx, 0 5xx"), "{text}");
        let count: f64 = requests.split(' ').find_map(|word| word.parse().ok()).expect("a count");
        let finished = field("finished in");
        let rate = finished.split(", ").nth(1).and_then(|rate| rate.trim_end_matches(" req/s").parse().ok());
        Load { rate: rate.expect("a rate"), cpu_us: spent.as_secs_f64() * 1e6 / count }
    }
}
