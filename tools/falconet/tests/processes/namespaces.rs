//! `falconet testnet --netns`: real packets between network namespaces, and nothing left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use falconet_types::Scheme;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{FALCONET, Said, wait_for};
use crate::network::{Network, turn};
use crate::privileges::held;
use crate::testnet::{check, children, command, result, run};

/// Why there can be no namespaces here, if so.
fn impossible() -> Option<String> {
    let reason = |text: &str| {
        eprintln!("skipped: {text}");
        Some(text.to_owned())
    };
    if Command::new("ip").arg("-V").output().is_err() {
        return reason("the program ip is missing (apt-get install iproute2)");
    }
    // Exactly what the testnet will do, in a namespace that ends with the command.
    let probe = Command::new("unshare")
        .args([
            "--net", "ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1",
        ])
        .output();
    match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => reason(&format!(
            "no network namespaces with veth here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => reason(&format!("unshare: {error}")),
    }
}

/// Devices of ours in the network of the machine itself, where none must ever be.
fn outside() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| ["falconet-br", "v0", "v1", "v2", "v3"].contains(&name.as_str()))
        .collect()
}

/// The identity of a process's network namespace.
fn namespace(pid: u32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.to_str()?.to_owned())
}

/// Whether a process lives in one of the namespaces, or a mount keeps it.
fn is_alive(namespaces: &BTreeSet<String>) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    pids.any(|pid| namespace(pid).is_some_and(|own| namespaces.contains(&own)))
        || namespaces.iter().any(|own| mounts.contains(own))
}

#[test]
fn validators_in_namespaces_commit_and_agree() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "testnet", "--netns", "--for", "4s", "--load", "100", "--json",
    ];
    for more in [
        &["--mtu", "9000"][..],
        &["--backend", "mmsg"],
        &["--backend", "xdp"],
    ] {
        let more = [more, &["--filter", "off"]].concat();
        let said = run(dir.path(), &[&arguments[..], &more].concat());
        assert!(
            said.stderr.contains("stoq [fdfa:1c::10]:26600"),
            "{}",
            said.stderr
        );
        check(&result(said), 4, "falcon1024");
    }
    assert_eq!(outside(), [""; 0]);
}

#[test]
fn validators_commit_while_junk_hits_one_of_them() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "testnet", "--netns", "--for", "4s", "--load", "100", "--json",
    ];
    for filter in ["on", "native", "off"] {
        let more = ["--flood", "5000", "--filter", filter];
        let said = run(dir.path(), &[&arguments[..], &more].concat());
        if said.code == 1 && said.stderr.contains("--filter off") {
            eprintln!(
                "skipped: --filter {filter}: {}",
                said.stderr.lines().last().unwrap()
            );
            continue;
        }
        assert!(said.stderr.contains("packets sent"), "{}", said.stderr);
        if filter != "off" {
            for cause in [
                "quic_short",
                "quic_version",
                "quic_connection_id",
                "initial_small",
            ] {
                assert!(
                    said.stderr.contains(cause),
                    "{cause} is missing: {}",
                    said.stderr
                );
            }
        }
        check(&result(said), 4, "falcon1024");
    }
}

/// A validator with `[xdp]` in a network of its own, to which three bytes are sent that are no QUIC.
const WITH_A_FILTER: &str = r#"
set -e
ip link set lo up
mkdir pins
mount -t bpf bpf pins
"$FALCONET" run --config config.toml > said 2> log &
trap 'kill $!; wait' EXIT
until grep -q ready said; do kill -0 $!; sleep 0.05; done
echo -n abc > "/dev/udp/::1/$STOQ"
until "$FALCONET" top --once --json "http://[::1]:$HTTP" > live && grep -Eq '"quic_short": ?1' live; do
    kill -0 $!
    sleep 0.2
done
"$FALCONET" top --once "http://[::1]:$HTTP" > text
exec 3<> "/dev/tcp/::1/$HTTP"
printf 'GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3
cat <&3 > metrics
"#;

#[test]
fn operators_see_what_a_validators_filter_does() {
    if impossible().is_some() {
        return;
    }
    let network = Network::new(1, 0, Scheme::Falcon512);
    let home = network.home(0);
    let config = fs::read_to_string(home.join("config.toml")).unwrap();
    let pins = home.join("pins");
    let section = format!("\n[xdp]\ndevice = \"lo\"\npins = {pins:?}\n");
    fs::write(home.join("config.toml"), config + &section).unwrap();
    let http = network.url(0).rsplit(':').next().unwrap().to_owned();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "bash", "-c", WITH_A_FILTER])
        .current_dir(&home)
        .env("FALCONET", FALCONET)
        .env("STOQ", network.stoq(0).port().to_string())
        .env("HTTP", http)
        .output()
        .unwrap();
    let read = |name: &str| fs::read_to_string(home.join(name)).unwrap_or_default();
    let log = read("log");
    if log.contains("running without a filter") {
        eprintln!("skipped: {log}");
        return;
    }
    assert!(output.status.success(), "{output:?}\n{log}");
    let answer: serde_json::Value = serde_json::from_str(&read("live")).unwrap();
    let xdp = &answer["validators"][0]["live"]["xdp"];
    assert_eq!(
        (&xdp["device"], &xdp["attached"]),
        (&"lo".into(), &true.into())
    );
    assert!(xdp["dropped"].as_u64() >= Some(1), "{xdp}");
    let text = read("text");
    assert!(
        text.contains("xdp: lo ") && text.contains("quic_short 1"),
        "{text}"
    );
    let metrics = read("metrics");
    for line in [
        "falconet_xdp_attached 1",
        "falconet_xdp_packets_total{fate=\"drop\",cause=\"quic_short\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
}

#[test]
fn the_network_is_gone_after_ctrl_c_and_after_kill_9() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    for signal in [Signal::INT, Signal::KILL] {
        let dir = tempfile::tempdir().unwrap();
        let arguments = [
            "testnet",
            "--netns",
            "--validators",
            "2",
            "--load",
            "0",
            "--dir",
            "net",
        ];
        let mut testnet = command(dir.path(), &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(testnet.stdout.take().unwrap()).lines();
        let runs = lines.by_ref().any(|line| line.unwrap().contains("nsenter"));
        assert!(runs, "the testnet ended early");
        // Somebody must read on, or the pipe fills up.
        std::thread::spawn(move || lines.for_each(drop));

        let validators = children(testnet.id());
        assert_eq!(validators.len(), 2);
        let mut namespaces: BTreeSet<String> = validators
            .iter()
            .filter_map(|pid| namespace(*pid))
            .collect();
        namespaces.extend(namespace(testnet.id()));
        assert_eq!(namespaces.len(), 3, "one each and the hub");
        assert!(!namespaces.contains(&namespace(std::process::id()).unwrap()));
        for pid in &validators {
            let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
            assert!(
                devices.contains("eth") && !devices.contains("falconet-br"),
                "{devices}"
            );
            assert_eq!(held(*pid), 0, "capabilities are dropped");
        }
        let hub = fs::read_to_string(format!("/proc/{}/net/dev", testnet.id())).unwrap();
        assert!(hub.contains("falconet-br") && hub.contains("v1"), "{hub}");
        assert!(is_alive(&namespaces));

        kill_process(Pid::from_child(&testnet), signal).unwrap();
        testnet.wait().unwrap();
        wait_for("the namespaces to end", || {
            (!is_alive(&namespaces)).then_some(())
        });
        assert_eq!(outside(), [""; 0]);
    }
}

#[test]
fn without_the_right_the_error_says_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("setpriv")
        .args([
            "--bounding-set=-all",
            "--inh-caps=-all",
            FALCONET,
            "testnet",
            "--netns",
        ])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .output();
    match output {
        Ok(output) => Said::from(&output).fails_with(&["CAP_SYS_ADMIN", "--map-root-user"]),
        Err(error) => eprintln!("skipped: setpriv: {error}"),
    }
}
