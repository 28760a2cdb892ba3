//! Each rule of hardening.md A as a test that begins with its id; then identity providers, standards and hostile bytes.

mod binding;
mod caching;
mod callers;
mod compiling;
mod dev_issuers;
mod hostile;
mod printing;
mod providers;
mod remote;
mod revoking;
mod rules;
mod standards;
mod world;
mod wycheproof;
