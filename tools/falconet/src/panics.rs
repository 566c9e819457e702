//! What becomes of a validator in which an invariant is broken.
//!
//! A panic ends the thread it happens in and no other. A validator with one thread less looks alive
//! and is not: its port is open, nothing is answered. As everything is durable before it is sent,
//! ending the whole process at once is safe, and whoever supervises it starts it again.

/// Makes a panic of any thread end the process, by SIGABRT, after it was reported as usual.
pub fn end_the_process() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Tells the test, run again by itself, that it is the process to be ended.
    const AGAIN: &str = "FALCONET_TEST_PANICS";

    #[test]
    fn a_thread_that_panics_ends_the_process() {
        if std::env::var_os(AGAIN).is_some() {
            super::end_the_process();
            let _ = std::thread::spawn(|| panic!("an invariant is broken")).join();
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["a_thread_that_panics_ends_the_process", "--nocapture"])
            .env(AGAIN, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{said}");
        assert!(said.contains("an invariant is broken"), "{said}");
    }
}
