#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandgate::authz::fuzz::policy_loading(data));
