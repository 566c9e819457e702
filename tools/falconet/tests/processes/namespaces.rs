//! `falconet testnet --netns`: real packets between network namespaces, and nothing left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use falconet_dataplane::{Channel, Event, KIND_APPLICATION_MIN, PeerTarget, Stoq, StoqConfig};
use falconet_types::Scheme;
use falconet_types::genesis::Genesis;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

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
fn af_xdp_behind_the_filter_commits() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    for filter in ["on", "generic"] {
        let dir = tempfile::tempdir().unwrap();
        let arguments = [
            "testnet",
            "--netns",
            "--for",
            "4s",
            "--load",
            "100",
            "--json",
            "--dir",
            "net",
            "--backend",
            "xdp",
            "--filter",
            filter,
        ];
        let said = run(dir.path(), &arguments);
        if without_filter(&said) {
            return;
        }
        let redirected = number_before(&said.stderr, " redirected to AF_XDP");
        assert!(redirected > 100, "{}", said.stderr);
        check(&result(said), 4, "falcon1024");
        for i in 0..4 {
            let log = dir.path().join(format!("net/validator-{i}/validator.log"));
            let log = fs::read_to_string(log).unwrap();
            assert!(log.contains("behind the filter"), "{log}");
        }
    }
}

#[test]
fn validators_commit_when_the_clients_budgets_are_used_up() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    // Forged sources share the budget of all clients, which is gone at once: what honest clients
    // send to validator 0 gets through now and then.
    let arguments = [
        "testnet",
        "--netns",
        "--for",
        "6s",
        "--load",
        "100",
        "--json",
        "--filter",
        "native",
        "--flood",
        "20000",
        "--flood-kind",
        "forged-packets",
        "--all-packets",
        "500:50",
    ];
    let said = run(dir.path(), &arguments);
    if without_filter(&said) {
        return;
    }
    let dropped = number_after(&said.stderr, "clients_packets ");
    assert!(dropped > 10_000, "{}", said.stderr);
    // The validators' own budgets are apart: none of their packets was dropped, and validator 0
    // signs with the others.
    assert!(!said.stderr.contains("validator_"), "{}", said.stderr);
    assert!(said.stderr.contains("4 of 4 sign"), "{}", said.stderr);
    check(&result(said), 4, "falcon1024");
}

#[test]
fn validators_look_after_the_filters() {
    if impossible().is_some() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["testnet", "--netns", "--load", "0", "--dir", "net"];
    let mut testnet = command(dir.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(testnet.stdout.take().unwrap()).lines();
    let runs = lines.by_ref().any(|line| line.unwrap().contains("nsenter"));
    if !runs {
        let said = Said::from(&testnet.wait_with_output().unwrap());
        assert!(without_filter(&said), "{}", said.stderr);
        return;
    }
    std::thread::spawn(move || lines.for_each(drop));
    let mut testnet = Ends(testnet);
    let hub = testnet.0.id();
    // In the network of the hub, where the pins are; nothing of them is seen from outside.
    let xdp = |arguments: &[&str]| -> Value {
        let target = format!("--target={hub}");
        let output = Command::new("nsenter")
            .args([&target, "--mount", "--net", FALCONET, "xdp"])
            .args(arguments)
            .output()
            .unwrap();
        serde_json::from_str(&Said::from(&output).ok()).unwrap()
    };
    assert!(!Path::new("/sys/fs/bpf/falconet/eth3").exists());
    for i in 0..4 {
        let list = xdp(&["allow", &format!("eth{i}"), "--json"]);
        let addresses: BTreeSet<&str> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                assert_eq!(
                    (&entry["node"], &entry["operator"]),
                    (&json!(true), &json!(false))
                );
                entry["address"].as_str().unwrap()
            })
            .collect();
        let others = (0..4).filter(|other| *other != i);
        let expected: Vec<String> = others.map(|i| format!("fdfa:1c::1{i}")).collect();
        assert_eq!(addresses, expected.iter().map(String::as_str).collect());
    }

    // A stranger who breaks the protocol three times is blocked.
    assert_eq!(xdp(&["block", "eth0", "--json"]), json!([]));
    let genesis = Genesis::load(&dir.path().join("net/genesis.json")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| misbehave(hub, &genesis));
    });
    let blocked = wait_for("the stranger to be blocked", || {
        let list = xdp(&["block", "eth0", "--json"]);
        list.get(0).cloned()
    });
    assert_eq!(blocked["prefix"], "fdfa:1c:0:bad::/64");
    assert!(blocked["remaining_s"].as_u64().unwrap() <= 600);

    kill_process(Pid::from_child(&testnet.0), Signal::INT).unwrap();
    testnet.0.wait().unwrap();
    let log = fs::read_to_string(dir.path().join("net/validator-0/validator.log")).unwrap();
    assert!(
        log.contains("blocked") && !log.contains("stays behind"),
        "{log}"
    );
}

/// Ends with the test, also when that fails.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects three times to validator 0 from a prefix of its own and sends what is no message.
fn misbehave(hub: u32, genesis: &Genesis) {
    let file = fs::File::open(format!("/proc/{hub}/ns/net")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    for _ in 0..3 {
        let here = "[fdfa:1c:0:bad::1]:0".parse().unwrap();
        let (stoq, events) = Stoq::bind(StoqConfig::new(here, genesis.chain_id())).unwrap();
        let target = PeerTarget {
            addr: "[fdfa:1c::10]:26600".parse().unwrap(),
            key: genesis.validators[0].key.clone(),
            persistent: false,
        };
        stoq.handle().connect(target).unwrap();
        for event in events {
            match event {
                Event::Connected { conn, .. } => {
                    let junk = Bytes::from_static(b"no message");
                    let kind = KIND_APPLICATION_MIN;
                    stoq.handle()
                        .send(conn, Channel::Client, kind, junk)
                        .unwrap();
                }
                Event::Closed { .. } => break,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Whether the filter cannot be had here; the reason is printed.
fn without_filter(said: &Said) -> bool {
    let without = said.code == 1 && said.stderr.contains("--filter off");
    if without {
        eprintln!("skipped: {}", said.stderr.lines().last().unwrap());
    }
    without
}

/// The number before a text, and after one.
fn number_before(text: &str, what: &str) -> u64 {
    let before = text.split(what).next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap_or(0)
}

/// See [`number_before`].
fn number_after(text: &str, what: &str) -> u64 {
    let digits = text.split(what).nth(1).unwrap_or_default();
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap_or(0)
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
        if without_filter(&said) {
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
