//! The sample site, served by the gateway's own binary: a bench that links no gateway is linked in seconds.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::sample;

/// `sandgate dev` on a copy of the sample site, until this is dropped.
pub(crate) struct Gate {
    child: Child,
    /// The line to try that it printed.
    curl: String,
    _site: tempfile::TempDir,
}

impl Gate {
    /// Starts one, with these variables in its environment.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let site = sample::site();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandgate"))
            .args(["dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--site"])
            .arg(site.path())
            .envs(variables.iter().copied())
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let curl =
            out.lines().map_while(Result::ok).find(|line| line.starts_with("curl ")).expect("a line to try");
        Self { child, curl, _site: site }
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        let port = self.said("https://localhost:", '/').parse().expect("a port");
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// What the line to try has between this and that.
    pub(crate) fn said(&self, after: &str, before: char) -> &str {
        let (_, rest) = self.curl.split_once(after).expect("a line to try");
        rest.split(before).next().unwrap_or_default()
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
