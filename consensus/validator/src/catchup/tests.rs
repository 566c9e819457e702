//! Gathering and installing a snapshot, with the real code on real files: what a loss of power after
//! any step may leave on the disk, steps that fail, and files that somebody changed.

mod fixture;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recorded::{Failure, Left, LogSteps, Steps, temporary};
use fixture::{HEIGHT, Life, PARTS, SYNC_EVERY, World};

/// Random states that are looked at after each step, besides all and nothing of what is not durable.
const RANDOM_STATES: u64 = 2;
/// Of the steps in which the state is built, each of which writes some pages of a file that has no
/// name yet by which anybody would use it, one in so many is looked at.
const BUILDING_STRIDE: usize = 8;

/// The steps after which something is looked at.
fn interesting(told: &[(usize, Life)], count: usize) -> Vec<usize> {
    let at = |what: Life| told.iter().find(|(_, life)| *life == what).unwrap().0;
    let building = at(Life::Complete) + 4..at(Life::Installed).saturating_sub(16);
    let all = 0..=count;
    all.filter(|step| !building.contains(step) || step % BUILDING_STRIDE == 0)
        .collect()
}

/// Every file and directory below a data directory but the log's.
fn names(data: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with("log") || path.ends_with("LOCK") {
                continue;
            }
            if path.is_dir() {
                dirs.push(path.clone());
            }
            names.insert(path.strip_prefix(data).unwrap().to_owned());
        }
    }
    names
}

/// What a node that has the state, and needs nothing any more, has on its disk.
fn tidy() -> BTreeSet<PathBuf> {
    ["META", "state.redb", "sync"].map(PathBuf::from).into()
}

/// A life on a recorded disk, from nothing to the installed state; what was done after how many
/// steps.
fn recorded_life(world: &World, data: &Path) -> (Arc<Steps>, Vec<(usize, Life)>) {
    let steps = Steps::recording(data);
    let mut told = Vec::new();
    let log = Arc::new(LogSteps(Arc::clone(&steps)));
    let files = Arc::clone(&steps) as _;
    let lived = world.live(data, &files, log, &mut |life| {
        told.push((steps.count(), life))
    });
    lived.unwrap();
    (steps, told)
}

#[test]
fn a_loss_of_power_after_any_step_costs_nothing_that_was_durable() {
    let world = World::new();
    let dir = world.data();
    let (steps, told) = recorded_life(&world, dir.path());
    assert_eq!(names(dir.path()), tidy());
    world.assert_installed(dir.path());
    let happened = |what: Life, count: usize| {
        let at = told.iter().find(|(_, life)| *life == what);
        at.is_some_and(|(after, _)| *after <= count)
    };

    let mut seen = BTreeSet::new();
    let mut resumed = 0;
    let mut in_the_middle = 0;
    for count in interesting(&told, steps.count()) {
        let random = (0..RANDOM_STATES).map(|n| Left::Random(1_000 * count as u64 + n));
        for left in [Left::Nothing, Left::Everything].into_iter().chain(random) {
            let after = temporary();
            let durable = (0..PARTS)
                .filter(|part| (part + 1) % SYNC_EVERY == 0 && happened(Life::Stored(*part), count))
                .max()
                .map_or(0, |part| part + 1);
            let installed = happened(Life::Installed, count);
            if !seen.insert((durable, installed, steps.crash(count, &left, after.path()))) {
                continue;
            }
            let what = format!("{count} steps, {left:?}: {:?}", names(after.path()));
            in_the_middle += u32::from(after.path().join("state.redb.new").exists());

            let again = Steps::recording(after.path());
            let log = Arc::new(LogSteps(Arc::clone(&again)));
            let mut fetched = Vec::new();
            let files = Arc::clone(&again) as _;
            let lived = world.live(after.path(), &files, log, &mut |life| {
                if let Life::Stored(part) = life {
                    fetched.push(part);
                }
            });
            lived.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_installed(after.path());
            assert!(
                fetched.iter().all(|part| *part >= durable),
                "{fetched:?}, {what}"
            );
            assert!(!installed || fetched.is_empty(), "{fetched:?}, {what}");
            assert_eq!(names(after.path()), tidy(), "{what}");
            resumed += u32::from(!fetched.is_empty() && fetched.len() < PARTS);
        }
    }
    assert!(resumed > 10, "{resumed}: nobody went on where it was");
    assert!(
        in_the_middle > 5,
        "{in_the_middle}: nobody died while it installed"
    );
}

/// A step that fails once, or a disk that is full from then on: the error says what to do, the node
/// goes on, nothing unfinished takes room from the log, and once the disk is good again all is done.
#[test]
fn a_step_that_fails_leaves_nothing_behind_and_is_done_again() {
    let world = World::new();
    let (looked_at, complete) = {
        let dir = world.data();
        let (steps, told) = recorded_life(&world, dir.path());
        let at = told.iter().find(|(_, life)| *life == Life::Complete);
        let looked_at = interesting(&told, steps.count() - 1);
        (looked_at, at.unwrap().0)
    };
    let mut failed = 0;
    for failing in looked_at.iter().copied() {
        for failure in [Failure::Once(ErrorKind::Other), Failure::Full] {
            let dir = world.data();
            let data = dir.path();
            let steps = Steps::recording(data);
            steps.fail_after(failing, failure);
            let log = || Arc::new(LogSteps(Arc::clone(&steps)));
            let files = Arc::clone(&steps) as _;
            let lived = world.live(data, &files, log(), &mut |_| ());
            let what = format!("step {failing}, {failure:?}: {lived:?}, {:?}", names(data));
            if let Err(error) = &lived {
                let text = error.to_string();
                let room = matches!(failure, Failure::Full);
                assert!(!room || text.contains("free space on the disk"), "{text}");
                assert!(
                    text.contains("sync") || text.contains("log") || text.contains("state.redb"),
                    "{text}"
                );
                failed += 1;
            }
            // A full disk has room again for the log, unless the log waits for the state.
            if failing < complete && lived.is_err() {
                world.forget(data, &files);
                let left = names(data);
                let unfinished = ["sync/chunks", "sync/manifest", "sync/manifest.tmp"];
                let is = |name: &&str| left.contains(Path::new(name));
                assert!(!unfinished.iter().any(is), "{what}");
            }
            assert!(
                !data.join("state.redb.new").exists() || matches!(failure, Failure::Once(_)),
                "{what}"
            );
            steps.heal();
            let lived = world.live(data, &files, log(), &mut |_| ());
            lived.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_installed(data);
            assert_eq!(names(data), tidy(), "{what}");
        }
    }
    assert!(failed > looked_at.len(), "{failed} of {}", looked_at.len());
}

/// Whatever is in the files: nothing is installed that is not the chain's.
#[test]
fn what_does_not_verify_is_never_installed() {
    let world = World::new();
    let dir = world.data();
    let (steps, told) = recorded_life(&world, dir.path());
    let complete = told
        .iter()
        .find(|(_, life)| *life == Life::Complete)
        .unwrap()
        .0;
    let make = || {
        let after = temporary();
        let _ = steps.crash(complete, &Left::Everything, after.path());
        after
    };
    let whole = make();
    let chunks = std::fs::read(whole.path().join("sync/chunks")).unwrap();
    let manifest = std::fs::read(whole.path().join("sync/ready")).unwrap();
    let mut changed: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, bytes) in [("sync/chunks", &chunks), ("sync/ready", &manifest)] {
        for at in (0..bytes.len()).step_by(bytes.len() / 8 + 1) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            changed.push((name, other));
            changed.push((name, bytes[..at].to_vec()));
        }
    }
    // A part twice, and another one not at all.
    let first = 4 + u32::from_le_bytes(chunks[..4].try_into().unwrap()) as usize;
    let second =
        first + 4 + u32::from_le_bytes(chunks[first..first + 4].try_into().unwrap()) as usize;
    let twice = [&chunks[..first], &chunks[..first], &chunks[second..]].concat();
    changed.push(("sync/chunks", twice));
    changed.push((
        "sync/chunks",
        [u32::MAX.to_le_bytes().to_vec(), chunks.clone()].concat(),
    ));
    for (name, bytes) in changed {
        let after = make();
        let data = after.path();
        std::fs::write(data.join(name), bytes).unwrap();
        world.start(data).unwrap();
        let height = world.state_height(data);
        // What the manifest does not prove may be changed: it says how long the rows are.
        assert!(
            height == 0 || height == HEIGHT && name == "sync/ready",
            "{name}"
        );
        if height == HEIGHT {
            world.assert_installed(data);
        }
        assert_eq!(names(data), tidy());
        let files = Arc::new(falconet_store::SystemFiles) as _;
        world
            .live(
                data,
                &files,
                Arc::new(falconet_store::SystemDisk),
                &mut |_| (),
            )
            .unwrap();
        world.assert_installed(data);
    }
}
