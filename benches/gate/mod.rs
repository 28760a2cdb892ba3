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

/// A copy of the sample site, without what an earlier start left there.
pub(crate) fn sample() -> tempfile::TempDir {
    let site = tempfile::tempdir().expect("a folder");
    for folder in ["policies", "functions"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &site.path().join(folder));
    }
    site
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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of the sample") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a file");
        }
    }
}
