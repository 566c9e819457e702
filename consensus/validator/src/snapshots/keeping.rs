//! Which snapshots stay, and how much of the log with them (rule Z10): the policy is
//! [`falconet_sync::keeping`], this is where it meets files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use falconet_store::{Reader, StoreError};
use falconet_sync::{keeping, serving};
use falconet_types::Height;

use super::{Served, Snapshots};
use crate::epochs::Log;

impl Snapshots {
    /// From now on the log says which snapshots can be proven. Those that an earlier life no longer
    /// got to delete go.
    pub fn attach(&self, reader: Reader) -> Result<(), StoreError> {
        assert!(self.reader.set(reader).is_ok(), "there is one log");
        let proven = self.newest_proven()?;
        self.tidy(proven);
        Ok(())
    }

    /// The newest snapshot that a committed header proves, as far as the log is there already.
    pub fn newest_proven(&self) -> Result<Option<Height>, StoreError> {
        let newest = keeping::newest_proven(self.all(), |snapshot| self.is_proven(snapshot))?;
        Ok(newest.map(|snapshot| snapshot.height()))
    }

    fn is_proven(&self, snapshot: &Served) -> Result<bool, StoreError> {
        // What was proven once stays so: the log keeps what it takes.
        if snapshot.proven.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let Some(reader) = self.reader.get() else {
            return Ok(false);
        };
        let proven = serving::is_proven(&Log(reader), snapshot.height())?;
        snapshot.proven.store(proven, Ordering::Relaxed);
        Ok(proven)
    }

    /// Below which height the log may be pruned, of what is wanted. A node that cannot take snapshots
    /// (the disk is full, the state does not fit the format) holds back nothing: others have theirs.
    pub fn prune_below(&self, wanted: Height) -> Result<Height, StoreError> {
        let proven = |snapshot: &Arc<Served>| snapshot.proven.load(Ordering::Relaxed);
        let known = self.all().into_iter().find(proven);
        if known.is_some_and(|known| known.height() >= wanted) {
            // No need to look for a newer one, which takes reading.
            return Ok(wanted);
        }
        if self.failing.load(Ordering::Relaxed) {
            return Ok(wanted);
        }
        Ok(keeping::prune_below(wanted, self.newest_proven()?))
    }

    /// Deletes the snapshots that need not stay, where `proven` is the newest that can be proven.
    pub(super) fn tidy(&self, proven: Option<Height>) {
        let gone: Vec<_> = {
            let mut served = self.served.write();
            let all = std::mem::take(&mut *served).into_iter().enumerate();
            let (stay, gone): (Vec<_>, Vec<_>) = all
                .partition(|(newer, snapshot)| keeping::stays(snapshot.height(), *newer, proven));
            *served = stay.into_iter().map(|(_, snapshot)| snapshot).collect();
            assert!(
                served.len() <= keeping::SNAPSHOTS_MAX,
                "what stays is bounded"
            );
            gone.into_iter().map(|(_, snapshot)| snapshot).collect()
        };
        for old in gone {
            if let Err(error) = self.dir.delete(old.height()) {
                tracing::warn!(%error, "an old snapshot stays until the next start");
            }
        }
    }
}
