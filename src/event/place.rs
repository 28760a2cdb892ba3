//! Where a request was made: by configuration, never by what its caller says.

use std::{borrow::Cow, sync::Arc};

use crate::site::{host::HostName, origin::Origin};

/// The place that a request was for.
#[derive(Debug, Clone, Default)]
pub struct Place {
    host: Option<HostName>,
    origin: Option<Arc<Origin>>,
}

impl Place {
    /// `host` is the tenant's, verified, where the request was for one; `origin` is the gateway's own.
    pub(super) fn new(host: Option<HostName>, origin: Option<Arc<Origin>>) -> Self {
        Self { host, origin }
    }

    /// Host, and port unless it is 443: the tenant's host behind the gateway's port, or else the gateway's origin, or else
    /// `localhost`. What the caller wrote into `Host` is not asked: without a tenant's host it may be anything.
    pub fn authority(&self) -> Cow<'_, str> {
        match (&self.host, &self.origin) {
            (Some(host), Some(origin)) => origin.authority_at(host),
            (Some(host), None) => Cow::Borrowed(host.as_str()),
            (None, Some(origin)) => Cow::Borrowed(origin.authority()),
            (None, None) => Cow::Borrowed(NOWHERE),
        }
    }
}

/// What portable components take for the host that they are at, where nobody says.
const NOWHERE: &str = "localhost";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_where_configuration_says() {
        let authority = |host: Option<&str>, origin: Option<&str>| {
            let host = host.map(|host| host.parse().unwrap());
            Place::new(host, origin.map(|origin| Arc::new(origin.parse().unwrap()))).authority().into_owned()
        };
        let (host, plain, ported) = ("api.acme.example", "https://gate.example", "https://gate.example:8443");
        assert_eq!(authority(None, None), "localhost");
        assert_eq!(authority(None, Some(ported)), "gate.example:8443");
        assert_eq!(authority(Some(host), None), "api.acme.example");
        assert_eq!(authority(Some(host), Some(plain)), "api.acme.example");
        assert_eq!(authority(Some(host), Some(ported)), "api.acme.example:8443");
        assert_eq!(authority(Some(host), Some("https://[2001:db8::1]:8443")), "api.acme.example:8443");
    }
}
