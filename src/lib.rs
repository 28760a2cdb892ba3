//! Sandgate: many tenants' functions behind one door.
pub mod id;
pub mod site;
pub mod http;
pub mod tls;
