//! A real process that is killed with SIGKILL: everything that it acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use falconet_types::{Height, Round};

use super::{Chain, EPOCH, apply, config};
use crate::{Safety, Store, StoreConfig};

const DIR: &str = "FALCONET_STORE_TEST_DIR";
/// The child with large batches, which prunes.
const PRUNE: &str = "FALCONET_STORE_TEST_PRUNE";
const ROUNDS: usize = 12;
/// Blocks that a child that prunes keeps.
const KEPT: u64 = 6;
const BATCH_BYTES: usize = 40_000;
const LARGE_BATCH_BYTES: usize = 900_000;

fn kill_config() -> StoreConfig {
    StoreConfig {
        state_flush_blocks: 3,
        ..config()
    }
}

/// Brings a chain back to the height of the store: its records are the same in each run.
fn chain_at(height: u64, batch_bytes: usize) -> Chain {
    let mut chain = Chain::new(batch_bytes);
    for _ in 0..height {
        chain.next();
    }
    chain
}

fn height_of(safety: &Safety) -> u64 {
    match safety {
        Safety::Absent => 0,
        Safety::Intact(bytes) => {
            let text = std::str::from_utf8(bytes).unwrap();
            text.strip_prefix("safety ").unwrap().parse().unwrap()
        }
        Safety::Corrupt { why } => panic!("{why}"),
    }
}

/// Opens, checks, and returns the height that is safe. `acknowledged` must be there.
fn open_and_check(dir: &Path, acknowledged: u64) -> (Store, u64) {
    let (store, recovered) = Store::open(dir, &kill_config()).unwrap();
    let safe = height_of(&recovered.safety);
    assert!(
        safe >= acknowledged,
        "acknowledged {acknowledged}, recovered {safe}"
    );
    let mut chain = Chain::new(BATCH_BYTES);
    for height in 1..=acknowledged {
        let block = chain.next();
        if height + 20 > acknowledged {
            block.assert_in(&store);
        } else {
            assert!(store.reader.header(&block.header.id()).unwrap().is_some());
            assert!(store.reader.qc(EPOCH, Round(height)).unwrap().is_some());
        }
    }
    let committed = recovered.committed.map_or(Height(0), |c| c.height);
    assert!(committed.0 + 1 >= acknowledged);
    assert!(recovered.state_height <= committed);
    for height in 1..=committed.0 {
        let row = store.reader.block_row(Height(height)).unwrap();
        assert_eq!(
            row.is_some(),
            height <= recovered.state_height.0,
            "row of height {height}"
        );
    }
    (store, safe)
}

#[test]
fn whatever_was_acknowledged_survives_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        acknowledged = run_and_kill("tests::kill::child", DIR, dir.path(), round, acknowledged);
        open_and_check(dir.path(), acknowledged);
    }
}

#[test]
fn files_that_serve_again_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut reused) = (0, false);
    for round in 0..ROUNDS {
        let name = "tests::kill::child_that_prunes";
        acknowledged = run_and_kill(name, PRUNE, dir.path(), round, acknowledged);
        let (store, recovered) = Store::open(dir.path(), &kill_config()).unwrap();
        assert!(height_of(&recovered.safety) >= acknowledged);
        let mut chain = chain_at(acknowledged.saturating_sub(KEPT), LARGE_BATCH_BYTES);
        while chain.height < acknowledged {
            chain.next().assert_in(&store);
        }
        reused |= store.log.active.segment.reused;
    }
    assert!(reused, "no file served again");
}

/// Lets a child write, kills it, and returns the last height that it acknowledged.
fn run_and_kill(name: &str, variable: &str, dir: &Path, round: usize, acknowledged: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(variable, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    // Kill after another number of acknowledgements each time: in the middle of a turn, or
    // while a segment is sealed, or while the state is written.
    let mut left = 3 + (round * 7) % 11;
    let mut last = acknowledged;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(height) = line.strip_prefix("ack ") else {
            continue;
        };
        last = height.parse().unwrap();
        left -= 1;
        if left == 0 {
            break;
        }
    }
    assert_eq!(left, 0, "the child ended by itself");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(last > acknowledged);
    last
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let (mut store, safe) = open_and_check(Path::new(&dir), 0);
    // A turn may be there in part; its records are written again, as a core would.
    let mut chain = chain_at(safe.saturating_sub(1), BATCH_BYTES);
    loop {
        write_and_acknowledge(&mut store, &mut chain);
    }
}

/// Not a test of its own either.
#[test]
fn child_that_prunes() {
    let Some(dir) = std::env::var_os(PRUNE) else {
        return;
    };
    let (mut store, recovered) = Store::open(Path::new(&dir), &kill_config()).unwrap();
    let safe = height_of(&recovered.safety);
    let mut chain = chain_at(safe.saturating_sub(1), LARGE_BATCH_BYTES);
    loop {
        write_and_acknowledge(&mut store, &mut chain);
        let horizon = Height(chain.height.saturating_sub(KEPT));
        store.log.prune(horizon).unwrap();
    }
}

fn write_and_acknowledge(store: &mut Store, chain: &mut Chain) {
    chain.next().write(store);
    let mut out = std::io::stdout().lock();
    // The newline first: the test harness leaves its own line open.
    writeln!(out, "\nack {}", chain.height).unwrap();
    out.flush().unwrap();
    drop(out);
    while store.state.height().0 + 1 < chain.height {
        let next = store.state.height().0 + 1;
        apply(store, next);
    }
}
