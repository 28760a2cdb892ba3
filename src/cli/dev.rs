//! `sandgate dev`: the gateway on one's own machine, with a call that works.

use std::{io::Write, net::SocketAddr, path::Path};

use clap::Args;

use super::{
    Exit, Failure,
    serve::{Place, serve},
    token::mint_sample,
};
use crate::{
    http::health::Mode,
    id::FunctionId,
    server::Running,
    site::{self, host::HostName},
    tls::Host,
};

/// Serve on loopback for local work, after making the keys and certificates that are missing
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sandgate dev --site .",
    mut_arg("listen", |arg| arg.help("Address of the data plane, on loopback [default: `[server] listen`, 127.0.0.1:8443]")),
    mut_arg("ops_listen", |arg| arg.help("Address of the ops listener, on loopback [default: `[server] ops-listen`, 127.0.0.1:9443]")),
    mut_arg("data", |arg| arg.help("The data directory [default: `.sandgate` in the site]")),
)]
pub(super) struct Dev {
    #[command(flatten)]
    place: Place,
}

impl Dev {
    pub(super) fn run(self, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit, Failure> {
        let dir = self.place.site.site.clone();
        serve(self.place.options(Mode::Development, false)?, err, |running, _| {
            writeln!(
                out,
                "DEVELOPMENT: keys and certificates of this machine, under certs/dev/; not for production"
            )?;
            let port = running.address.port();
            writeln!(out, "functions  https://localhost:{port}")?;
            let revision = running.gateway.revision();
            let mut hosts: Vec<_> = revision.hosts().collect();
            hosts.sort_by_key(|host| host.name().clone());
            for host in hosts.iter().take(MAX_HOSTS) {
                writeln!(out, "{:<10} https://{}:{port}", host.tenant().as_str(), host.name())?;
            }
            if hosts.len() > MAX_HOSTS {
                writeln!(out, "{:<10} {} more hosts", "", hosts.len() - MAX_HOSTS)?;
            }
            writeln!(out, "health     http://{}/readyz", running.ops_address)?;
            match Example::of(&dir, running) {
                Ok(example) => {
                    let by_path = example.by_path();
                    writeln!(
                        out,
                        "\nTry (valid for 15 minutes; `sandgate token mint` makes another):\n\n{by_path}\n"
                    )?;
                    if let Some(host) = hosts.iter().find(|host| example.is_served_by(host)) {
                        writeln!(
                            out,
                            "The same by its tenant's own name:\n\n{}\n",
                            example.by_host(host.name())
                        )?;
                    }
                }
                Err(reason) => writeln!(out, "\nNo example of a call: {reason}")?,
            }
            out.flush()?;
            Ok(())
        })
    }
}

/// A call that the site's own policy tests say is allowed, with the first example of the function's schema.
struct Example {
    authority: String,
    address: SocketAddr,
    function: FunctionId,
    /// Of `curl`, after the URL.
    arguments: String,
}

impl Example {
    fn of(dir: &Path, running: &Running) -> Result<Self, Failure> {
        let (tenant, call, token) = mint_sample(dir)?;
        let revision = running.gateway.revision();
        let tenant = revision.tenant(&tenant)?;
        let function = tenant.function(&call.function.parse()?)?;
        let mut arguments = String::new();
        if call.method != "POST" {
            arguments.push_str(&format!(" -X {}", call.method));
        }
        arguments.push_str(&format!(" -H 'authorization: Bearer {token}'"));
        if function.events.takes_cloudevents() {
            let mode =
                "-H 'ce-specversion: 1.0' -H 'ce-id: 1' -H 'ce-source: /dev' -H 'ce-type: example.dev'";
            arguments.push_str(&format!(" {mode}"));
        }
        let example = function.events.schema().and_then(|schema| schema.get("examples")?.get(0));
        if let Some(example) = example {
            let body = quoted(&example.to_string());
            arguments.push_str(&format!(" -H 'content-type: application/json' -d {body}"));
        }
        Ok(Self {
            authority: quoted(&dir.join(site::dev::DIRECTORY).join("ca.pem").display().to_string()),
            address: running.address,
            function: function.id.clone(),
            arguments,
        })
    }

    fn by_path(&self) -> String {
        let Self { authority, address, function, arguments } = self;
        format!("curl --cacert {authority} https://localhost:{}/{function}{arguments}", address.port())
    }

    /// Whether it works there without a certificate of the client's.
    fn is_served_by(&self, host: &Host) -> bool {
        *host.tenant() == self.function.tenant && !host.needs_certificate()
    }

    /// On a workbench no DNS knows the name.
    fn by_host(&self, host: &HostName) -> String {
        let Self { authority, address, function, arguments } = self;
        let (ip, port, name) = (address.ip(), address.port(), &function.function);
        format!(
            "curl --resolve {host}:{port}:{ip} --cacert {authority} https://{host}:{port}/{name}{arguments}"
        )
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_');
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Shown, of many.
const MAX_HOSTS: usize = 16;
