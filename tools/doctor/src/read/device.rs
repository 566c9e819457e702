//! Network devices that are up.

use std::fs;

use super::files::Files;
use super::xdp;
use crate::machine::{Device, Fact, Interrupt};

const CLASS: &str = "/sys/class/net";
/// Devices looked at; a machine with thousands of containers has thousands of veth pairs.
const DEVICES_MAX: usize = 64;
/// Interrupts of one device looked at.
const INTERRUPTS_MAX: usize = 256;
/// `IFF_UP` and `IFF_LOOPBACK` of `linux/if.h`.
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;

pub(super) fn read(files: &Files) -> Fact<Vec<Device>> {
    if !files.exists(CLASS) {
        return Err(format!("{CLASS} is not there"));
    }
    let features = xdp::features();
    let is_up = |name: &String| {
        let flags = files
            .text(format!("{CLASS}/{name}/flags"))
            .unwrap_or_default();
        let flags = flags.trim_start_matches("0x");
        u32::from_str_radix(flags, 16)
            .is_ok_and(|flags| flags & IFF_UP != 0 && flags & IFF_LOOPBACK == 0)
    };
    let names = files.names(CLASS).into_iter().filter(is_up);
    Ok(names
        .take(DEVICES_MAX)
        .map(|name| device(files, name, &features))
        .collect())
}

fn device(files: &Files, name: String, features: &Fact<Vec<(u32, u64)>>) -> Device {
    let dir = format!("{CLASS}/{name}");
    let has_hardware = files.exists(format!("{dir}/device"));
    let xdp_features = files
        .number(format!("{dir}/ifindex"))
        .and_then(|index: u32| {
            let features = features.as_ref().map_err(String::clone)?;
            let found = features.iter().find(|(of, _)| *of == index);
            found
                .map(|(_, bits)| *bits)
                .ok_or_else(|| "the kernel does not tell for this device".into())
        });
    let queues = files.names(format!("{dir}/queues"));
    let node: Fact<i64> = files.number(format!("{dir}/device/numa_node"));
    Device {
        driver: driver(files, &dir, has_hardware),
        has_hardware,
        mtu_bytes: files.number(format!("{dir}/mtu")),
        rx_queues: queues
            .iter()
            .filter(|queue| queue.starts_with("rx-"))
            .count(),
        xdp_features,
        interrupts: interrupts(files, &dir, has_hardware),
        numa_node: node.ok().and_then(|node| u32::try_from(node).ok()),
        name,
    }
}

fn driver(files: &Files, dir: &str, has_hardware: bool) -> Fact<String> {
    if has_hardware {
        let name = files.link_name(format!("{dir}/device/driver"));
        return name.ok_or_else(|| "the device names no driver".into());
    }
    let uevent = files.text(format!("{dir}/uevent")).unwrap_or_default();
    let kind = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVTYPE="));
    match kind {
        Some(kind) => Ok(kind.to_owned()),
        // veth, dummy and others do not say; a veth has a peer, which is another device.
        None => {
            let own: Fact<u32> = files.number(format!("{dir}/ifindex"));
            let peer: Fact<u32> = files.number(format!("{dir}/iflink"));
            Ok(match (own, peer) {
                (Ok(own), Ok(peer)) if own != peer => "veth".into(),
                _ => "virtual".into(),
            })
        }
    }
}

fn interrupts(files: &Files, dir: &str, has_hardware: bool) -> Fact<Vec<Interrupt>> {
    if !has_hardware {
        return Ok(Vec::new());
    }
    let device = fs::canonicalize(files.path(format!("{dir}/device")))
        .map_err(|error| format!("{dir}/device: {error}"))?;
    // Of a virtio device the bus device above it has the interrupts.
    let numbers = device.ancestors().take(2).find_map(|device| {
        let numbers: Vec<u32> = fs::read_dir(device.join("msi_irqs"))
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        (!numbers.is_empty()).then_some(numbers)
    });
    let mut numbers = numbers.ok_or("the device has no message-signalled interrupts")?;
    numbers.sort_unstable();
    numbers
        .into_iter()
        .take(INTERRUPTS_MAX)
        .map(|number| {
            let irq = format!("/proc/irq/{number}");
            let cpus = files
                .text(format!("{irq}/effective_affinity_list"))
                .or_else(|_| files.text(format!("{irq}/smp_affinity_list")))?;
            Ok(Interrupt { number, cpus })
        })
        .collect()
}
