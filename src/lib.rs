//! Sandgate: many tenants' functions behind one door.
pub mod authn;
pub mod authz;
pub mod id;
pub mod record;
pub mod sandbox;
pub mod site;
