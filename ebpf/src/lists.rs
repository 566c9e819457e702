//! The lists of a filter: who has the validators' budgets, and who is dropped.

use std::net::Ipv6Addr;
use std::time::Duration;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use rustix::time::{ClockId, clock_gettime};

use crate::abi::{AllowEntry, FLAG_BLOCKS};
use crate::blocklist::{Entry, plan};
use crate::filter::is_missing;
use crate::tables::{Tables, table_error};
use crate::{ALLOWED_MAX, BLOCKED_MAX, Block, Filter, FilterError, Owner, Prefix};

/// An entry of the allow list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The address.
    pub address: Ipv6Addr,
    /// Whether an operator asked for it.
    pub operator: bool,
    /// Whether the node asked for it.
    pub node: bool,
}

impl Filter {
    /// Enters an address in the allow list: it has the validators' budgets and passes when the
    /// door is closed to clients.
    pub fn allow(&self, address: Ipv6Addr, owner: Owner) -> Result<(), FilterError> {
        let _lock = self.lock()?;
        let mut tables = self.tables();
        let mut entry = allow_entry(&tables, address)?.unwrap_or_default();
        entry.owner |= owner.to_raw();
        match tables.allow.insert(address.octets(), entry, 0) {
            Err(error) if is_full(&error) => Err(FilterError::Full {
                table: "allow",
                max: ALLOWED_MAX,
            }),
            other => other.map_err(|error| table_error("allow", &error)),
        }
    }

    /// Withdraws an owner's wish; the address leaves the list when nobody else wants it there.
    /// Returns whether it was there.
    pub fn disallow(&self, address: Ipv6Addr, owner: Owner) -> Result<bool, FilterError> {
        let _lock = self.lock()?;
        let mut tables = self.tables();
        let Some(mut entry) = allow_entry(&tables, address)? else {
            return Ok(false);
        };
        let had = entry.owner & owner.to_raw() != 0;
        entry.owner &= !owner.to_raw();
        let result = if entry.owner == 0 {
            tables.allow.remove(&address.octets())
        } else {
            tables.allow.insert(address.octets(), entry, 0)
        };
        result.map_err(|error| table_error("allow", &error))?;
        Ok(had)
    }

    /// Makes an owner's part of the allow list exactly these addresses.
    pub fn allow_exactly(&self, addresses: &[Ipv6Addr], owner: Owner) -> Result<(), FilterError> {
        for address in addresses {
            self.allow(*address, owner)?;
        }
        for entry in self.allowed()? {
            let wanted = match owner {
                Owner::Node => entry.node,
                Owner::Operator => entry.operator,
            };
            if wanted && !addresses.contains(&entry.address) {
                self.disallow(entry.address, owner)?;
            }
        }
        Ok(())
    }

    /// The allow list.
    pub fn allowed(&self) -> Result<Vec<Allowed>, FilterError> {
        let tables = self.tables();
        let mut list = Vec::new();
        for item in tables.allow.iter() {
            let (address, entry) = item.map_err(|error| table_error("allow", &error))?;
            list.push(Allowed {
                address: address.into(),
                operator: entry.owner & Owner::Operator.to_raw() != 0,
                node: entry.owner & Owner::Node.to_raw() != 0,
            });
        }
        list.sort_by_key(|entry| entry.address);
        Ok(list)
    }

    /// Drops what comes from a prefix, for a time or (`None`) for good. It goes before the allow
    /// list.
    pub fn block(&self, prefix: Prefix, lasting: Option<Duration>) -> Result<(), FilterError> {
        let now_ns = now_ns();
        let expires_ns = lasting.map_or(0, |lasting| {
            let lasting_ns = u64::try_from(lasting.as_nanos()).unwrap_or(u64::MAX);
            now_ns.saturating_add(lasting_ns).max(1)
        });
        let new = Entry { prefix, expires_ns };
        {
            let _lock = self.lock()?;
            let mut tables = self.tables();
            let entries = block_entries(&tables)?;
            let change = plan(&entries, new, now_ns);
            let at = |error: MapError| table_error("block", &error);
            if change.insert {
                // Before the removals: at no moment is a prefix open that is blocked on both sides.
                let mut result = tables.block.insert(&block_key(&prefix), expires_ns, 0);
                if result.as_ref().is_err_and(is_full) && !change.remove.is_empty() {
                    for prefix in &change.remove {
                        remove_block(&mut tables, prefix)?;
                    }
                    result = tables.block.insert(&block_key(&prefix), expires_ns, 0);
                }
                match result {
                    Err(error) if is_full(&error) => {
                        return Err(FilterError::Full {
                            table: "block",
                            max: BLOCKED_MAX,
                        });
                    }
                    other => other.map_err(at)?,
                }
            }
            for prefix in &change.remove {
                remove_block(&mut tables, prefix)?;
            }
        }
        self.change(|settings| settings.flags |= FLAG_BLOCKS)
    }

    /// Lifts the block of exactly this prefix. Returns whether there was one. A broader block
    /// stays in force.
    pub fn unblock(&self, prefix: Prefix) -> Result<bool, FilterError> {
        let _lock = self.lock()?;
        remove_block(&mut self.tables(), &prefix)
    }

    /// The block list, without what expired.
    pub fn blocked(&self) -> Result<Vec<Block>, FilterError> {
        let now_ns = now_ns();
        let mut list: Vec<Block> = block_entries(&self.tables())?
            .into_iter()
            .filter(|entry| !entry.expired(now_ns))
            .map(|entry| Block {
                prefix: entry.prefix,
                remaining: (entry.expires_ns != 0)
                    .then(|| Duration::from_nanos(entry.expires_ns - now_ns)),
            })
            .collect();
        list.sort_by_key(|block| block.prefix);
        Ok(list)
    }
}

fn allow_entry(tables: &Tables, address: Ipv6Addr) -> Result<Option<AllowEntry>, FilterError> {
    match tables.allow.get(&address.octets(), 0) {
        Ok(entry) => Ok(Some(entry)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(table_error("allow", &error)),
    }
}

fn block_key(prefix: &Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.bits().into(), prefix.address().octets())
}

fn block_entries(tables: &Tables) -> Result<Vec<Entry>, FilterError> {
    let mut entries = Vec::new();
    for item in tables.block.iter() {
        let (key, expires_ns) = item.map_err(|error| table_error("block", &error))?;
        let bits = u8::try_from(key.prefix_len()).unwrap_or(128);
        entries.push(Entry {
            prefix: Prefix::new(key.data().into(), bits),
            expires_ns,
        });
    }
    Ok(entries)
}

fn remove_block(tables: &mut Tables, prefix: &Prefix) -> Result<bool, FilterError> {
    match tables.block.remove(&block_key(prefix)) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(table_error("block", &error)),
    }
}

fn is_full(error: &MapError) -> bool {
    matches!(
        crate::error::os_error(error),
        Some(libc::E2BIG | libc::ENOSPC)
    )
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
