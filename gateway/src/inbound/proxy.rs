//! Who a connection's client is when a proxy stands in between: the PROXY protocol (version 2) and
//! `X-Forwarded-For`, both believed only from listed proxies.

use crate::inbound::http::{self, Head};
use crate::limits::PROXY_HEADER_BYTES_MAX;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses with the same first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: u128,
    /// Of the 128 of an IPv6 address; an IPv4 address lies in ::ffff:0:0/96.
    bits: u32,
}

impl Network {
    /// `10.0.0.0/8`, `::1`, ...
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let explain = || format!("{text:?} is no address and no network (ADDRESS/BITS)");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| explain())?;
        let (width, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let bits = match bits {
            Some(bits) => bits.parse::<u32>().ok().filter(|it| *it <= width).ok_or_else(explain)?,
            None => width,
        };
        Ok(Self { address: wide(address), bits: bits + offset })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let differing = self.address ^ wide(address);
        self.bits == 0 || differing.checked_shr(128 - self.bits) == Some(0)
    }
}

fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => it.to_ipv6_mapped().to_bits(),
        IpAddr::V6(it) => it.to_bits(),
    }
}

/// The listed proxies, and what is believed of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    networks: Vec<Network>,
    /// Their connections begin with a PROXY header.
    protocol: bool,
}

impl Proxies {
    /// An error names what is wrong.
    pub(crate) fn new(networks: &[String], protocol: bool) -> Result<Self, String> {
        let networks = networks.iter().map(|text| Network::parse(text));
        let networks: Result<Vec<_>, _> = networks.collect();
        let networks = networks.map_err(|error| format!("proxy.trusted: {error}"))?;
        if protocol && networks.is_empty() {
            return Err("proxy.protocol needs proxy.trusted: whose headers are believed?".into());
        }
        Ok(Self { networks, protocol })
    }

    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Whether the peer's connections begin with a PROXY header.
    pub(crate) fn has_header(&self, peer: IpAddr) -> bool {
        self.protocol && self.is_trusted(peer)
    }

    /// Whose request it is: of a listed proxy's, the last address in `X-Forwarded-For` that is not
    /// a listed proxy's own. What stands before it anybody may have written.
    pub(crate) fn client(&self, peer: IpAddr, head: &Head<'_, '_>) -> IpAddr {
        if !self.is_trusted(peer) {
            return peer;
        }
        let mut client = peer;
        let values: Vec<&str> = http::all(head.headers, "x-forwarded-for").collect();
        for entry in values.iter().rev().flat_map(|value| value.rsplit(',')) {
            let Ok(address) = entry.trim().parse() else { break };
            client = address;
            if !self.is_trusted(address) {
                break;
            }
        }
        client
    }
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;

/// A PROXY header: how long it is, and the client; none if the proxy speaks for itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    pub(crate) bytes: usize,
    pub(crate) client: Option<IpAddr>,
}

/// Reads the header at the start of `bytes`; None if its end has not come yet, an error if it is
/// none.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, &'static str> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Err("no PROXY header (version 2) came");
    }
    let Some(&[version_command, family, high, low]) =
        bytes.get(SIGNATURE.len()..FIXED_BYTES).and_then(|it| it.first_chunk())
    else {
        return Ok(None);
    };
    let whole = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Err("the PROXY header is not of version 2");
    }
    if whole > PROXY_HEADER_BYTES_MAX {
        return Err("the PROXY header is too long");
    }
    let Some(rest) = bytes.get(FIXED_BYTES..whole) else { return Ok(None) };
    let client = match (version_command & 0xf, family) {
        // LOCAL: the proxy's own, e.g. a health check.
        (0, _) => None,
        // TCP over IPv4, TCP over IPv6.
        (1, 0x11) => rest.first_chunk::<12>().map(|it| {
            let [a, b, c, d, ..] = *it;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }),
        (1, 0x21) => rest.first_chunk::<36>().and_then(|it| {
            let source: [u8; 16] = *it.first_chunk()?;
            Some(IpAddr::V6(Ipv6Addr::from(source)))
        }),
        _ => return Err("the PROXY header is of another family than TCP over IPv4 or IPv6"),
    };
    if client.is_none() && version_command & 0xf == 1 {
        return Err("the PROXY header is too short for its addresses");
    }
    Ok(Some(ProxyHeader { bytes: whole, client }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::HEADERS_MAX;

    /// A header as a proxy writes it, for an IPv4 client.
    pub(crate) fn header(client: [u8; 4]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x21, 0x11, 0, 12]);
        bytes.extend(client);
        bytes.extend([127, 0, 0, 1, 0x30, 0x39, 0, 80]);
        bytes
    }

    #[test]
    fn headers_are_read_whole_and_anything_else_is_refused() {
        let bytes = header([192, 0, 2, 7]);
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let client = Some("192.0.2.7".parse().unwrap());
        assert_eq!(parse(&bytes), Ok(Some(ProxyHeader { bytes: 28, client })));
        let mut six = SIGNATURE.to_vec();
        six.extend([0x21, 0x21, 0, 39]);
        six.extend("2001:db8::5".parse::<Ipv6Addr>().unwrap().octets());
        six.extend([0; 23]);
        let client = Some("2001:db8::5".parse().unwrap());
        assert_eq!(parse(&six), Ok(Some(ProxyHeader { bytes: 55, client })));
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        assert_eq!(parse(&local), Ok(Some(ProxyHeader { bytes: 16, client: None })));
        let long = |bytes: u16| {
            let [high, low] = bytes.to_be_bytes();
            parse(&[&SIGNATURE[..], &[0x20, 0, high, low]].concat())
        };
        let most = u16::try_from(PROXY_HEADER_BYTES_MAX - FIXED_BYTES).unwrap();
        assert_eq!(long(most), Ok(None));
        assert!(long(most + 1).is_err());
        for bad in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            [&SIGNATURE[..], &[0x11, 0x11, 0, 12]].concat(),
            [&SIGNATURE[..], &[0x21, 0x31, 0, 0]].concat(),
            [&SIGNATURE[..], &[0x21, 0x11, 0, 3, 1, 2, 3]].concat(),
        ] {
            assert!(parse(&bad).is_err(), "{bad:x?}");
        }
    }

    fn client(peer: &str, headers: &str) -> String {
        let trusted = ["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let proxies = Proxies::new(&trusted, false).unwrap();
        let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = http::parse(text.as_bytes(), &mut room).unwrap().unwrap();
        proxies.client(peer.parse().unwrap(), &head).to_string()
    }

    #[test]
    fn a_forwarded_address_is_believed_from_listed_proxies_alone() {
        let forged = "X-Forwarded-For: 1.1.1.1, 192.0.2.9\r\n";
        assert_eq!(client("203.0.113.5", forged), "203.0.113.5");
        assert_eq!(client("10.1.2.3", forged), "192.0.2.9");
        assert_eq!(client("::1", "x-forwarded-for: 2001:db8::5\r\n"), "2001:db8::5");
        let chain = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.9, 10.0.0.7\r\n";
        assert_eq!(client("10.1.2.3", chain), "192.0.2.9");
        assert_eq!(client("10.1.2.3", ""), "10.1.2.3");
        assert_eq!(client("10.1.2.3", "X-Forwarded-For: nonsense\r\n"), "10.1.2.3");
        // An IPv4 peer of a socket for both families.
        assert_eq!(client("::ffff:10.1.2.3", forged), "192.0.2.9");
    }

    #[test]
    fn networks_that_are_none_are_named() {
        for bad in ["10.0.0.0/33", "::/129", "here", "1.2.3.4/x", "1.2.3/8"] {
            let error = Proxies::new(&[bad.to_owned()], false).unwrap_err();
            assert!(error.starts_with("proxy.trusted: ") && error.contains(bad), "{error}");
        }
        assert!(Proxies::new(&[], true).unwrap_err().contains("proxy.trusted"));
        let all = Proxies::new(&["0.0.0.0/0".to_owned(), "::/0".to_owned()], true).unwrap();
        assert!(all.has_header("8.8.8.8".parse().unwrap()));
    }
}
