//! Prefixes whose packets are dropped, each for a time.
//!
//! The kernel finds the longest prefix that matches. A short-lived entry must not hide a longer-
//! lived one that covers it, so the list keeps to a rule: **of two entries, the more specific one
//! expires later**. Blocking restores it: what a broader and longer block covers is not entered,
//! and what the new block outlives is removed.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

/// An IPv6 prefix; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: Ipv6Addr,
    bits: u8,
}

impl Prefix {
    /// The first `bits` bits of an address; more than 128 count as 128.
    #[must_use]
    pub fn new(address: Ipv6Addr, bits: u8) -> Self {
        let bits = bits.min(128);
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Self {
            address: Ipv6Addr::from_bits(address.to_bits() & mask),
            bits,
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// The length, bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether every address of `other` is in this prefix.
    #[must_use]
    pub fn covers(&self, other: &Prefix) -> bool {
        self.bits <= other.bits && Prefix::new(other.address, self.bits) == *self
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `2001:db8::/32` or one address.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.to_owned());
        let (address, bits) = text.split_once('/').unwrap_or((text, "128"));
        let address: Ipv6Addr = address.parse().map_err(|_| error())?;
        let bits: u8 = bits.parse().map_err(|_| error())?;
        let prefix = Prefix::new(address, bits);
        if bits > 128 || prefix.address != address {
            return Err(error());
        }
        Ok(prefix)
    }
}

/// A text is no prefix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no IPv6 prefix; write an address, or one without host bits such as 2001:db8::/32"
)]
pub struct PrefixError(String);

/// An entry of the block list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The prefix.
    pub prefix: Prefix,
    /// How much longer; `None` is for good.
    pub remaining: Option<Duration>,
}

/// An entry as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub prefix: Prefix,
    /// Nanoseconds of `CLOCK_MONOTONIC`; 0 is never.
    pub expires_ns: u64,
}

impl Entry {
    pub(crate) fn expired(&self, now_ns: u64) -> bool {
        self.expires_ns != 0 && self.expires_ns <= now_ns
    }

    fn outlives(&self, other: &Entry) -> bool {
        // 0, which is never, becomes the greatest.
        self.expires_ns.wrapping_sub(1) >= other.expires_ns.wrapping_sub(1)
    }
}

/// What to do so that `new` is blocked and the rule holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub remove: Vec<Prefix>,
    /// False when a broader and longer block covers it already.
    pub insert: bool,
}

pub(crate) fn plan(entries: &[Entry], new: Entry, now_ns: u64) -> Change {
    let mut change = Change {
        remove: Vec::new(),
        insert: true,
    };
    for entry in entries {
        if entry.expired(now_ns) {
            if entry.prefix != new.prefix {
                change.remove.push(entry.prefix);
            }
        } else if entry.prefix == new.prefix {
            // The last word counts, also when it is shorter.
        } else if entry.prefix.covers(&new.prefix) && entry.outlives(&new) {
            change.insert = false;
        } else if new.prefix.covers(&entry.prefix) && new.outlives(entry) {
            change.remove.push(entry.prefix);
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn entry(text: &str, expires_ns: u64) -> Entry {
        Entry {
            prefix: prefix(text),
            expires_ns,
        }
    }

    #[test]
    fn prefixes_are_read_strictly() {
        assert_eq!(prefix("2001:db8::/32").to_string(), "2001:db8::/32");
        assert_eq!(prefix("::1").bits(), 128);
        assert_eq!(prefix("::/0").bits(), 0);
        for bad in ["", "2001:db8::1/32", "::/129", "1.2.3.4", "::/x", "::1/"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_short_block_never_hides_a_long_one() {
        let long = entry("2001:db8::/32", 0);
        let change = plan(&[long], entry("2001:db8:1::/48", 500), 100);
        assert!(!change.insert, "covered for good already");
        let short = entry("2001:db8:1::/48", 500);
        let change = plan(&[short], long, 100);
        assert_eq!(change.remove, [short.prefix]);
        assert!(change.insert);
        let longer = entry("2001:db8:1::/48", 900);
        let change = plan(&[longer], entry("2001:db8::/32", 500), 100);
        assert!(change.remove.is_empty() && change.insert);
    }

    #[test]
    fn what_expired_goes() {
        let old = entry("fd00::/64", 50);
        let change = plan(&[old], entry("fd01::/64", 500), 100);
        assert_eq!(change.remove, [old.prefix]);
    }

    /// Whatever is blocked in whatever order: an address is dropped exactly while one of the
    /// prefixes that cover it is blocked.
    #[test]
    fn the_longest_match_decides_as_all_matches_would() {
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let mut kept: Vec<Entry> = Vec::new();
            let mut said: Vec<Entry> = Vec::new();
            for _ in 0..6 {
                let bits = [8, 16, 24, 128][random(4) as usize];
                let address = Ipv6Addr::new(random(2) as u16, 0, 0, 0, 0, 0, 0, 0);
                let new = Entry {
                    prefix: Prefix::new(address, bits),
                    expires_ns: random(4) * 10,
                };
                if said.iter().any(|old| old.prefix == new.prefix) {
                    continue;
                }
                let change = plan(&kept, new, 0);
                kept.retain(|old| !change.remove.contains(&old.prefix) && old.prefix != new.prefix);
                if change.insert {
                    kept.push(new);
                }
                said.push(new);
            }
            for now_ns in [0, 5, 15, 25, 35] {
                for address in 0..2 {
                    let host = Prefix::new(Ipv6Addr::new(address, 0, 0, 0, 0, 0, 0, 0), 128);
                    let live = |e: &&Entry| e.prefix.covers(&host) && !e.expired(now_ns);
                    let expected = said.iter().any(|e| live(&e));
                    let longest = kept
                        .iter()
                        .filter(|e| e.prefix.covers(&host))
                        .max_by_key(|e| e.prefix.bits());
                    let found = longest.is_some_and(|e| !e.expired(now_ns));
                    assert_eq!(found, expected, "{said:?} kept {kept:?} at {now_ns}");
                }
            }
        }
    }
}
