//! Sandgate: many tenants' functions behind one door.
pub mod event;
pub mod id;
pub mod site;
