//! Memory of the guest: each call gets a fresh instance, so every page that exists at start and every page that is
//! written to is paid for on every call.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_TARGET_FAMILY").is_some_and(|family| family == "wasm") {
        // The default stack is 1 MiB, 16 pages of 64 KiB; nothing seen so far uses more than 10 KiB of it. The linker puts
        // the stack below the data, so that an overflow traps. After half a megabyte of tables the last page has room
        // for the heap of a short text.
        println!("cargo::rustc-link-arg-cdylib=-zstack-size=65536");
    }
}
