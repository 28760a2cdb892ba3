//! Memory of the guest: each call gets a fresh instance, so every page that exists at start and every page that is
//! written to is paid for on every call.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_TARGET_FAMILY").is_some_and(|family| family == "wasm") {
        // The default stack is 1 MiB, 16 pages of 64 KiB; the largest event uses 4 KiB of it. The linker puts the
        // stack below the data, so that an overflow traps. Stack, data and a heap for ordinary events share one page.
        println!("cargo::rustc-link-arg-cdylib=-zstack-size=16384");
    }
}
