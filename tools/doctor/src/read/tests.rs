//! Readers over copies of `/proc` and `/sys`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn the_narrowest_control_group_counts() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "/proc/self/cgroup", "0::/pod/box\n");
    write(root, "/sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
    write(root, "/sys/fs/cgroup/pod/box/memory.max", "max\n");
    write(root, "/sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
    write(root, "/sys/fs/cgroup/pod/memory.max", "1073741824\n");
    let cgroup = process::cgroup(&Files::under(root)).unwrap();
    assert_eq!(cgroup.cpus_max, Some(1.5));
    assert_eq!(cgroup.memory_max_bytes, Some(1 << 30));
    write(root, "/proc/self/cgroup", "4:memory:/x\n");
    assert!(
        process::cgroup(&Files::under(root))
            .unwrap_err()
            .contains("version 1")
    );
}

#[test]
fn governors_are_read_by_policy() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let dir = "/sys/devices/system/cpu/cpufreq";
    for (policy, governor, cpus) in [(0, "powersave", "0 1"), (2, "performance", "2")] {
        write(
            root,
            &format!("{dir}/policy{policy}/scaling_governor"),
            governor,
        );
        write(root, &format!("{dir}/policy{policy}/affected_cpus"), cpus);
    }
    let governors = cpu::read(&Files::under(root)).governors.unwrap();
    let found: Vec<_> = governors
        .iter()
        .map(|g| (g.name.as_str(), g.cpus))
        .collect();
    assert_eq!(found, [("powersave", 2), ("performance", 1)]);
    let empty = tempfile::tempdir().unwrap();
    assert!(cpu::read(&Files::under(empty.path())).governors.is_err());
}

#[test]
fn memory_is_in_bytes_and_the_chosen_word_in_brackets() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let meminfo =
        "MemAvailable:    2048 kB\nHugePages_Total:       3\nHugepagesize:       2048 kB\n";
    write(root, "/proc/meminfo", meminfo);
    write(
        root,
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    );
    let memory = cpu::memory(&Files::under(root));
    assert_eq!(memory.available_bytes, Ok(2 << 20));
    assert_eq!(
        (memory.huge_pages, memory.huge_page_bytes),
        (Ok(3), Ok(2 << 20))
    );
    assert_eq!(memory.transparent.as_deref(), Ok("madvise"));
}

#[test]
fn only_addresses_of_global_scope_count() {
    let table = "fe800000000000000000000000000001 02 40 20 80     eth0\n\
                 20010db8000000000000000000000001 02 40 00 80     eth0\n\
                 00000000000000000000000000000001 01 80 10 80       lo\n";
    assert_eq!(global_addresses(table), 1);
}

#[test]
fn devices_that_are_down_or_loop_back_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (name, flags) in [("lo", "0x9"), ("down0", "0x1002"), ("veth1", "0x1003")] {
        let dir = format!("/sys/class/net/{name}");
        write(root, &format!("{dir}/flags"), flags);
        write(root, &format!("{dir}/mtu"), "1500\n");
        write(root, &format!("{dir}/ifindex"), "700001\n");
        write(root, &format!("{dir}/iflink"), "700002\n");
        write(root, &format!("{dir}/queues/rx-0/rps_cpus"), "0\n");
    }
    let devices = device::read(&Files::under(root)).unwrap();
    assert_eq!(devices.len(), 1);
    let device = &devices[0];
    assert_eq!((device.name.as_str(), device.rx_queues), ("veth1", 1));
    assert_eq!(device.driver.as_deref(), Ok("veth"));
    assert!(!device.has_hardware && device.xdp_features.is_err());
    assert_eq!(device.interrupts, Ok(Vec::new()));
}

#[test]
fn a_data_directory_that_is_not_there_yet_is_looked_at_above() {
    let temp = tempfile::tempdir().unwrap();
    let disk = disk::read(&temp.path().join("a/b/data")).unwrap();
    assert_eq!(disk.path, temp.path());
    let fsync = disk.fsync.unwrap();
    assert!(fsync.median > Duration::ZERO && fsync.max >= fsync.median);
    assert_eq!(
        fs::read_dir(temp.path()).unwrap().count(),
        0,
        "nothing stays behind"
    );
}

#[test]
fn this_machine_can_be_read() {
    let machine = Machine::read(&ReadOptions::default());
    assert!(machine.kernel.version().is_some(), "{:?}", machine.kernel);
    assert!(machine.process.capabilities.is_ok() && machine.cpu.usable > 0);
    assert!(machine.disk.unwrap_err().contains("--data"));
}
