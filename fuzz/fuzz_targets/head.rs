#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandgate::server::fuzz::head(data));
