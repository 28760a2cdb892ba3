//! The sample site, for benches that serve it.

use std::path::Path;

/// A copy of it, without what an earlier start left there.
pub(crate) fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().expect("a folder");
    for folder in ["policies", "functions"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &site.path().join(folder));
    }
    site
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
