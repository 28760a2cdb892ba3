//! The PROXY protocol, version 2: a balancer that we know says who its client is.
//!
//! Only a listed peer may say so, and then it must: a header that anybody may send, or that may be missing, lets a client
//! choose its own address (PROXY protocol specification §2.2, §5). A header of anyone else is no TLS and fails as such.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a listed peer's connection is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// The connection failed before the header was whole.
    #[error("no whole PROXY header came")]
    Lost(#[from] io::Error),
    /// Something else came, or another version.
    #[error("what came is no PROXY header of version 2")]
    NotProxy,
    /// Not TCP over IPv4 or IPv6, or too short for its addresses.
    #[error("the PROXY header names no client")]
    NoClient,
    /// More than any balancer sends.
    #[error("the PROXY header is too long")]
    TooLong,
}

/// Reads the header and not a byte more. `None` is the balancer itself, asking after our health.
pub(super) async fn client<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<IpAddr>, ProxyError> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let [signature @ .., command, family, high, low] = head;
    if signature != SIGNATURE {
        return Err(ProxyError::NotProxy);
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BYTES {
        return Err(ProxyError::TooLong);
    }
    let mut rest = [0; MAX_BYTES];
    let rest = rest.get_mut(..length).ok_or(ProxyError::TooLong)?;
    stream.read_exact(rest).await?;
    match (command, family) {
        (LOCAL, _) => Ok(None),
        (PROXY, TCP4) => match rest {
            [a, b, c, d, _, _, _, _, _, _, _, _, ..] => Ok(Some(Ipv4Addr::new(*a, *b, *c, *d).into())),
            _ => Err(ProxyError::NoClient),
        },
        (PROXY, TCP6) if rest.len() >= 36 => match rest.first_chunk::<16>() {
            Some(source) => Ok(Some(IpAddr::from(Ipv6Addr::from(*source)).to_canonical())),
            None => Err(ProxyError::NoClient),
        },
        (PROXY, _) => Err(ProxyError::NoClient),
        _ => Err(ProxyError::NotProxy),
    }
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Addresses and what balancers add to them; more than the specification asks receivers to take (§2.2: 216 bytes).
const MAX_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    async fn read(bytes: &[u8]) -> Result<Option<IpAddr>, ProxyError> {
        let mut stream = bytes;
        let client = client(&mut stream).await;
        if client.is_ok() {
            assert_eq!(stream, b"next", "exactly the header is read");
        }
        client
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_nothing_after_it_is_read() {
        let v4 = [&[192, 0, 2, 7, 10, 0, 0, 1][..], &[1, 2, 3, 4]].concat();
        let with_more = [&v4[..], &[4, 0, 1, 9]].concat();
        for rest in [&v4, &with_more] {
            let bytes = [header(PROXY, TCP4, rest), b"next".to_vec()].concat();
            assert_eq!(read(&bytes).await.unwrap(), Some("192.0.2.7".parse().unwrap()));
        }
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let v6 = [&source.octets()[..], &[0; 20]].concat();
        let bytes = [header(PROXY, TCP6, &v6), b"next".to_vec()].concat();
        assert_eq!(read(&bytes).await.unwrap(), Some(source.into()));
        let bytes = [header(LOCAL, 0, &[]), b"next".to_vec()].concat();
        assert_eq!(read(&bytes).await.unwrap(), None);
    }

    #[tokio::test]
    async fn whatever_else_comes_is_refused() {
        use ProxyError as E;
        let refused = |bytes: Vec<u8>| async move { read(&bytes).await.unwrap_err() };
        assert!(matches!(refused(b"\x16\x03\x01".repeat(9)).await, E::NotProxy));
        assert!(matches!(refused(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec()).await, E::NotProxy));
        assert!(matches!(refused(header(0x11, TCP4, &[0; 12])).await, E::NotProxy));
        assert!(matches!(refused(header(0x22, TCP4, &[0; 12])).await, E::NotProxy));
        assert!(matches!(refused(header(PROXY, TCP4, &[0; 11])).await, E::NoClient));
        assert!(matches!(refused(header(PROXY, TCP6, &[0; 35])).await, E::NoClient));
        assert!(matches!(refused(header(PROXY, 0x31, &[0; 216])).await, E::NoClient));
        assert!(matches!(refused(header(PROXY, 0, &[])).await, E::NoClient));
        assert!(matches!(refused(header(PROXY, TCP4, &[0; 1025])).await, E::TooLong));
        let whole = header(PROXY, TCP4, &[0; 12]);
        for cut in 0..whole.len() {
            assert!(matches!(refused(whole[..cut].to_vec()).await, E::Lost(_)), "{cut}");
        }
    }
}
