//! Which addresses tenants' networks have.

use std::fmt;
use std::net::Ipv4Addr;

use sha2::{Digest as _, Sha256};

use crate::ids::TenantId;

/// The addresses of one tenant's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    first: u32,
    prefix: u8,
}

impl Subnet {
    /// Its first address, as a number.
    pub(super) const fn first(self) -> u32 {
        self.first
    }

    /// Whether a network that is written like this has some of its addresses. One of IPv6 has none of them.
    #[cfg(feature = "docker")]
    pub(crate) fn overlaps(self, network: &str) -> bool {
        let other = network.split_once('/').and_then(|(first, prefix)| {
            let (first, prefix): (Ipv4Addr, u32) = (first.parse().ok()?, prefix.parse().ok()?);
            (prefix <= 32).then(|| (first.to_bits(), prefix))
        });
        other.is_some_and(|(first, prefix)| {
            let common = prefix.min(u32::from(self.prefix));
            common == 0 || (first ^ self.first) >> (32 - common) == 0
        })
    }

    /// How many addresses it has. The network, its gateway and the broadcast take three of them.
    pub const fn addresses(self) -> u32 {
        1 << (32 - self.prefix)
    }
}

impl fmt::Display for Subnet {
    /// As `10.192.0.64/26`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix)
    }
}

/// The addresses that tenants' networks are taken from, and how many each gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRange {
    first: u32,
    range_prefix: u8,
    prefix: u8,
}

/// Why a range cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetworkRange {
    /// Its first address is not one of a network of that size.
    #[error("{0}/{1} is not a network: it has host bits")]
    NotANetwork(Ipv4Addr, u8),
    /// Somebody else may have these addresses.
    #[error("{0}/{1} is not within the private networks 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16")]
    NotPrivate(Ipv4Addr, u8),
    /// A tenant's network would be too large or too small.
    #[error("a tenant's network is a part of the range, and a /16 to a /28; it is a /{0}")]
    Prefix(u8),
}

impl NetworkRange {
    /// `first/range_prefix`, in networks of `prefix`.
    ///
    /// # Errors
    /// [`InvalidNetworkRange`].
    pub fn new(first: Ipv4Addr, range_prefix: u8, prefix: u8) -> Result<Self, InvalidNetworkRange> {
        let within = |network: Ipv4Addr, bits: u8| {
            range_prefix >= bits && (first.to_bits() ^ network.to_bits()) >> (32 - u32::from(bits)) == 0
        };
        let private = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)];
        if range_prefix > 32 || !private.iter().any(|(network, bits)| within((*network).into(), *bits)) {
            return Err(InvalidNetworkRange::NotPrivate(first, range_prefix));
        }
        if !(16..=28).contains(&prefix) || prefix < range_prefix {
            return Err(InvalidNetworkRange::Prefix(prefix));
        }
        if first.to_bits().trailing_zeros() < 32 - u32::from(range_prefix) {
            return Err(InvalidNetworkRange::NotANetwork(first, range_prefix));
        }
        Ok(Self { first: first.to_bits(), range_prefix, prefix })
    }

    /// How many networks there are in it.
    pub const fn count(self) -> u32 {
        1 << (self.prefix - self.range_prefix)
    }

    /// The network of that number; numbers beyond the last begin again.
    pub const fn nth(self, number: u32) -> Subnet {
        Subnet { first: self.first + (number % self.count()) * (1 << (32 - self.prefix)), prefix: self.prefix }
    }

    /// Where to begin looking for a network of that tenant's: far from where it is for others, so that installations
    /// which share an engine, but no database, seldom meet.
    pub(super) fn start(self, tenant: TenantId) -> u32 {
        let digest = Sha256::digest(tenant.to_string().as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % self.count()
    }

    /// The number of the network that begins there and is of this range's size; nothing if there is none.
    pub(super) fn number_of(self, first_address: i64, addresses: i32) -> Option<u32> {
        let size = self.nth(0).addresses();
        let offset = u32::try_from(first_address).ok()?.checked_sub(self.first)?;
        let fits = offset % size == 0 && u32::try_from(addresses).ok()? == size && offset / size < self.count();
        fits.then_some(offset / size)
    }
}

impl Default for NetworkRange {
    /// 32 768 networks of 60 bots and a reverse proxy each, above what people usually begin numbering with.
    fn default() -> Self {
        Self { first: Ipv4Addr::new(10, 192, 0, 0).to_bits(), range_prefix: 11, prefix: 26 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_range_that_may_be_configured() {
        let range = NetworkRange::default();
        assert_eq!(NetworkRange::new(Ipv4Addr::new(10, 192, 0, 0), 11, 26), Ok(range));
        assert_eq!((range.count(), range.nth(0).addresses()), (32_768, 64));
        assert_eq!(range.nth(1).to_string(), "10.192.0.64/26");
        assert_eq!(range.nth(32_767).to_string(), "10.223.255.192/26");
        assert_eq!(range.nth(32_768), range.nth(0));
        for number in [0, 1, 77, 32_767] {
            assert_eq!(range.number_of(range.nth(number).first().into(), 64), Some(number));
        }
        for (first, addresses) in [(0, 64), (i64::from(range.first) + 1, 64), (range.first.into(), 32), (-1, 64)] {
            assert_eq!(range.number_of(first, addresses), None, "{first} {addresses}");
        }
    }

    #[test]
    #[cfg(feature = "docker")]
    fn networks_that_share_an_address_overlap() {
        let subnet = NetworkRange::default().nth(1);
        for other in ["10.192.0.64/26", "10.192.0.0/25", "10.192.0.96/27", "10.192.0.127/32", "10.0.0.0/8", "0.0.0.0/0"]
        {
            assert!(subnet.overlaps(other), "{other}");
        }
        for other in
            ["10.192.0.0/26", "10.192.0.128/25", "172.17.0.0/16", "fd00::/8", "10.192.0.64", "", "10.192.0.64/33"]
        {
            assert!(!subnet.overlaps(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_private_network_is_refused() {
        let new = |text: [u8; 4], range, prefix| NetworkRange::new(text.into(), range, prefix).map(drop);
        assert_eq!(new([172, 16, 0, 0], 12, 28), Ok(()));
        assert_eq!(new([192, 168, 7, 0], 24, 24), Ok(()));
        let table = [
            ([8, 8, 0, 0], 16, 26),
            ([10, 0, 0, 0], 7, 26),
            ([172, 32, 0, 0], 16, 26),
            ([0, 0, 0, 0], 0, 26),
            ([10, 0, 0, 0], 33, 26),
        ];
        for (first, range, prefix) in table {
            assert_eq!(
                new(first, range, prefix),
                Err(InvalidNetworkRange::NotPrivate(first.into(), range)),
                "{first:?}/{range}"
            );
        }
        assert_eq!(new([10, 1, 0, 0], 8, 26), Err(InvalidNetworkRange::NotANetwork(Ipv4Addr::new(10, 1, 0, 0), 8)));
        for prefix in [15, 29, 33] {
            assert_eq!(new([10, 0, 0, 0], 8, prefix), Err(InvalidNetworkRange::Prefix(prefix)));
        }
        assert_eq!(new([10, 0, 0, 0], 24, 23), Err(InvalidNetworkRange::Prefix(23)));
    }
}
