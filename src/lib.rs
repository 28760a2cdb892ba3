//! Sandgate: many tenants' functions behind one door.
pub mod authz;
pub mod id;
pub mod sandbox;
pub mod site;
pub mod http;
pub mod tls;
