//! Starting, watching and stopping processes, with a shell script in the place of the validator.

use falconet_crypto::falcon::Scheme;
use falconet_types::genesis::ApplicationKind;
use tempfile::TempDir;

use super::*;
use crate::cluster::TestnetSpec;
use crate::progress::silent;

/// Two validators over a script. In the script `$i` is the validator's index.
fn network(script: &str) -> (TempDir, Testnet, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let spec = TestnetSpec {
        validators: 2,
        scheme: Scheme::Falcon512,
        application: ApplicationKind::Opaque,
        ..TestnetSpec::new("test")
    };
    let testnet = Testnet::create(&temp.path().join("net"), &spec, &silent).unwrap();
    let exe = temp.path().join("validator");
    let text = format!(
        "#!/bin/sh\n[ \"$1 $2\" = 'run --config' ] || exit 9\n\
         i=$(basename $(dirname \"$3\") | sed s/validator-//)\n{script}\n"
    );
    write_script(&exe, &text);
    (temp, testnet, exe)
}

/// Has a shell write the file: were it open for writing here, a child that another test forks at
/// this moment would hold it open too, and executing it would fail with "text file busy".
fn write_script(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(shell.wait().unwrap().success());
}

fn start(testnet: &Testnet, exe: &Path) -> Result<(Running, Vec<usize>), ClusterError> {
    let mut ready = Vec::new();
    let running = Running::start(testnet, exe, StartOptions::default(), |index, line| {
        assert!(line.contains("http"), "{line}");
        ready.push(index);
    })?;
    ready.sort_unstable();
    Ok((running, ready))
}

const READY: &str = "echo starting; echo trouble >&2; echo \"validator $i ready: http://x\"";

#[test]
fn validators_start_and_end_when_told() {
    let script = format!(
        "trap 'echo bye; exit 0' TERM
{READY}
while :; do sleep 0.05; done"
    );
    let (_temp, testnet, exe) = network(&script);
    let (running, ready) = start(&testnet, &exe).unwrap();
    assert_eq!(ready, [0, 1]);
    assert!(running.process_stats(0).unwrap().rss_kib > 0);
    assert_eq!(running.stop(Duration::from_secs(60)), StopReport::default());
    for validator in testnet.validators() {
        let log = fs::read_to_string(validator.log).unwrap();
        for text in ["starting", "ready", "trouble", "bye"] {
            assert!(log.contains(text), "{text} in {log}");
        }
    }
}

#[test]
fn one_that_ignores_the_signal_is_killed() {
    let script = format!("trap '' TERM\n{READY}\nwhile :; do sleep 0.05; done");
    let (_temp, testnet, exe) = network(&script);
    let (running, _) = start(&testnet, &exe).unwrap();
    let pids = [running.pid(0).unwrap(), running.pid(1).unwrap()];
    assert_eq!(running.stop(Duration::from_millis(50)).killed, [0, 1]);
    for pid in pids {
        assert!(ProcessStats::of(pid).is_none());
    }
}

#[test]
fn one_that_dies_is_reported_with_its_log_and_can_come_back() {
    let script = format!(
        "{READY}\n[ $i = 1 ] && [ ! -e \"$3.again\" ] && {{ touch \"$3.again\"; echo alas >&2; exit 3; }}\nexec sleep 1000"
    );
    let (_temp, testnet, exe) = network(&script);
    let (mut running, _) = start(&testnet, &exe).unwrap();
    let exit = loop {
        if let Some(exit) = running.exits().pop() {
            break exit;
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    assert_eq!((exit.index, exit.status.code()), (1, Some(3)));
    // What it said on standard output may be written down after that.
    assert!(exit.tail.contains("alas"), "{exit}");
    assert!(running.is_running(0) && !running.is_running(1));
    assert!(running.exits().is_empty(), "said once");
    running.restart(1).unwrap();
    running.kill(0);
    assert!(!running.is_running(0) && running.is_running(1));
    assert!(
        running.exits().is_empty(),
        "a validator that we killed is no news"
    );
}

#[test]
fn one_that_never_gets_ready_fails_the_start_and_nothing_stays_behind() {
    let script =
        "echo $$ > \"$3.pid\"\n[ $i = 0 ] || { echo 'port in use' >&2; exit 1; }\nexec sleep 1000";
    let (_temp, testnet, exe) = network(script);
    let error = start(&testnet, &exe).unwrap_err();
    assert!(
        matches!(error, ClusterError::Died(Exit { index: 1, .. })),
        "{error}"
    );
    assert!(error.to_string().contains("port in use"), "{error}");
    let pid_file = testnet.validators()[0].config.with_extension("toml.pid");
    if let Ok(pid) = fs::read_to_string(pid_file) {
        assert!(
            ProcessStats::of(pid.trim().parse().unwrap()).is_none(),
            "validator 0 is gone"
        );
    }

    let options = StartOptions {
        ready_timeout: Duration::from_millis(50),
        ..StartOptions::default()
    };
    let (_temp, testnet, exe) = network("exec sleep 1000");
    let error = Running::start(&testnet, &exe, options, |_, _| {}).unwrap_err();
    assert!(matches!(error, ClusterError::NotReady { .. }), "{error}");
}

#[test]
fn a_missing_program_is_named() {
    let (temp, testnet, _) = network("");
    let error = start(&testnet, &temp.path().join("nowhere")).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn the_kill_switch_works_from_outside() {
    let (_temp, testnet, exe) = network(&format!("{READY}\nexec sleep 1000"));
    let (mut running, _) = start(&testnet, &exe).unwrap();
    running.kill_switch().kill_all();
    let mut ended = 0;
    while ended < 2 {
        ended += running.exits().len();
        std::thread::sleep(POLL_INTERVAL);
    }
}
