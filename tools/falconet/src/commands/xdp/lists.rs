//! `falconet xdp allow | block`

use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use falconet_ebpf::{Filter, Owner, Prefix};
use serde_json::json;

use crate::output;

/// Enter addresses in the allow list, or show it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A running validator enters the other validators by itself; what you enter stays when it stops.")]
pub struct Allow {
    /// Network device
    device: String,
    /// Addresses; none shows the list
    addresses: Vec<Ipv6Addr>,
    /// Take the addresses out instead
    #[arg(long, requires = "addresses")]
    remove: bool,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "addresses")]
    json: bool,
}

impl Allow {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let filter = Filter::open(pins, &self.device)?;
        for address in &self.addresses {
            if !self.remove {
                filter.allow(*address, Owner::Operator)?;
            } else if !filter.disallow(*address, Owner::Operator)? {
                anyhow::bail!("{address} was not entered by an operator; see: falconet xdp allow");
            }
        }
        if !self.addresses.is_empty() {
            return Ok(());
        }
        let list = filter.allowed()?;
        if self.json {
            let rows = list.iter().map(|entry| {
                json!({ "address": entry.address, "operator": entry.operator, "node": entry.node })
            });
            return output::json(&rows.collect());
        }
        for entry in list {
            let who = match (entry.operator, entry.node) {
                (true, true) => "operator and validator",
                (true, false) => "operator",
                _ => "validator",
            };
            output::line(format_args!("{:<39}  {who}", entry.address))?;
        }
        Ok(())
    }
}

/// Block prefixes, or show what is blocked
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The block list goes before the allow list. A prefix that a broader and longer block covers is not
entered by itself.")]
pub struct Block {
    /// Network device
    device: String,
    /// Addresses or prefixes, such as 2001:db8:bad::/48; none shows the list
    prefixes: Vec<Prefix>,
    /// For how long; without, for good
    #[arg(long = "for", value_name = "TIME", value_parser = output::parse_duration,
          conflicts_with = "remove", requires = "prefixes")]
    lasting: Option<Duration>,
    /// Lift the blocks instead
    #[arg(long, requires = "prefixes")]
    remove: bool,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "prefixes")]
    json: bool,
}

impl Block {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let filter = Filter::open(pins, &self.device)?;
        for prefix in &self.prefixes {
            if !self.remove {
                filter.block(*prefix, self.lasting)?;
            } else if !filter.unblock(*prefix)? {
                anyhow::bail!("{prefix} is not in the list; see: falconet xdp block");
            }
        }
        if !self.prefixes.is_empty() {
            return Ok(());
        }
        let list = filter.blocked()?;
        if self.json {
            let rows = list.iter().map(|entry| {
                json!({
                    "prefix": entry.prefix.to_string(),
                    "remaining_s": entry.remaining.map(|remaining| remaining.as_secs()),
                })
            });
            return output::json(&rows.collect());
        }
        for entry in list {
            let lasting = entry
                .remaining
                .map_or("for good".into(), |left| format!("{} s", left.as_secs()));
            output::line(format_args!("{:<43}  {lasting}", entry.prefix.to_string()))?;
        }
        Ok(())
    }
}
