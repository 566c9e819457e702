//! Which core does what: the sender on one, the receiver on another, for every contender alike.

use std::io;
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::NetError;

/// The two cores of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Where the sender (the client) runs.
    pub sender: usize,
    /// Where the receiver (the server) runs.
    pub receiver: usize,
}

impl Cores {
    /// The first two cores that this process may use; twice the same where there is only one.
    pub fn choose() -> Result<Self, NetError> {
        let allowed = sched_getaffinity(None).map_err(|errno| NetError::Affinity(errno.into()))?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let sender = cores.next().unwrap_or(0);
        Ok(Self {
            sender,
            receiver: cores.next().unwrap_or(sender),
        })
    }

    /// Whether there is a core for each side.
    #[must_use]
    pub fn are_two(&self) -> bool {
        self.sender != self.receiver
    }
}

/// Starts a thread on a core; threads that it starts stay there too.
pub fn spawn<T: Send + 'static>(
    core: usize,
    name: &str,
    run: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<JoinHandle<Result<T, NetError>>, NetError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let mut set = CpuSet::new();
            set.set(core);
            sched_setaffinity(None, &set).map_err(|e| NetError::Affinity(io::Error::from(e)))?;
            run()
        })
        .map_err(NetError::Thread)
}

/// Waits for a thread and passes its panic on.
pub fn join<T>(thread: JoinHandle<Result<T, NetError>>) -> Result<T, NetError> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_stay_on_their_core() {
        let cores = Cores::choose().unwrap();
        let seen = spawn(cores.receiver, "placed", || {
            let child = std::thread::spawn(|| sched_getaffinity(None).unwrap());
            Ok(child.join().unwrap())
        })
        .unwrap();
        let seen = join(seen).unwrap();
        assert_eq!(seen.count(), 1);
        assert!(seen.is_set(cores.receiver));
    }
}
