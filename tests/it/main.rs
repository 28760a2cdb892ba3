//! The gateway as the outside meets it: a real socket, real TLS, keys minted for the run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that is wrong about itself should stop"
)]

mod architecture;
mod authenticate;
mod cli;
mod client;
mod compile;
mod components;
mod events;
mod evidence;
mod fuzz_corpus;
mod guest;
mod hardening;
mod hostile;
mod operations;
mod oracle;
mod reload;
mod storm;
mod token;
mod whole;
mod world;
