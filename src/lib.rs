//! Sandgate: many tenants' functions behind one door.
pub mod id;
pub mod record;
pub mod site;
