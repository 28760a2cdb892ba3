//! The gateway as the outside meets it: a real socket, real TLS, keys minted for the run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that is wrong about itself should stop"
)]

mod authenticate;
mod cli;
mod client;
mod components;
mod events;
mod guest;
mod hostile;
mod operations;
mod oracle;
mod reload;
mod token;
mod whole;
mod world;
