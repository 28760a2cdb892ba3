//! Fetching key sets: https only, no redirects, bounded, and never into the operator's own network unless allowed
//! (A18, A19; OWASP SSRF prevention).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use reqwest::{
    Certificate, Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use serde_json::Value;
use url::{Host, Url};

use super::{
    json::StrictObject,
    keys::{KeySet, KeySetError, MAX_KEY_SET_BYTES},
};

/// What the operator allows when key sets are fetched.
#[derive(Debug, Clone)]
pub struct KeyFetch {
    /// Whether issuers may be at loopback, link-local, private or otherwise special addresses.
    pub allow_private: bool,
    /// Whether the machine's own root certificates are trusted.
    pub platform_roots: bool,
    /// Root certificates besides, as DER.
    pub extra_roots: Vec<Vec<u8>>,
}

impl Default for KeyFetch {
    fn default() -> Self {
        Self { allow_private: false, platform_roots: true, extra_roots: Vec::new() }
    }
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Locator {
    /// At this URL.
    Jwks(Url),
    /// Where the issuer's metadata says (OpenID Connect Discovery §4, RFC 8414 §3).
    Discover(Url),
}

/// One client for the process, made when the first key set is asked for.
#[derive(Debug)]
pub(super) struct Fetcher {
    options: KeyFetch,
    client: OnceLock<Result<Client, String>>,
}

impl Fetcher {
    pub(super) fn new(options: KeyFetch) -> Self {
        Self { options, client: OnceLock::new() }
    }

    /// The key set of an issuer, or why it could not be had, within [`FETCH_SECONDS`].
    pub(super) async fn key_set(&self, issuer: &str, at: &Locator) -> Result<KeySet, KeySetError> {
        let fetch = async {
            let url = match at {
                Locator::Jwks(url) => url.clone(),
                Locator::Discover(base) => self.discover(issuer, base).await?,
            };
            let document =
                self.get(&url).await?.ok_or_else(|| KeySetError::Fetch(format!("`{url}` answered 404")))?;
            let set = KeySet::parse(&document)?;
            if set.keys().is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(set) }
        };
        tokio::time::timeout(Duration::from_secs(FETCH_SECONDS), fetch)
            .await
            .unwrap_or_else(|_| Err(KeySetError::Fetch(format!("no answer within {FETCH_SECONDS} s"))))
    }

    async fn discover(&self, issuer: &str, base: &Url) -> Result<Url, KeySetError> {
        // OpenID Connect Discovery §4: appended to the path. RFC 8414 §3.1: put before it.
        let path = base.path().trim_end_matches('/');
        let at = |path: String| {
            let mut url = base.clone();
            url.set_path(&path);
            url
        };
        let document = match self.get(&at(format!("{path}/.well-known/openid-configuration"))).await? {
            Some(document) => document,
            None => self
                .get(&at(format!("/.well-known/oauth-authorization-server{path}")))
                .await?
                .ok_or_else(|| KeySetError::Fetch(format!("`{base}` has no discovery document")))?,
        };
        let StrictObject(metadata) =
            StrictObject::parse(&document).map_err(|reason| KeySetError::NotAKeySet { reason })?;
        if metadata.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err(KeySetError::OtherIssuer);
        }
        let url = metadata.get("jwks_uri").and_then(Value::as_str).unwrap_or_default();
        https_url(url).map_err(|reason| KeySetError::NoKeysUrl(reason.to_owned()))
    }

    /// The body of a 200, or nothing for a 404.
    async fn get(&self, url: &Url) -> Result<Option<Vec<u8>>, KeySetError> {
        let failed = |error: &dyn std::error::Error| KeySetError::Fetch(chain(error));
        // A host that is an address never reaches the resolver.
        if let Some(address) = literal(url)
            && !self.options.allow_private
            && !is_public(address)
        {
            return Err(KeySetError::Fetch(format!("`{address}` {PRIVATE}")));
        }
        let client = self.client.get_or_init(|| client(&self.options).map_err(|error| chain(&error)));
        let client = client.as_ref().map_err(|reason| KeySetError::Fetch(reason.clone()))?;
        let mut response = client.get(url.clone()).send().await.map_err(|error| failed(&error))?;
        // Redirects are not followed, so they are just another answer that is no key set.
        match response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(KeySetError::Fetch(format!("`{url}` answered {status}"))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + chunk.len() > MAX_KEY_SET_BYTES {
                return Err(KeySetError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }
}

/// A URL that keys may be fetched from.
pub(super) fn https_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if url.scheme() != "https" {
        return Err("only https is fetched");
    }
    if url.host().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err("a host is needed, and no user name");
    }
    if url.fragment().is_some() {
        return Err("it has a fragment");
    }
    Ok(url)
}

fn client(options: &KeyFetch) -> Result<Client, reqwest::Error> {
    // reqwest looks for the process's provider and panics without one. An `Err` says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let roots =
        options.extra_roots.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    let builder = Client::builder()
        .https_only(true)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
        .timeout(Duration::from_secs(FETCH_SECONDS))
        .pool_idle_timeout(Duration::from_secs(IDLE_SECONDS))
        .pool_max_idle_per_host(1)
        .user_agent(concat!("sandgate/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(PublicOnly { allow_private: options.allow_private });
    let builder =
        if options.platform_roots { builder.tls_certs_merge(roots) } else { builder.tls_certs_only(roots) };
    builder.build()
}

/// Resolves, then drops every address that may not be reached. The connection is made to what is left, so a name that
/// resolves otherwise a moment later changes nothing.
struct PublicOnly {
    allow_private: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| allow_private || is_public(address.ip())).collect();
            if allowed.is_empty() {
                return Err(format!("`{}` {PRIVATE}", name.as_str()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Whether an address is reachable from the whole internet (the IANA special-purpose registries, RFC 6890).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., ..)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, .., high, low] = address.segments();
    let embedded = {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (first, second) {
        // NAT64 reaches the IPv4 address that it embeds (RFC 6052 §2.1); its local-use range 64:ff9b:1::/48 is not public.
        (0x64, 0xff9b) => address.segments().get(2..6) == Some(&[0; 4]) && is_public_v4(embedded),
        // Teredo, benchmarking, ORCHID and other protocol assignments (2001::/23), documentation.
        (0x2001, ..0x200 | 0xdb8) => false,
        // 6to4 embeds an IPv4 address that nobody checked.
        (0x2002, _) => false,
        (0x3fff, ..0x1000) => false,
        // Global unicast is all there is (RFC 4291 §2.4); mapped addresses (::ffff:0:0/96) are outside.
        (0x2000..=0x3fff, _) => true,
        _ => false,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

const PRIVATE: &str = "has no public address, and the operator allows no other";
/// All of it: resolving, connecting, discovery and key set.
pub(super) const FETCH_SECONDS: u64 = 10;
const CONNECT_SECONDS: u64 = 5;
/// Shorter than the refresh interval, so an idle gateway holds no connections to identity providers.
const IDLE_SECONDS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a18_addresses_inside_are_not_public() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
            "fec0::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn a18_only_plain_https_urls_are_fetched() {
        for bad in
            ["http://a.example/", "file:///etc/passwd", "https://u:p@a.example/", "https://a.example/#x", "a"]
        {
            assert!(https_url(bad).is_err(), "{bad}");
        }
        assert!(https_url("https://a.example/jwks").is_ok());
    }

    #[tokio::test]
    async fn a18_an_address_inside_is_not_fetched() {
        let fetcher = Fetcher::new(KeyFetch { platform_roots: false, ..KeyFetch::default() });
        for url in ["https://127.0.0.1:1/", "https://[::1]:1/", "https://localhost:1/", "https://0x7f.1:1/"] {
            let error = fetcher.key_set("x", &Locator::Jwks(url.parse().unwrap())).await.unwrap_err();
            assert!(error.to_string().contains(PRIVATE), "{url}: {error}");
        }
    }
}
