//! Arguments in, exit code out. The only place that prints or exits.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let mut err = std::io::stderr();
    let code = sandgate::cli::run(std::env::args_os(), &mut out, &mut err);
    // What is still buffered belongs to whoever reads us; a closed pipe is their choice.
    let _ = out.flush();
    ExitCode::from(code)
}
