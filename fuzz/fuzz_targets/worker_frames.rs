#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandgate::sandbox::fuzz::worker_frames(data));
