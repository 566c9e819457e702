//! `falconet xdp attach | detach | status | limits`

use std::net::Ipv6Addr;
use std::path::Path;

use clap::ValueEnum;
use falconet_ebpf::{BPFFS, Filter, FilterConfig, FilterError, Rate, is_bpffs, mount_bpffs};
use serde_json::{Value, json};

use super::Device;
use crate::output;

/// Attach the filter to a network device
#[derive(Debug, clap::Args)]
pub struct Attach {
    /// Network device, such as eth0
    device: String,
    /// UDP port of the validator's STOQ endpoint
    #[arg(long, default_value_t = 26600)]
    port: u16,
    /// Address of the endpoint; without, the port at every address is meant
    #[arg(long)]
    address: Option<Ipv6Addr>,
    /// Where to attach
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Let nobody in but the allow list
    #[arg(long)]
    closed: bool,
    /// Length of the prefix that counts as one source
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    source_prefix: u8,
    /// Mount a BPF filesystem on /sys/fs/bpf when there is none
    #[arg(long)]
    mount: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// tc on veth and loopback; elsewhere native XDP, else tc, else generic XDP
    Auto,
    /// XDP in the driver
    Native,
    /// XDP in the network stack
    Generic,
    /// tc at ingress
    Tc,
}

impl Attach {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        if self.mount && !is_bpffs(Path::new(BPFFS)) {
            mount_bpffs(Path::new(BPFFS))?;
            output::line(format_args!("mounted a BPF filesystem on {BPFFS}"))?;
        }
        let config = FilterConfig {
            address: self.address,
            source_prefix_bits: self.source_prefix,
            clients: !self.closed,
            ..FilterConfig::new(self.port)
        };
        let how = match self.mode {
            Mode::Auto => falconet_ebpf::Attach::Auto,
            Mode::Native => falconet_ebpf::Attach::Native,
            Mode::Generic => falconet_ebpf::Attach::Generic,
            Mode::Tc => falconet_ebpf::Attach::Tc,
        };
        let filter = Filter::attach(&self.device, &config, how, Some(pins))?;
        output::line(format_args!(
            "attached to {}: {}",
            self.device,
            filter.attachment()
        ))
    }
}

/// Detach the filter and remove its tables
#[derive(Debug, clap::Args)]
pub struct Detach {
    /// Network device, also one that no longer exists
    device: String,
}

impl Detach {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        Filter::remove(pins, &self.device)?;
        output::line(format_args!("detached from {}", self.device))
    }
}

/// Show the attached filters
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for device in Filter::devices(pins)? {
            match Filter::open(pins, &device).and_then(|filter| describe(&filter)) {
                Ok(value) => found.push(value),
                // The others are still worth seeing.
                Err(
                    error @ (FilterError::OtherVersion { .. } | FilterError::NotAttached { .. }),
                ) => {
                    found.push(json!({ "device": device, "error": error.to_string() }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.json {
            return output::json(&Value::from(found));
        }
        if found.is_empty() {
            return output::line("no filter is attached");
        }
        for value in found {
            let rows: Vec<(&str, String)> = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    let text = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    (name.as_str(), text)
                })
                .collect();
            output::fields(&rows)?;
            output::line("")?;
        }
        Ok(())
    }
}

fn describe(filter: &Filter) -> Result<Value, FilterError> {
    let status = filter.status()?;
    let counters = filter.counters()?;
    let total = |fate| counters.total(fate);
    Ok(json!({
        "device": status.device,
        "device_exists": status.alive,
        "mode": status.mode,
        "attached_by": status.owner,
        "port": status.port,
        "address": status.address.map_or_else(|| "any".to_owned(), |address| address.to_string()),
        "clients": if status.clients { "admitted" } else { "shut out" },
        "program_id": status.program,
        "allowed": filter.allowed()?.len(),
        "blocked": filter.blocked()?.len(),
        "passed": total(falconet_ebpf::Fate::Pass),
        "redirected": total(falconet_ebpf::Fate::Redirect),
        "dropped": total(falconet_ebpf::Fate::Drop),
        "limits": status.limits,
    }))
}

/// Show or change the budgets, and whether clients may enter
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A rate is written PACKETS_A_SECOND:BURST, or 0 for no limit.

Examples:
  falconet xdp limits eth0
  falconet xdp limits eth0 --client-initials 20:40 --client-packets 50000:10000
  falconet xdp limits eth0 --clients closed")]
pub struct Limits {
    #[command(flatten)]
    device: Device,
    #[command(flatten)]
    budgets: Budgets,
    /// Whether anybody outside the allow list may enter
    #[arg(long, value_enum)]
    clients: Option<Clients>,
}

/// Budgets, as far as they are to change.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Budgets {
    /// Initials of each client's source prefix
    #[arg(long, value_parser = rate, value_name = "RATE")]
    client_initials: Option<Rate>,
    /// Other packets of each client's source prefix
    #[arg(long, value_parser = rate, value_name = "RATE")]
    client_packets: Option<Rate>,
    /// Initials of all clients on each core
    #[arg(long, value_parser = rate, value_name = "RATE")]
    all_initials: Option<Rate>,
    /// Other packets of all clients on each core
    #[arg(long, value_parser = rate, value_name = "RATE")]
    all_packets: Option<Rate>,
    /// Initials of each allowed address
    #[arg(long, value_parser = rate, value_name = "RATE")]
    validator_initials: Option<Rate>,
    /// Other packets of each allowed address
    #[arg(long, value_parser = rate, value_name = "RATE")]
    validator_packets: Option<Rate>,
}

impl Budgets {
    /// Makes the changes.
    pub fn apply(&self, limits: &mut falconet_ebpf::Limits) {
        for (new, old) in [
            (self.client_initials, &mut limits.client.initials),
            (self.client_packets, &mut limits.client.packets),
            (self.all_initials, &mut limits.clients.initials),
            (self.all_packets, &mut limits.clients.packets),
            (self.validator_initials, &mut limits.validator.initials),
            (self.validator_packets, &mut limits.validator.packets),
        ] {
            if let Some(new) = new {
                *old = new;
            }
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Clients {
    /// Everybody within budget
    Open,
    /// Only the allow list
    Closed,
}

impl Limits {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let filter = self.device.open(pins)?;
        let mut limits = filter.status()?.limits;
        let before = limits;
        self.budgets.apply(&mut limits);
        if limits != before {
            filter.set_limits(&limits)?;
        }
        if let Some(clients) = self.clients {
            filter.set_clients(matches!(clients, Clients::Open))?;
        }
        let status = filter.status()?;
        let text = |rate: Rate| match rate.per_s {
            0 => "no limit".to_owned(),
            per_s => format!("{per_s} a second, {} at once", rate.burst),
        };
        let limits = status.limits;
        output::fields(&[
            ("client initials", text(limits.client.initials)),
            ("client packets", text(limits.client.packets)),
            ("all initials", text(limits.clients.initials)),
            ("all packets", text(limits.clients.packets)),
            ("validator initials", text(limits.validator.initials)),
            ("validator packets", text(limits.validator.packets)),
            (
                "clients",
                if status.clients { "open" } else { "closed" }.into(),
            ),
        ])
    }
}

/// Reads `1000:200` or `0`.
fn rate(text: &str) -> Result<Rate, String> {
    if text == "0" {
        return Ok(Rate::UNLIMITED);
    }
    text.split_once(':')
        .and_then(|(per_s, burst)| Some(Rate::new(per_s.parse().ok()?, burst.parse().ok()?)))
        .ok_or_else(|| "write PACKETS_A_SECOND:BURST, such as 1000:200, or 0 for no limit".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_strictly() {
        assert_eq!(rate("1000:200"), Ok(Rate::new(1000, 200)));
        assert_eq!(rate("0"), Ok(Rate::UNLIMITED));
        for bad in ["", "1000", "a:b", "-1:5", "1:2:3"] {
            assert!(rate(bad).is_err(), "{bad:?}");
        }
    }
}
