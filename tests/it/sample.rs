//! The sample site, or a function of it, where a test may do with it what it likes.

use std::{fs, path::Path};

use tempfile::TempDir;

/// The site as it is committed: without what `functions/build.sh` adds to it when told to.
pub(crate) fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["policies", "policies/acme", "policies/globex"] {
        copy(root, site.path(), folder);
    }
    for tenant in ["acme", "globex"] {
        for function in fs::read_dir(root.join("functions").join(tenant)).unwrap() {
            let function = function.unwrap().path();
            if is_committed(&function) {
                copy(root, site.path(), function.strip_prefix(root).unwrap().to_str().unwrap());
            }
        }
    }
    site
}

/// Whether a function is one without a build: of others the manifest is a link, laid with the component.
pub(crate) fn is_committed(function: &Path) -> bool {
    !function.join("function.toml").is_symlink()
}

/// What the gateway reads of a folder: of a function's, not its sources.
pub(crate) fn copy(root: &Path, to: &Path, folder: &str) {
    fs::create_dir_all(to.join(folder)).unwrap();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let read = ["toml", "json", "wasm", "wat", "cedar", "cedarschema"];
        if path.is_file() && path.extension().is_some_and(|e| read.iter().any(|r| e == *r)) {
            fs::copy(&path, to.join(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
}
