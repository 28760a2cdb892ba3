//! What goes into this stage and what comes out of it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::SystemTime,
};

use http::{HeaderMap, Method};

use super::{Caller, ClientCertificate};
use crate::{
    id::{FunctionId, FunctionName, RequestId, TenantName},
    site::host::HostName,
};

/// A request as routed. Nobody has been asked yet who sent it.
#[derive(Debug)]
pub struct Received<B> {
    /// Its name in reply, record and log.
    pub request_id: RequestId,
    /// The tenant that it is for.
    pub tenant: TenantName,
    /// The function that it is for.
    pub function: FunctionName,
    /// All of it but the body.
    pub head: Head,
    /// The body, unread (INVARIANT Unread).
    pub body: B,
}

/// All of a request but its body.
pub struct Head {
    /// The method.
    pub method: Method,
    /// What follows the function's segment, raw, without the slash before it.
    pub rest: Option<String>,
    /// What follows `?`, raw.
    pub query: Option<String>,
    /// The headers. Once authenticated, `Authorization` and `DPoP` are gone.
    pub headers: HeaderMap,
    /// Who is at the other end.
    pub client: IpAddr,
    /// Version of TLS: `1.3` or `1.2`.
    pub tls: &'static str,
    /// The client certificate of this very connection.
    pub client_certificate: Option<ClientCertificate>,
    /// The tenant's own host by whose name the request came; `None`: by path.
    pub host: Option<HostName>,
    /// The path as received.
    pub path: String,
    /// When the request arrived.
    pub now: SystemTime,
}

impl Head {
    /// A request of this method for this path and no more, as if sent now from this machine over TLS 1.3: for those who have no
    /// connection that it could have come from.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            rest: None,
            query: None,
            headers: HeaderMap::new(),
            client: Ipv4Addr::LOCALHOST.into(),
            tls: "1.3",
            client_certificate: None,
            host: None,
            path: path.into(),
            now: SystemTime::now(),
        }
    }
}

/// Without headers and query, which may hold credentials (A22).
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &self.method)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// A request whose sender is known. What they may do is not.
#[derive(Debug)]
pub struct Authenticated<B> {
    pub(super) received: Received<B>,
    pub(super) caller: Arc<Caller>,
    pub(super) fresh_nonce: Option<String>,
}

impl<B> Authenticated<B> {
    /// The request's name.
    pub fn request_id(&self) -> RequestId {
        self.received.request_id
    }

    /// The tenant that the request is for: also the caller's.
    pub fn tenant(&self) -> &TenantName {
        &self.received.tenant
    }

    /// The function that the request is for.
    pub fn function(&self) -> &FunctionName {
        &self.received.function
    }

    /// The function's full name.
    pub fn function_id(&self) -> FunctionId {
        FunctionId { tenant: self.received.tenant.clone(), function: self.received.function.clone() }
    }

    /// All of the request but its body.
    pub fn head(&self) -> &Head {
        &self.received.head
    }

    /// Who sent it.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// The nonce that the sender's proofs should have from now on, if it is another than this request's had: for the
    /// reply (RFC 9449 §8.2).
    pub fn fresh_nonce(&self) -> Option<&str> {
        self.fresh_nonce.as_deref()
    }

    /// For the next stage only.
    pub(crate) fn into_parts(self) -> (Received<B>, Arc<Caller>) {
        (self.received, self.caller)
    }
}
