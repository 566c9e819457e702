//! The network of a benchmark: its directory, which serves again, and who uses it.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use falconet_crypto::falcon::Scheme;
use falconet_types::genesis::ApplicationKind;
use rustix::fs::FlockOperation;

use super::{BenchError, ClusterBench, LoadKind};
use crate::accounts::accounts_for_rate;
use crate::cluster::{Testnet, TestnetSpec};
use crate::machine::cache_dir;
use crate::progress::{OnProgress, Progress};

/// Load accounts of a benchmark, so that most rates share one genesis and its transfers.
const BENCH_ACCOUNTS: usize = 1_024;

/// The network of a benchmark: made, or reused with its data wiped and on free ports. The file
/// keeps other benchmarks away while it is open.
pub(super) fn bench_network(
    spec: &ClusterBench,
    progress: OnProgress<'_>,
) -> Result<(Testnet, File), BenchError> {
    let accounts = accounts_for_rate(spec.rate_max()).max(BENCH_ACCOUNTS);
    let wanted = TestnetSpec {
        validators: spec.validators,
        scheme: match spec.load {
            LoadKind::Transfers(scheme) => scheme,
            LoadKind::Opaque => Scheme::Falcon1024,
        },
        application: spec.load.application(),
        params: spec.params.clone(),
        accounts,
        base_port: None,
        ..TestnetSpec::new("bench")
    };
    let dir = spec.dir.clone().unwrap_or_else(|| {
        let name = match spec.load {
            LoadKind::Transfers(scheme) => format!("{}-{scheme}-{accounts}", spec.validators),
            LoadKind::Opaque => format!("{}-opaque", spec.validators),
        };
        let changes = spec.params.changes().into_iter();
        let name = changes.fold(name, |name, change| format!("{name}-{change}"));
        cache_dir().join("bench").join(name)
    });
    let lock = lock(&dir)?;
    if Testnet::exists(&dir) {
        match Testnet::open(&dir) {
            Ok(mut testnet) if fits(&testnet, &wanted) => {
                testnet.wipe_data()?;
                testnet.assign_ports(None)?;
                return Ok((testnet, lock));
            }
            _ if spec.dir.is_some() => return Err(BenchError::OtherNetwork(dir)),
            // The cache is ours: another version, or a broken creation, left this behind.
            _ => {
                let text = format!("{} is of another version; it is made again", dir.display());
                progress(Progress::Note(&text));
                remove(&dir)?;
            }
        }
    } else if spec.dir.is_none() && dir.exists() {
        remove(&dir)?;
    }
    Ok((Testnet::create(&dir, &wanted, progress)?, lock))
}

fn fits(testnet: &Testnet, wanted: &TestnetSpec) -> bool {
    let genesis = testnet.genesis();
    genesis.validators.len() == wanted.validators
        && genesis.application == wanted.application
        && genesis.params == wanted.params
        && (wanted.application == ApplicationKind::Opaque
            || (testnet.scheme() == wanted.scheme && testnet.accounts() == wanted.accounts))
}

/// Takes the lock of a directory: a file beside it, so that the directory itself can be empty.
fn lock(dir: &Path) -> Result<File, BenchError> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let path = dir.with_file_name(name);
    let error = |source| BenchError::Io {
        action: "lock",
        path: path.clone(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(error)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(error)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BenchError::InUse(dir.to_owned())),
        Err(errno) => Err(error(errno.into())),
    }
}

fn remove(dir: &Path) -> Result<(), BenchError> {
    fs::remove_dir_all(dir).map_err(|source| BenchError::Io {
        action: "remove",
        path: dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::silent;
    use crate::run::tests::opaque_bench;

    #[test]
    fn a_network_is_reused_with_its_genesis_and_without_its_data() {
        let temp = tempfile::tempdir().unwrap();
        let spec = opaque_bench(&temp.path().join("net"));
        let (first, lock) = bench_network(&spec, &silent).unwrap();
        let data = &first.validators()[0].data;
        fs::create_dir(data).unwrap();
        let busy = bench_network(&spec, &silent).unwrap_err();
        assert!(matches!(busy, BenchError::InUse(_)), "{busy}");
        drop(lock);
        let (second, lock) = bench_network(&spec, &silent).unwrap();
        assert_eq!(second.chain_id(), first.chain_id());
        assert!(!data.exists());
        drop(lock);
        let other = ClusterBench {
            validators: 2,
            ..spec
        };
        let error = bench_network(&other, &silent).unwrap_err();
        assert!(matches!(error, BenchError::OtherNetwork(_)), "{error}");
    }
}
