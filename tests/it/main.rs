//! The gateway as the outside meets it: a real socket, real TLS, keys minted for the run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that is wrong about itself should stop"
)]

mod architecture;
mod authenticate;
mod authority;
mod blocked;
mod bound;
mod browser;
mod cli;
mod client;
mod cloudevents;
mod compile;
mod components;
mod connections;
mod dev;
mod doctor;
mod drain;
mod events;
mod evidence;
mod floods;
mod frames;
mod fuzz_corpus;
mod given;
mod guest;
mod hardening;
mod heads;
mod hostile;
mod hosts;
mod lints;
mod mutual;
mod operations;
mod ops;
mod oracle;
mod outcomes;
#[cfg(feature = "portable")]
mod portable;
mod production;
mod reload;
mod sample;
mod secrets;
mod settings;
mod storm;
mod tls;
mod token;
mod told;
mod traces;
mod triage;
mod walkthrough;
mod whole;
mod workers;
mod world;
