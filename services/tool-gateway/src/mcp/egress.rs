//! Which addresses the gateway calls. Names are looked at after they are resolved, so no name reaches what an address
//! would not; redirects are off altogether.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// An address is not called.
#[derive(Debug, thiserror::Error)]
#[error("the address of the upstream is private, and the upstream is not declared so")]
pub struct Private;

/// Resolves names to public addresses only.
#[derive(Clone, Copy, Debug)]
pub struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(Private.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Refuses a URL whose host is a private address or a name of private addresses only. A name that cannot be resolved
/// passes: the resolver refuses whatever it may become.
///
/// # Errors
/// [`Private`].
pub async fn check(url: &reqwest::Url) -> Result<(), Private> {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return if is_public(address) { Ok(()) } else { Err(Private) };
    }
    match tokio::net::lookup_host((bare, 0)).await {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            let private = !found.is_empty() && !found.iter().any(|address| is_public(address.ip()));
            if private { Err(Private) } else { Ok(()) }
        }
        Err(_) => Ok(()),
    }
}

/// Whether an address belongs to the public internet (IANA special-purpose registries, RFC 6890).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // IPv4-mapped and the NAT64 prefix carry an IPv4 address at the end, 6to4 one after its prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0xdb8, ..] => false,
        // Teredo and the other protocol assignments.
        [0x2001, second, ..] if second < 0x200 => false,
        // Only 2000::/3 is given out; what is not is loopback, unique local, link local, multicast and the like.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for text in ["1.1.1.1", "93.184.216.34", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101", "100.128.0.1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "ff02::1",
            "2001:db8::1",
            "::127.0.0.1",
            "fec0::1",
            "2001::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn hosts_are_checked() {
        for (url, fits) in [
            ("http://127.0.0.1:80/mcp", false),
            ("http://[::1]/mcp", false),
            ("http://2130706433/mcp", false),
            ("http://0x7f.1/mcp", false),
            ("https://1.1.1.1/mcp", true),
            ("http://localhost/mcp", false),
        ] {
            assert_eq!(check(&url.parse().unwrap()).await.is_ok(), fits, "{url}");
        }
    }

    #[tokio::test]
    async fn names_of_private_addresses_are_refused() {
        let refused = PublicResolver.resolve("localhost".parse().unwrap()).await;
        assert!(refused.is_err_and(|error| error.is::<Private>()));
    }
}
