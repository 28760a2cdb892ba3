//! A site: what operator and tenants write, as written.
pub mod diagnostic;
pub mod manifest;
pub mod tenant;
pub mod units;
