//! Arguments in, exit code out. The only place that prints or exits.

use std::{io::Write, process::ExitCode};

/// A request makes some two hundred small allocations and frees them on one thread: the system's allocator spends a
/// tenth of the gateway's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let mut err = std::io::stderr();
    let code = sandgate::cli::run(std::env::args_os(), &mut out, &mut err);
    // What is still buffered belongs to whoever reads us; a closed pipe is their choice.
    let _ = out.flush();
    ExitCode::from(code)
}
