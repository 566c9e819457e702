//! `falconet xdp stats | watch`

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use falconet_ebpf::{Counters, Sample};
use serde_json::{Map, Value, json};

use super::Device;
use crate::output;

/// Milliseconds between two looks for samples.
const WATCH_MS: u64 = 100;
/// Where the IPv6 addresses of a frame without VLAN tags lie.
const SOURCE_AT: usize = 22;
/// Where its UDP payload lies.
const PAYLOAD_AT: usize = 62;

/// Show the counters of the filter
#[derive(Debug, clap::Args)]
pub struct Stats {
    #[command(flatten)]
    device: Device,
    /// Print what was added, again and again after this time, such as 1s
    #[arg(long, value_name = "TIME", value_parser = output::parse_duration)]
    every: Option<Duration>,
    /// Print one JSON object a reading
    #[arg(long)]
    json: bool,
    /// Print counters that are zero as well
    #[arg(long)]
    all: bool,
}

impl Stats {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let filter = self.device.open(pins)?;
        let mut last = Counters::default();
        loop {
            let now = filter.counters()?;
            self.print(&now.since(&last))?;
            let Some(every) = self.every else {
                return Ok(());
            };
            last = now;
            std::thread::sleep(every);
        }
    }

    fn print(&self, counters: &Counters) -> anyhow::Result<()> {
        let shown = counters.iter().filter(|(_, count)| self.all || *count > 0);
        if self.json {
            let object: Map<String, Value> = shown
                .map(|(cause, count)| (cause.name().to_owned(), count.into()))
                .collect();
            return output::line(Value::from(object));
        }
        for (cause, count) in shown {
            output::line(format_args!("{:<8}  {cause:<20}  {count}", cause.fate()))?;
        }
        if self.every.is_some() {
            output::line("")?;
        }
        Ok(())
    }
}

/// Print dropped packets as they come, a sample of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of each cause the first packet and then one in 1024 is kept, its first 128 bytes. A sample is shown
once, so that only one process can watch a device.")]
pub struct Watch {
    #[command(flatten)]
    device: Device,
    /// Stop after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print what is there and stop
    #[arg(long)]
    once: bool,
    /// Print one JSON object a packet, with the bytes in hexadecimal
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub fn run(self, pins: &Path) -> anyhow::Result<()> {
        let filter = self.device.open(pins)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        filter.read_samples(|mut samples| {
            while left > 0 {
                if let Some(sample) = samples.next() {
                    self.print(&sample)?;
                    left -= 1;
                } else if self.once {
                    break;
                } else {
                    std::thread::sleep(Duration::from_millis(WATCH_MS));
                }
            }
            Ok(())
        })?
    }

    fn print(&self, sample: &Sample) -> anyhow::Result<()> {
        let mut bytes = String::new();
        for byte in &sample.bytes {
            write!(bytes, "{byte:02x}")?;
        }
        if self.json {
            return output::line(json!({
                "time_ns": sample.time_ns,
                "cause": sample.cause.name(),
                "frame_bytes": sample.frame_bytes,
                "queue": sample.queue,
                "bytes": bytes,
            }));
        }
        let source = sample
            .bytes
            .get(SOURCE_AT..SOURCE_AT + 16)
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map_or("?".into(), |bytes| Ipv6Addr::from(bytes).to_string());
        let payload = bytes.get(PAYLOAD_AT * 2..).unwrap_or("");
        output::line(format_args!(
            "{:<18}  {source}  {} bytes  {}",
            sample.cause,
            sample.frame_bytes,
            &payload[..payload.len().min(40)]
        ))
    }
}
