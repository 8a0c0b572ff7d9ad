//! Which addresses the whole internet reaches. In: an address. Out: yes, or what kind it is instead.
//!
//! A server that connects where it is told to must not become a way into its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the whole internet reaches an address, and what is behind it too: what leads to an IPv4 address by
/// another way is never asked for.
///
/// # Errors
/// What kind of address it is instead.
pub fn plainly_public(address: IpAddr) -> Result<(), &'static str> {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or_else(|| public(address), |(kind, _)| Err(kind)),
        IpAddr::V4(_) => public(address),
    }
}

/// Whether an IPv6 address stands for an IPv4 one: its kind, and the address where it is plain to see.
pub fn embedded(address: Ipv6Addr) -> Option<(&'static str, Option<Ipv4Addr>)> {
    let parts = address.segments();
    let low = Ipv4Addr::from(((u32::from(parts[6])) << 16) | u32::from(parts[7]));
    match parts {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some(("an IPv4-mapped address", Some(low))),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Some(("an IPv4-compatible address", Some(low))),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(("a NAT64 address", Some(low))), // RFC 6052 §2.1
        [0x64, 0xff9b, 1, ..] => Some(("a local NAT64 address", Some(low))),    // RFC 8215, /96 by convention
        [0x2002, ..] => Some(("a 6to4 address", None)),
        [0x2001, 0, ..] => Some(("a Teredo address", None)),
        _ => None,
    }
}

/// Whether the whole internet reaches an address, as written down (IANA's special-purpose registries, RFC 6890).
///
/// # Errors
/// What kind of address it is instead.
pub fn public(address: IpAddr) -> Result<(), &'static str> {
    let kind = match address {
        IpAddr::V4(v4) => match v4.octets() {
            [0, ..] => "an address of this network",
            [127, ..] => "a loopback address",
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
            [169, 254, ..] => "a link-local address, where clouds keep their metadata",
            [100, 64..=127, ..] => "an address shared by a provider's customers",
            [192, 0, 0, _] | [192, 88, 99, _] | [198, 18..=19, ..] => "a reserved address",
            [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "an address for documentation",
            [224..=239, ..] => "a multicast address",
            [240..=255, ..] => "a reserved address",
            _ => return Ok(()),
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => "an address of this network",
            [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
            [0xfc00..=0xfdff, ..] => "a private address",
            [0xfe80..=0xfebf, ..] => "a link-local address",
            [0xff00..=0xffff, ..] => "a multicast address",
            [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "an address for documentation",
            [0x2001, 0..=0x1ff, ..] => "a reserved address",
            [0x2000..=0x3fff, ..] => return Ok(()),
            _ => "a reserved address",
        },
    };
    Err(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_everybody_reaches_are_public() {
        let check = |text: &str, public: bool| {
            assert_eq!(plainly_public(text.parse().unwrap()).is_ok(), public, "{text}");
        };
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.1",
            "203.0.113.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "ff02::1",
            "2001::1",
        ] {
            check(private, false);
        }
        for public in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1"] {
            check(public, true);
        }
    }
}
