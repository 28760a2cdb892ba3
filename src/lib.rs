//! Sandgate: many tenants' functions behind one door.
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
