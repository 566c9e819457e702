//! Threads that let others go first: those whose work is long, where that of others is short.
//!
//! Verification and execution take most of the CPU, in pieces of milliseconds. Network, core and log
//! need little of it and need it at once: each message passes several of them, one after the
//! other, and a round is made of several messages. When all cores are busy the kernel shares them
//! equally among threads, and each hop waits for the others' turns; with many validators on a
//! machine even a sync of the disk takes as long as several turns.
//!
//! So the threads with the long work raise their own niceness by [`NICENESS`], which weighs them a
//! third (sched(7)). Nobody starves: what the others need is little, and is work for these. Raising
//! one's own niceness needs no privilege. While a core is idle it changes nothing.

use rustix::process::{getpriority_process, setpriority_process};

/// By so much the niceness of a thread with long work is raised.
const NICENESS: i32 = 5;
/// The highest niceness there is.
const NICENESS_MAX: i32 = 19;

/// Makes the calling thread one that lets others go first.
pub(crate) fn let_others_go_first() {
    // In Linux niceness belongs to the thread.
    let thread = Some(rustix::thread::gettid());
    let result = getpriority_process(thread)
        .and_then(|now| setpriority_process(thread, (now + NICENESS).min(NICENESS_MAX)));
    if let Err(error) = result {
        // It then competes like any other.
        tracing::debug!(%error, "a thread keeps its niceness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn niceness_is_the_threads_own() {
        let of_this = || getpriority_process(Some(rustix::thread::gettid())).expect("readable");
        let before = of_this();
        let there = std::thread::spawn(move || {
            let_others_go_first();
            of_this()
        });
        let there = there.join().expect("it returns");
        assert_eq!(there, (before + NICENESS).min(NICENESS_MAX));
        assert_eq!(of_this(), before, "others keep theirs");
    }
}
