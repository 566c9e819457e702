//! IPv6, socket buffers and network devices.

use super::{size, unknown};
use crate::{Change, Device, Fact, Finding, Fix, Machine, Severity, capability};

/// What the transport asks the kernel for, bytes: `IoOptions::socket_buffer_bytes` of
/// falconet-dataplane.
const SOCKET_BUFFER_WISHED_BYTES: u64 = 8 << 20;
/// RFC 8200, section 5: a link with less carries no IPv6.
const MTU_IPV6_MIN: u32 = 1280;
/// An Ethernet frame without jumbo, bytes.
const MTU_ETHERNET: u32 = 1500;

/// `NETDEV_XDP_ACT_*` of `linux/netdev.h`.
const XDP_BASIC: u64 = 1;
const XDP_REDIRECT: u64 = 1 << 1;
const XDP_ZEROCOPY: u64 = 1 << 3;

pub(super) fn ipv6(machine: &Machine) -> Finding {
    const CHECK: &str = "ipv6";
    if let Err(refusal) = &machine.ipv6.socket {
        let error = std::io::Error::from_raw_os_error(refusal.errno);
        return Finding::bad(
            CHECK,
            Severity::Fail,
            format!("{}: {error}", refusal.call),
            "validators speak IPv6 only, so none can run here",
        )
        .mend("boot without ipv6.disable=1, and sysctl -w net.ipv6.conf.all.disable_ipv6=0")
        .mend("in a container: docker run --sysctl net.ipv6.conf.all.disable_ipv6=0");
    }
    match &machine.ipv6.global_addresses {
        Err(reason) => unknown(CHECK, reason),
        Ok(0) => Finding::bad(
            CHECK,
            Severity::Note,
            "no address that others can reach, only loopback and link-local ones",
            "validators on other machines cannot reach this one; a testnet on this machine runs",
        )
        .mend("ip -6 address add PREFIX::1/64 dev DEVICE"),
        Ok(count) => Finding::ok(CHECK, format!("{count} address(es) that others can reach")),
    }
}

pub(super) fn receive_buffer(machine: &Machine) -> Finding {
    let costs = "bursts beyond it are dropped by the kernel and sent again";
    let key = "net.core.rmem_max";
    buffer(
        machine,
        "receive_buffer",
        key,
        "rmem",
        &machine.rmem_max_bytes,
        costs,
    )
}

pub(super) fn send_buffer(machine: &Machine) -> Finding {
    let costs = "the network thread waits for the kernel more often when it sends batches";
    let key = "net.core.wmem_max";
    buffer(
        machine,
        "send_buffer",
        key,
        "wmem",
        &machine.wmem_max_bytes,
        costs,
    )
}

fn buffer(
    machine: &Machine,
    check: &'static str,
    key: &'static str,
    fix: &str,
    max: &Fact<u64>,
    costs: &str,
) -> Finding {
    let max = match max {
        Ok(max) => *max,
        Err(reason) => return unknown(check, reason),
    };
    let found = format!("{key} is {}", size(max));
    if max >= SOCKET_BUFFER_WISHED_BYTES {
        return Finding::ok(check, found);
    }
    if machine.process.has(capability::NET_ADMIN) {
        return Finding::ok(check, format!("{found}; CAP_NET_ADMIN may exceed it"));
    }
    let found = format!("{found}, {} wished", size(SOCKET_BUFFER_WISHED_BYTES));
    Finding::bad(check, Severity::Note, found, costs)
        .fix(Fix::one(
            fix,
            Change::Sysctl {
                key,
                from: max.to_string(),
                to: SOCKET_BUFFER_WISHED_BYTES.to_string(),
            },
        ))
        .mend(format!(
            "to keep it: echo '{key} = {SOCKET_BUFFER_WISHED_BYTES}' >> /etc/sysctl.d/90-falconet.conf"
        ))
}

pub(super) fn devices(machine: &Machine) -> Vec<Finding> {
    let devices = match &machine.devices {
        Ok(devices) => devices,
        Err(reason) => return vec![unknown("devices", reason)],
    };
    if devices.is_empty() {
        return vec![unknown("devices", "no device but the loopback is up")];
    }
    let mut findings = Vec::new();
    for device in devices {
        let mut about = vec![driver(device), xdp(device), mtu(device)];
        if device.has_hardware {
            about.push(queues(machine, device));
            about.push(interrupts(machine, device));
            about.extend(numa(machine, device));
        }
        findings.extend(about.into_iter().map(|finding| finding.of(&device.name)));
    }
    findings
}

fn driver(device: &Device) -> Finding {
    match &device.driver {
        Ok(driver) => Finding::ok("driver", driver),
        Err(reason) => unknown("driver", reason),
    }
}

fn xdp(device: &Device) -> Finding {
    const CHECK: &str = "xdp";
    let features = match &device.xdp_features {
        Ok(features) => *features,
        Err(reason) => return unknown(CHECK, reason),
    };
    let is_veth = device.driver.as_deref() == Ok("veth");
    if is_veth {
        return Finding::ok(
            CHECK,
            "native; on veth the filter goes to tc instead, because XDP turns the peer's \
             segmentation offload off",
        );
    }
    if features & XDP_ZEROCOPY != 0 {
        return Finding::ok(CHECK, "native, AF_XDP without copying");
    }
    if features & XDP_BASIC == 0 {
        let mend = if device.has_hardware {
            "a network card whose driver has native XDP (ice, i40e, mlx5, ixgbe, virtio_net); \
             falconet falls back by itself"
        } else {
            "attach the filter to the hardware device below, or to tc: falconet xdp attach"
        };
        return Finding::bad(
            CHECK,
            Severity::Note,
            "the driver has no native XDP",
            "the filter runs later in the kernel (generic XDP or tc): a flood costs several times \
             more CPU a packet",
        )
        .mend(mend);
    }
    let found = if features & XDP_REDIRECT == 0 {
        "native, without redirection"
    } else {
        "native, AF_XDP with one copy"
    };
    Finding::ok(CHECK, found)
}

fn mtu(device: &Device) -> Finding {
    const CHECK: &str = "mtu";
    let mtu = match device.mtu_bytes {
        Ok(mtu) => mtu,
        Err(ref reason) => return unknown(CHECK, reason),
    };
    let name = &device.name;
    let found = format!("{mtu} bytes");
    if mtu < MTU_IPV6_MIN {
        let costs = "IPv6 does not run over this device (RFC 8200 wants 1280)";
        Finding::bad(CHECK, Severity::Warn, found, costs)
            .mend(format!("ip link set dev {name} mtu {MTU_ETHERNET}"))
    } else if mtu < MTU_ETHERNET {
        let costs = "more packets for the same data: throughput falls in proportion";
        Finding::bad(CHECK, Severity::Note, found, costs).mend(format!(
            "ip link set dev {name} mtu {MTU_ETHERNET}, if it is no tunnel"
        ))
    } else if mtu == MTU_ETHERNET {
        let costs = "jumbo frames carry bulk data with a sixth of the packets, about three times \
                     as fast on one core";
        Finding::bad(CHECK, Severity::Note, found, costs).mend(format!(
            "ip link set dev {name} mtu 9000, where every switch between the validators has them; \
             path MTU discovery does the rest"
        ))
    } else {
        Finding::ok(CHECK, found)
    }
}

fn queues(machine: &Machine, device: &Device) -> Finding {
    const CHECK: &str = "queues";
    let (queues, cores) = (device.rx_queues, machine.cpu.usable);
    let found = format!("{queues} receive queue(s)");
    if queues >= 2 || cores < 4 {
        return Finding::ok(CHECK, found);
    }
    Finding::bad(
        CHECK,
        Severity::Note,
        format!("{found} for {cores} processors"),
        "one processor receives everything; a flood and honest traffic share it",
    )
    .mend(format!(
        "ethtool -l {0}, then ethtool -L {0} combined N; of a virtual machine, queues=N at the host",
        device.name
    ))
}

fn interrupts(machine: &Machine, device: &Device) -> Finding {
    const CHECK: &str = "interrupts";
    let interrupts = match &device.interrupts {
        Ok(interrupts) => interrupts,
        Err(reason) => return unknown(CHECK, reason),
    };
    let Some(first) = interrupts.first() else {
        return unknown(CHECK, "the device has none");
    };
    let is_single = first.cpus.bytes().all(|byte| byte.is_ascii_digit());
    let all_same = interrupts.iter().all(|other| other.cpus == first.cpus);
    let numbers: Vec<String> = interrupts.iter().map(|i| i.number.to_string()).collect();
    if interrupts.len() > 1 && is_single && all_same && machine.cpu.usable > 1 {
        let cpu = &first.cpus;
        return Finding::bad(
            CHECK,
            Severity::Note,
            format!("all {} go to processor {cpu}", interrupts.len()),
            "that processor is the limit for packets, and what else runs on it is disturbed",
        )
        .mend(format!(
            "spread them: echo CPU > /proc/irq/N/smp_affinity_list, for N in {}; or run irqbalance",
            numbers.join(" ")
        ));
    }
    let list: Vec<&str> = interrupts.iter().map(|i| i.cpus.as_str()).collect();
    Finding::ok(
        CHECK,
        format!("{} on processors {}", interrupts.len(), list.join(" ")),
    )
}

fn numa(machine: &Machine, device: &Device) -> Option<Finding> {
    const CHECK: &str = "device_numa";
    let node = device.numa_node?;
    if !matches!(machine.cpu.numa_nodes, Ok(nodes) if nodes > 1) {
        return None;
    }
    let costs = "packets cross the link between memory nodes when the validator runs on another";
    Some(
        Finding::bad(
            CHECK,
            Severity::Note,
            format!("on memory node {node}"),
            costs,
        )
        .mend(format!(
            "numactl --cpunodebind={node} --membind={node} falconet run --config FILE; systemd: \
             NUMAPolicy=bind NUMAMask={node}"
        )),
    )
}
