//! `sandgate dev`: the gateway on one's own machine, with a call that works.

use std::io::Write;

use clap::Args;

use super::{
    Exit, Failure,
    serve::{Place, serve},
    token::mint_sample,
};
use crate::{http::health::Mode, server::Running};

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
        serve(self.place.options(Mode::Development, false), err, |running, _| {
            writeln!(
                out,
                "DEVELOPMENT: keys and certificates of this machine, under certs/dev/; not for production"
            )?;
            writeln!(out, "functions  https://localhost:{}", running.address.port())?;
            writeln!(out, "health     http://{}/readyz", running.ops_address)?;
            match curl_line(&dir, running) {
                Ok(line) => writeln!(
                    out,
                    "\nTry (valid for 15 minutes; `sandgate token mint` makes another):\n\n{line}\n"
                )?,
                Err(reason) => writeln!(out, "\nNo example of a call: {reason}")?,
            }
            out.flush()?;
            Ok(())
        })
    }
}

/// A call that the site's own policy tests say is allowed, with the first example of the function's schema.
fn curl_line(dir: &std::path::Path, running: &Running) -> Result<String, Failure> {
    let (tenant, call, token) = mint_sample(dir)?;
    let revision = running.gateway.revision();
    let tenant = revision.tenant(&tenant)?;
    let function = tenant.function(&call.function.parse()?)?;
    let mut line = format!(
        "curl --cacert {} https://localhost:{}/{}",
        quoted(&dir.join("certs/dev/ca.pem").display().to_string()),
        running.address.port(),
        function.id
    );
    if call.method != "POST" {
        line.push_str(&format!(" -X {}", call.method));
    }
    line.push_str(&format!(" -H 'authorization: Bearer {token}'"));
    if function.events.takes_cloudevents() {
        let mode = "-H 'ce-specversion: 1.0' -H 'ce-id: 1' -H 'ce-source: /dev' -H 'ce-type: example.dev'";
        line.push_str(&format!(" {mode}"));
    }
    let example = function.events.schema().and_then(|schema| schema.get("examples")?.get(0));
    if let Some(example) = example {
        line.push_str(&format!(" -H 'content-type: application/json' -d {}", quoted(&example.to_string())));
    }
    Ok(line)
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_');
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
