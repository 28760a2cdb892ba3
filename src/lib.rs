//! Sandgate: one door for many tenants' functions.
//!
//! # Bird's-eye view
//!
//! A gateway that lets the outside call functions only where a policy says so. A *site* ([`site`]) is a directory that
//! operator and tenants write; a *revision* ([`pipeline::Revision`]) is an immutable, validated snapshot of it, one part
//! for each tenant. Requests come by TLS ([`tls`], [`server`]) and HTTP ([`http`]), and go through five steps
//! ([`pipeline`]).
//!
//! # Life of an invocation
//!
//! 1. [`http`] finds tenant and function in the path, which it never normalises.
//! 2. [`authn`] makes an [`Authenticated`](authn::Authenticated) of it: a JWT becomes a [`Caller`](authn::Caller).
//! 3. [`authz`] makes an [`Authorized`](authz::Authorized): Cedar says that this caller may invoke this function, now.
//! 4. [`event`] reads the body, for the first time, and makes a [`Validated`](event::Validated).
//! 5. [`sandbox`] runs the function on it in a fresh instance and checks what it answers: an [`Outcome`](sandbox::Outcome).
//! 6. [`record`] writes what happened; only then does the reply go.
//!
//! # Invariants
//!
//! - **Evidence**: a stage's output type can be made by that stage only, is not `Clone`, and is consumed by the next.
//! - **Unread**: no stage is handed the body before the decision: until then its type is a parameter.
//! - **Closed**: with nothing configured nothing is reachable; a missing policy, schema or limit refuses.
//! - **Alone**: no state of one invocation is seen by another, no name of one tenant by another.
//! - **Bounded**: every queue, cache, buffer, map and loop that outside input can grow has a stated bound.
//! - **Once**: what is parsed at the edge is never parsed again from its text.
//! - **Told**: every refusal is recorded, alone or in an aggregate, before it is answered.
//!
//! # Map
//!
//! Dependencies run one way, top to bottom: [`cli`], [`server`], [`http`], [`pipeline`], [`tls`], [`record`],
//! [`sandbox`], [`event`], [`authz`], [`authn`], [`site`], [`id`]. Each vendor has one door: `jsonwebtoken` is spoken to
//! in [`authn`], `cedar_policy` in [`authz`], `wasmtime` in [`sandbox`], `axum` in [`http`], `rustls` in [`tls`] and
//! [`server`]. `tests/it/architecture.rs` keeps both so.

pub mod authn;
pub mod authz;
pub mod cli;
pub mod event;
pub mod http;
pub mod id;
pub mod pipeline;
pub mod record;
pub mod sandbox;
pub mod server;
pub mod site;
pub mod tls;
