//! `falconet xdp …`: the filter before the network stack, by hand.

mod lists;
mod manage;
mod watch;

use std::path::PathBuf;

use clap::Subcommand;
use falconet_ebpf::{Filter, PIN_ROOT};
pub use manage::Budgets;

/// Look after the filter that drops unwanted packets before the network stack sees them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The filter passes everything that is not for the validator's port. It stays attached, also when a
validator stops or crashes, until it is detached. Its tables are files below --pins on a BPF
filesystem, so that these commands work beside a running validator.

Examples:
  falconet xdp attach eth0 --port 26600
  falconet xdp allow eth0 2001:db8::7
  falconet xdp block eth0 2001:db8:bad::/48 --for 1h
  falconet xdp stats eth0 --every 1s
  falconet xdp watch eth0
  falconet xdp detach eth0")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Directory of the pinned tables, on a BPF filesystem
    #[arg(long, global = true, value_name = "DIR", default_value = PIN_ROOT)]
    pins: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    Attach(manage::Attach),
    Detach(manage::Detach),
    Status(manage::Status),
    Limits(manage::Limits),
    Allow(lists::Allow),
    Block(lists::Block),
    Stats(watch::Stats),
    Watch(watch::Watch),
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let pins = &self.pins;
        match self.command {
            Command::Attach(args) => args.run(pins),
            Command::Detach(args) => args.run(pins),
            Command::Status(args) => args.run(pins),
            Command::Limits(args) => args.run(pins),
            Command::Allow(args) => args.run(pins),
            Command::Block(args) => args.run(pins),
            Command::Stats(args) => args.run(pins),
            Command::Watch(args) => args.run(pins),
        }
    }
}

/// The device of a command; may be left out when one filter is attached.
#[derive(Debug, clap::Args)]
struct Device {
    /// Network device; may be left out when only one has a filter
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
}

impl Device {
    fn open(&self, pins: &std::path::Path) -> anyhow::Result<Filter> {
        let device = match &self.device {
            Some(device) => device.clone(),
            None => only(Filter::devices(pins)?)?,
        };
        Ok(Filter::open(pins, &device)?)
    }
}

/// The only one of the devices with a filter.
fn only(mut devices: Vec<String>) -> anyhow::Result<String> {
    match devices.len() {
        0 => anyhow::bail!("no filter is attached; run: falconet xdp attach DEVICE"),
        1 => Ok(devices.remove(0)),
        _ => anyhow::bail!("filters are attached to {}; name one", devices.join(", ")),
    }
}
