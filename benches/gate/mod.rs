//! The sample site, served in this process.

use std::path::Path;

use sandgate::{
    http::health::Mode,
    server::{Options, Running, start},
};

/// A gateway on a copy of the sample site.
pub(crate) struct Gate {
    /// What serves.
    pub(crate) running: Running,
    /// For `acme/hello`.
    pub(crate) token: String,
}

impl Gate {
    /// Starts one.
    pub(crate) async fn start(site: &Path) -> Self {
        sandgate::sandbox::CompilerCommand::set_default(env!("CARGO_BIN_EXE_sandgate"));
        let options = Options { mode: Mode::Development, ..Options::local(site) };
        let running = start(options).await.expect("the sample starts");
        let token = sandgate::cli::token::mint_sample(site).expect("a token").2;
        Self { running, token }
    }
}
