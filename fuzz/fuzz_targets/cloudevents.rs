#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandgate::event::fuzz::cloudevents(data));
