//! Waking the network thread: an eventfd, written only when the thread is about to sleep or
//! sleeps, so that a busy thread costs its callers no system call.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes one thread. Clones wake the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Waker(Arc::new(Inner {
            fd,
            asleep: AtomicBool::new(false),
        })))
    }

    /// Called after work was queued. SeqCst on both sides: either the sleeper sees the work when
    /// it looks again after `going_to_sleep`, or this sees that it sleeps.
    pub(crate) fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        let asleep = &self.0.asleep;
        // Looked at before it is written: a busy thread then costs its callers a read.
        if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
            // The counter saturates only after 2^64 unread wake-ups; any error is a bug.
            rustix::io::write(&self.0.fd, &1u64.to_ne_bytes()).expect("eventfd write");
        }
    }

    /// Called by the thread before it looks at its queues for the last time.
    pub(crate) fn going_to_sleep(&self) {
        self.0.asleep.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Called by the thread after it slept or decided not to.
    pub(crate) fn woke(&self) {
        if !self.0.asleep.swap(false, Ordering::SeqCst) {
            // Someone wrote, or is about to; a counter left behind wakes once more, no harm.
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.0.fd, &mut count);
        }
    }

    /// What to poll for readability.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}
