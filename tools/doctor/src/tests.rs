//! Machines that one can think of, and what the doctor says about them.

use std::collections::HashSet;
use std::time::Duration;

use super::*;

/// A machine without fault.
fn good() -> Machine {
    let no_limit = Limit {
        soft: None,
        hard: None,
    };
    Machine {
        kernel: Kernel {
            release: Ok("6.12.9-amd64".into()),
        },
        uring: Uring {
            probe: UringProbe::Works,
            disabled: Ok(0),
            in_group: false,
        },
        process: Process {
            uid: 0,
            capabilities: Ok(u64::MAX),
            seccomp: Ok(0),
            memlock_bytes: no_limit,
            files: no_limit,
        },
        btf: Ok(true),
        bpffs: Ok(BpfFs::Writable),
        ipv6: Ipv6 {
            socket: Ok(()),
            global_addresses: Ok(1),
        },
        devices: Ok(vec![device()]),
        rmem_max_bytes: Ok(16 << 20),
        wmem_max_bytes: Ok(16 << 20),
        cpu: Cpu {
            usable: 16,
            simd: Simd::Avx512,
            governors: Ok(vec![governor(0, "performance")]),
            numa_nodes: Ok(1),
        },
        memory: Memory {
            available_bytes: Ok(16 << 30),
            huge_pages: Ok(64),
            huge_page_bytes: Ok(2 << 20),
            transparent: Ok("madvise".into()),
        },
        cgroup: Ok(Cgroup::default()),
        clock: Clock {
            source: Ok("tsc".into()),
            sources: vec!["tsc".into(), "hpet".into()],
            synchronised: Ok((true, Duration::from_millis(12))),
        },
        disk: Ok(Disk {
            path: "/srv/falconet".into(),
            filesystem: "ext4".into(),
            is_durable: true,
            free_bytes: 100 << 30,
            fsync: Ok(Fsync {
                median: Duration::from_micros(300),
                max: Duration::from_micros(900),
            }),
        }),
    }
}

fn device() -> Device {
    Device {
        name: "eth0".into(),
        driver: Ok("ice".into()),
        has_hardware: true,
        mtu_bytes: Ok(9000),
        rx_queues: 8,
        xdp_features: Ok(0x7f),
        interrupts: Ok((0..8)
            .map(|n| Interrupt {
                number: 40 + n,
                cpus: n.to_string(),
            })
            .collect()),
        numa_node: Some(0),
    }
}

fn governor(policy: usize, name: &str) -> Governor {
    Governor {
        file: format!("/sys/devices/system/cpu/cpufreq/policy{policy}/scaling_governor").into(),
        name: name.into(),
        cpus: 2,
    }
}

/// The one finding of a check after a change to the good machine.
fn finding(check: &str, spoil: impl FnOnce(&mut Machine)) -> Finding {
    let mut machine = good();
    spoil(&mut machine);
    let mut findings = super::check(&machine).findings;
    findings.retain(|finding| finding.check == check);
    assert_eq!(findings.len(), 1, "{check}: {findings:?}");
    findings.remove(0)
}

fn refuse(machine: &mut Machine, errno: i32) {
    machine.uring.probe = UringProbe::Refused(Refusal {
        call: "io_uring_setup",
        errno,
    });
}

#[test]
fn of_a_good_machine_nothing_is_said() {
    let report = check(&good());
    assert_eq!(report.worst, Severity::Ok, "{report:?}");
    assert_eq!(report.fixes().count(), 0);
}

#[test]
fn a_container_with_seccomp_hears_of_seccomp() {
    for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
        let finding = finding("io_uring", |machine| {
            machine.process.seccomp = Ok(2);
            machine.process.capabilities = Ok(0);
            refuse(machine, errno);
        });
        assert_eq!(finding.severity, Severity::Warn);
        assert!(
            finding.found.contains("seccomp filter forbids"),
            "{finding}"
        );
        assert!(finding.mend[0].contains("io_uring_setup") && finding.fix.is_none());
    }
}

#[test]
fn a_setting_that_forbids_io_uring_is_told_from_seccomp() {
    let unprivileged = |value: u32, in_group: bool| {
        finding("io_uring", |machine| {
            machine.process.capabilities = Ok(0);
            machine.process.seccomp = Ok(2);
            machine.uring.disabled = Ok(value);
            machine.uring.in_group = in_group;
            refuse(machine, libc::EPERM);
        })
    };
    for value in [1, 2] {
        let finding = unprivileged(value, false);
        assert!(
            finding
                .found
                .contains(&format!("io_uring_disabled is {value}")),
            "{finding}"
        );
        let fix = finding.fix.expect("can be mended here");
        assert_eq!(fix.commands(), ["sysctl -w kernel.io_uring_disabled=0"]);
        assert_eq!(
            fix.undo(),
            [format!("sysctl -w kernel.io_uring_disabled={value}")]
        );
    }
    // Who is in the group is spared by 1, so something else forbids it.
    assert!(unprivileged(1, true).found.contains("seccomp"));
    let privileged = finding("io_uring", |machine| {
        machine.uring.disabled = Ok(1);
        refuse(machine, libc::EPERM);
    });
    assert!(privileged.found.contains("neither"), "{privileged}");
}

#[test]
fn too_little_locked_memory_is_told_from_the_rest() {
    let finding = finding("io_uring", |machine| refuse(machine, libc::ENOMEM));
    assert!(finding.found.contains("memlock") && finding.mend[0].contains("LimitMEMLOCK"));
}

#[test]
fn a_kernel_without_io_uring_is_told_from_a_hidden_one() {
    let absent = finding("io_uring", |machine| {
        machine.uring.disabled = Err("absent".into());
        refuse(machine, libc::ENOSYS);
    });
    assert!(absent.found.contains("has no io_uring"), "{absent}");
    let either = finding("io_uring", |machine| {
        machine.uring.disabled = Err("absent".into());
        machine.process.seccomp = Ok(2);
        refuse(machine, libc::ENOSYS);
    });
    assert!(either.found.contains("hides it, or"), "{either}");
    assert_eq!(either.mend.len(), 2);
}

#[test]
fn old_kernels_are_judged_by_what_they_lack() {
    for (release, severity) in [
        ("4.19.0-27-amd64", Severity::Fail),
        ("5.15.0", Severity::Warn),
        ("6.1.0-28-amd64", Severity::Note),
        ("6.6.1", Severity::Ok),
        ("7.0-rc1", Severity::Ok),
        ("strange", Severity::NotChecked),
    ] {
        let finding = finding("kernel", |machine| {
            machine.kernel.release = Ok(release.into())
        });
        assert_eq!(finding.severity, severity, "{release}");
    }
    let lacking = finding("io_uring", |machine| {
        machine.uring.probe = UringProbe::Lacks(vec!["operation recvmsg".into()]);
    });
    assert!(lacking.found.contains("operation recvmsg"));
}

#[test]
fn a_user_without_rights_hears_what_each_is_for() {
    let finding = finding("capabilities", |machine| {
        machine.process.capabilities = Ok(1 << capability::NET_RAW);
    });
    assert!(finding.found.contains("present: CAP_NET_RAW;"), "{finding}");
    assert!(
        finding
            .costs
            .unwrap()
            .contains("without CAP_BPF a validator cannot load")
    );
    let setcap = &finding.mend[1];
    assert!(
        setcap.contains("setcap cap_net_admin,cap_bpf,cap_ipc_lock+ep"),
        "{setcap}"
    );
}

#[test]
fn a_kernel_without_btf_and_bpf_filesystem_is_noted() {
    let btf = finding("btf", |machine| machine.btf = Ok(false));
    assert_eq!(btf.severity, Severity::Note);
    let bpffs = finding("bpf_filesystem", |machine| {
        machine.bpffs = Ok(BpfFs::NotMounted)
    });
    let fix = bpffs.fix.unwrap();
    assert_eq!(fix.commands(), ["mount -t bpf bpf /sys/fs/bpf"]);
    assert_eq!(fix.undo(), ["umount /sys/fs/bpf"]);
}

#[test]
fn a_machine_without_ipv6_cannot_run_a_validator() {
    let finding = finding("ipv6", |machine| {
        machine.ipv6.socket = Err(Refusal {
            call: "socket(AF_INET6)",
            errno: libc::EAFNOSUPPORT,
        });
    });
    assert_eq!(finding.severity, Severity::Fail);
    let alone = self::finding("ipv6", |machine| machine.ipv6.global_addresses = Ok(0));
    assert_eq!(alone.severity, Severity::Note);
}

#[test]
fn small_socket_buffers_matter_without_privileges_only() {
    let small = |capabilities| {
        finding("receive_buffer", |machine| {
            machine.rmem_max_bytes = Ok(212_992);
            machine.process.capabilities = Ok(capabilities);
        })
    };
    assert_eq!(small(u64::MAX).severity, Severity::Ok);
    let fix = small(0).fix.unwrap();
    assert_eq!(fix.name, "rmem");
    assert_eq!(fix.commands(), ["sysctl -w net.core.rmem_max=8388608"]);
    assert_eq!(fix.undo(), ["sysctl -w net.core.rmem_max=212992"]);
}

#[test]
fn devices_are_judged_one_by_one() {
    let spoil = |change: fn(&mut Device)| {
        move |machine: &mut Machine| {
            let mut device = device();
            change(&mut device);
            machine.devices = Ok(vec![device]);
        }
    };
    let mtu = finding("mtu", spoil(|device| device.mtu_bytes = Ok(1500)));
    assert_eq!(
        (mtu.severity, mtu.subject.as_deref()),
        (Severity::Note, Some("eth0"))
    );
    let narrow = finding("mtu", spoil(|device| device.mtu_bytes = Ok(1000)));
    assert_eq!(narrow.severity, Severity::Warn);
    let xdp = finding("xdp", spoil(|device| device.xdp_features = Ok(0)));
    assert!(xdp.severity == Severity::Note && xdp.found.contains("no native XDP"));
    let old = finding(
        "xdp",
        spoil(|device| device.xdp_features = Err("Linux 6.3".into())),
    );
    assert_eq!(
        (old.severity, old.found.as_str()),
        (Severity::NotChecked, "Linux 6.3")
    );
    let queues = finding("queues", spoil(|device| device.rx_queues = 1));
    assert!(queues.mend[0].contains("ethtool -L eth0"), "{queues}");
    let interrupts = finding(
        "interrupts",
        spoil(|device| {
            device.interrupts = Ok((50..54)
                .map(|number| Interrupt {
                    number,
                    cpus: "0".into(),
                })
                .collect());
        }),
    );
    assert!(interrupts.mend[0].contains("50 51 52 53"), "{interrupts}");
    let spread = finding("interrupts", |_| {});
    assert_eq!(spread.severity, Severity::Ok);
    let far = finding("device_numa", |machine| machine.cpu.numa_nodes = Ok(2));
    assert!(far.mend[0].contains("--cpunodebind=0"), "{far}");
    let veth = finding(
        "xdp",
        spoil(|device| {
            device.driver = Ok("veth".into());
            device.has_hardware = false;
        }),
    );
    assert!(veth.found.contains("tc"), "{veth}");
}

#[test]
fn a_control_group_that_throttles_is_a_warning() {
    let finding = finding("processors", |machine| {
        machine.cgroup = Ok(Cgroup {
            cpus_max: Some(1.5),
            memory_max_bytes: None,
        });
    });
    assert_eq!(finding.severity, Severity::Warn);
    assert!(finding.found.contains("1.50"), "{finding}");
    let memory = self::finding("memory", |machine| {
        machine.cgroup = Ok(Cgroup {
            cpus_max: None,
            memory_max_bytes: Some(512 << 20),
        });
    });
    assert!(memory.found.contains("512 MiB"), "{memory}");
}

#[test]
fn processors_are_judged_by_instructions_and_governor() {
    let simd = |simd| finding("simd", |machine| machine.cpu.simd = simd).severity;
    assert_eq!(simd(Simd::Avx2), Severity::Note);
    assert_eq!(simd(Simd::Portable), Severity::Warn);
    let governor = finding("governor", |machine| {
        machine.cpu.governors = Ok(vec![governor(0, "performance"), governor(1, "powersave")]);
    });
    let fix = governor.fix.unwrap();
    let file = "/sys/devices/system/cpu/cpufreq/policy1/scaling_governor";
    assert_eq!(fix.commands(), [format!("echo performance > {file}")]);
    assert_eq!(fix.undo(), [format!("echo powersave > {file}")]);
    let virtual_machine = finding("governor", |machine| {
        machine.cpu.governors = Err("virtual".into());
    });
    assert_eq!(virtual_machine.severity, Severity::NotChecked);
}

#[test]
fn clocks_are_judged_by_source_and_step() {
    let slow = finding("clock_source", |machine| {
        machine.clock.source = Ok("hpet".into())
    });
    assert!(slow.fix.unwrap().commands()[0].starts_with("echo tsc >"));
    let stuck = finding("clock_source", |machine| {
        machine.clock.source = Ok("hpet".into());
        machine.clock.sources = vec!["hpet".into()];
    });
    assert!(stuck.fix.is_none() && !stuck.mend.is_empty());
    for answer in [(false, Duration::ZERO), (true, Duration::from_secs(3))] {
        let loose = finding("clock_sync", |machine| {
            machine.clock.synchronised = Ok(answer)
        });
        assert_eq!(loose.severity, Severity::Warn, "{answer:?}");
    }
}

#[test]
fn disks_are_judged_by_kind_room_and_sync() {
    let disk = |check, change: fn(&mut Disk)| {
        finding(check, |machine| change(machine.disk.as_mut().unwrap()))
    };
    let slow = disk("disk_sync", |disk| {
        disk.fsync = Ok(Fsync {
            median: Duration::from_millis(25),
            max: Duration::from_millis(80),
        });
    });
    assert_eq!(slow.severity, Severity::Warn);
    let closed = disk("disk_sync", |disk| {
        disk.fsync = Err("permission denied".into())
    });
    assert!(closed.severity == Severity::Fail && closed.mend[0].contains("chown"));
    let full = disk("disk_room", |disk| disk.free_bytes = 1 << 20);
    assert_eq!(full.severity, Severity::Fail);
    let memory = disk("disk_filesystem", |disk| disk.is_durable = false);
    assert_eq!(memory.severity, Severity::Warn);
    let absent = finding("disk_sync", |machine| {
        machine.disk = Err("none given".into())
    });
    assert_eq!(absent.severity, Severity::NotChecked);
}

#[test]
fn everything_wrong_at_once_is_said_at_once_with_cost_and_remedy() {
    let mut machine = good();
    let small = Limit {
        soft: Some(16),
        hard: Some(16),
    };
    machine.kernel.release = Ok("4.4.0".into());
    refuse(&mut machine, libc::EPERM);
    machine.uring.disabled = Ok(2);
    machine.process.capabilities = Ok(0);
    (machine.process.memlock_bytes, machine.process.files) = (small, small);
    machine.btf = Ok(false);
    machine.bpffs = Ok(BpfFs::NotMounted);
    (machine.rmem_max_bytes, machine.wmem_max_bytes) = (Ok(4096), Ok(4096));
    machine.cpu.simd = Simd::Portable;
    machine.cpu.governors = Ok(vec![governor(0, "powersave")]);
    machine.memory.huge_pages = Ok(0);
    machine.memory.transparent = Ok("never".into());
    machine.clock.source = Ok("acpi_pm".into());
    machine.clock.synchronised = Ok((false, Duration::ZERO));
    let report = check(&machine);
    assert_eq!(report.worst, Severity::Fail);
    let bad: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| finding.severity >= Severity::Note)
        .collect();
    assert!(bad.len() >= 15, "{bad:?}");
    for finding in bad {
        assert!(
            finding.costs.is_some() && !finding.mend.is_empty(),
            "{finding}"
        );
    }
    let names: HashSet<&str> = report.fixes().map(|fix| fix.name.as_str()).collect();
    let expected = [
        "io_uring",
        "bpffs",
        "rmem",
        "wmem",
        "governor",
        "hugepages",
        "thp",
        "clocksource",
    ];
    assert_eq!(names, HashSet::from(expected));
}

#[test]
fn the_json_has_the_documented_fields() {
    let mut machine = good();
    machine.rmem_max_bytes = Ok(4096);
    machine.process.capabilities = Ok(0);
    let json = serde_json::to_value(check(&machine)).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["worst"], "note");
    let findings = json["findings"].as_array().unwrap();
    let buffer = findings
        .iter()
        .find(|f| f["check"] == "receive_buffer")
        .unwrap();
    assert_eq!(buffer["severity"], "note");
    assert_eq!(buffer["fix"]["name"], "rmem");
    assert_eq!(buffer["fix"]["undo"][0], "sysctl -w net.core.rmem_max=4096");
    let kernel = findings.iter().find(|f| f["check"] == "kernel").unwrap();
    assert!(kernel.get("fix").is_none() && kernel["mend"].as_array().unwrap().is_empty());
    let mtu = findings.iter().find(|f| f["check"] == "mtu").unwrap();
    assert_eq!(mtu["subject"], "eth0");
}

#[test]
fn a_refused_change_names_its_command() {
    let change = Change::Setting {
        path: "/nowhere/at/all".into(),
        from: "a".into(),
        to: "b".into(),
    };
    let error = change.make().unwrap_err().to_string();
    assert!(error.contains("echo b > /nowhere/at/all"), "{error}");
}

#[test]
fn a_change_is_made_and_taken_back() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("setting");
    std::fs::write(&path, "powersave\n").unwrap();
    let change = |from: &str, to: &str| Change::Setting {
        path: path.clone(),
        from: from.into(),
        to: to.into(),
    };
    change("powersave", "performance").make().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "performance");
    change("performance", "powersave").make().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "powersave");
}
