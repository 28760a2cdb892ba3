//! `sandgate logs`: what goes on, as it goes on.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;

use super::{Exit, Failure, audit::Log};
use crate::{
    id::{FunctionName, RequestId, TenantName},
    record::{Filter, Follow, Shown},
};

/// Show the newest invocations and refusals, newest last, and with --follow those to come
#[derive(Debug, Args)]
#[command(after_help = "\
Read are the records of both chains, by time. `sandgate audit show` reads the same: all of them from the oldest on, with what the
chains say of themselves, and extracts that verify. `logs` begins at the end, goes back only as far as it must, and can follow.

Examples:
  sandgate logs --follow
  sandgate logs --tenant acme --function invoice --lines 20
  sandgate logs --request 0190b6d5-7c1a-7c00-9000-0123456789ab --json")]
pub(super) struct Logs {
    #[command(flatten)]
    log: Log,
    /// Go on with what is written from now on, over segments that end; looks four times a second
    #[arg(long)]
    follow: bool,
    /// Only what was asked of this tenant
    #[arg(long, value_name = "T")]
    tenant: Option<TenantName>,
    /// Only what was asked of functions of this name
    #[arg(long, value_name = "F")]
    function: Option<FunctionName>,
    /// Only this request
    #[arg(long, value_name = "ID")]
    request: Option<RequestId>,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    lines: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        match self.print(out) {
            // Whoever read has gone, as `head` does.
            Err(failure) if is_broken_pipe(&failure) => Ok(Exit::Done),
            ended => ended,
        }
    }

    fn print(self, out: &mut dyn Write) -> Result<Exit, Failure> {
        let filter = Filter {
            tenant: self.tenant,
            function: self.function,
            // A request has one record: once it is found, nothing older is looked through.
            limit: Some(self.request.map_or(self.lines, |_| 1)),
            request_id: self.request,
            since: None,
        };
        let (newest, mut follow) = Follow::open(&self.log.dir(), filter)?;
        write(out, &newest, self.json)?;
        if !self.follow {
            return Ok(if newest.is_empty() { Exit::No } else { Exit::Done });
        }
        loop {
            let turn = follow.turn()?;
            if turn.is_empty() {
                std::thread::sleep(LOOK_EVERY);
            }
            write(out, &turn, self.json)?;
        }
    }
}

fn write(out: &mut dyn Write, records: &[Shown], json: bool) -> io::Result<()> {
    for shown in records {
        writeln!(out, "{}", if json { shown.json() } else { shown.text() })?;
    }
    out.flush()
}

fn is_broken_pipe(failure: &Failure) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Soon enough for somebody who watches, and little to do: two short folders are listed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
