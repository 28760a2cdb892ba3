//! Guests of `tests/fixtures/guests`, in the shell that makes components of them.

use std::{fs, path::Path};

/// Text of a guest's component.
pub(crate) fn guest(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/guests");
    let read = |name: String| fs::read_to_string(folder.join(name)).unwrap();
    read("shell.wat".into()).replace("@guest@", &read(format!("{name}.wat")))
}

/// Answers with what it was given.
pub(crate) fn echo() -> String {
    guest("echo")
}

/// This program has no `compile-component`; the one that is tested has.
pub(crate) fn compiled_by_sandgate() {
    sandgate::sandbox::CompilerCommand::set_default(env!("CARGO_BIN_EXE_sandgate"));
}
