//! The command line: one file a command. A command writes what it found to `out`, what went wrong to `err`.

mod audit;
mod block;
mod check;
mod compile_component;
mod corpus;
mod dev;
mod doctor;
mod function;
mod logs;
mod openapi;
mod policy;
mod serve;
mod site;
pub mod token;
mod worker;

use std::{ffi::OsString, io::Write, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: the answer is no.
    No,
    /// 2: wrong usage, or an environment in which it cannot be done.
    Unable,
}

/// What a command could not do: printed as it stands, with its causes.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One door for many tenants' functions: authenticate, authorize, validate, and run in a Wasm sandbox
#[derive(Debug, Parser)]
#[command(name = "sandgate", version, about, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Serve(serve::Serve),
    Check(check::Check),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    Policy(policy::Policy),
    #[command(subcommand)]
    Function(function::Function),
    Openapi(openapi::Openapi),
    #[command(subcommand)]
    Audit(audit::Audit),
    Logs(logs::Logs),
    Block(block::Block),
    Unblock(block::Unblock),
    Corpus(corpus::Corpus),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    CompileComponent(compile_component::CompileComponent),
    #[command(hide = true)]
    Worker(worker::Worker),
}

/// The site that a command works on.
#[derive(Debug, Args)]
struct SiteArg {
    /// Directory of the site
    #[arg(long, value_name = "DIR", default_value = ".")]
    site: PathBuf,
}

/// Parses the arguments and runs the command; gives the process's exit code.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => {
            let text = usage.render();
            // `--help` and `--version` are answers; anything else is wrong usage.
            if usage.use_stderr() {
                let _ = write!(err, "{text}");
                return 2;
            }
            let _ = write!(out, "{text}");
            return 0;
        }
    };
    let ended = match cli.command {
        Command::Dev(command) => command.run(out, err),
        Command::Serve(command) => command.run(out, err),
        Command::Check(command) => command.run(out),
        Command::Token(command) => command.run(out),
        Command::Policy(command) => command.run(out),
        Command::Function(command) => command.run(out),
        Command::Openapi(command) => command.run(out),
        Command::Audit(command) => command.run(out),
        Command::Logs(command) => command.run(out),
        Command::Block(command) => command.run(out),
        Command::Unblock(command) => command.run(out),
        Command::Corpus(command) => command.run(out),
        Command::Doctor(command) => command.run(out),
        Command::CompileComponent(command) => command.run(out),
        Command::Worker(command) => command.run(out),
    };
    match ended {
        Ok(Exit::Done) => 0,
        Ok(Exit::No) => 1,
        Ok(Exit::Unable) => 2,
        Err(failure) => {
            let _ = write!(err, "sandgate: {failure}");
            let mut cause = failure.source();
            while let Some(reason) = cause {
                let _ = write!(err, ": {reason}");
                cause = reason.source();
            }
            let _ = writeln!(err);
            2
        }
    }
}
