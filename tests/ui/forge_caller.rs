//! A caller is what a verified token says, and nobody else says it.

use sandgate::{authn::Caller, id::TenantName};

fn forge(tenant: TenantName, id: std::sync::Arc<str>) {
    let _ = Caller { tenant, id };
}

fn main() {}
