//! Running the program and looking at what it did.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
pub const FALCONET: &str = env!("CARGO_BIN_EXE_falconet");

/// How long anything may take before the test says what it was waiting for. Generous: a machine
/// that is busy with something else must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What a finished command said.
pub struct Said {
    /// Exit code; a signal is a failed test.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `falconet` in a directory until it ends.
pub fn falconet(dir: &Path, arguments: &[&str]) -> Said {
    let output = command(dir, arguments)
        .output()
        .expect("the program starts");
    Said::from(&output)
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(FALCONET);
    command
        .args(arguments)
        .current_dir(dir)
        .env_remove("FALCONET_HTTP")
        .stdin(Stdio::null());
    command
}

impl Said {
    /// Reads the output of a command that has ended.
    pub fn from(output: &Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ended the command"),
            stdout: String::from_utf8(output.stdout.clone()).expect("text"),
            stderr: String::from_utf8(output.stderr.clone()).expect("text"),
        }
    }

    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// The output of a command that must have succeeded, as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The one line of a command that must have failed with exit code 1: it contains every part,
    /// nothing but log lines stands above it, and standard output stays empty.
    #[track_caller]
    pub fn fails_with(self, parts: &[&str]) {
        assert_eq!(
            self.code, 1,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert_eq!(self.stdout, "");
        // A warning about the machine is no fault of the command.
        let is_log = |line: &&str| line.contains(" INFO ") || line.contains(" WARN ");
        let mut lines = self.stderr.lines().filter(|line| !is_log(line));
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with("error: "), "{}", self.stderr);
        assert_eq!(lines.next(), None, "one line says it all");
        for part in parts {
            assert!(line.contains(part), "{part:?} is missing in: {line}");
        }
    }
}

/// A validator process. Killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// The line that said it is ready.
    pub ready: String,
}

impl Running {
    /// Starts `falconet run` and waits until it is ready. Its log goes to a file beside the
    /// configuration.
    pub fn start(dir: &Path, config: &str) -> Self {
        Self::start_in(dir, config, &[])
    }

    /// The same with more variables in its environment.
    pub fn start_in(dir: &Path, config: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_with(dir, config, environment, &[])
    }

    /// The same with more arguments.
    pub fn start_with(
        dir: &Path,
        config: &str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let log = dir.join(config).with_extension("log");
        let sink = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let run = ["run", "--config", config];
        let mut child = command(dir, &[&run, arguments].concat())
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(sink)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // Ends with the process; a validator that hangs at its start is caught by the caller's
        // test runner with the log in place.
        let ready = lines.next().and_then(Result::ok);
        let mut running = Self {
            child,
            log,
            ready: String::new(),
        };
        match ready {
            Some(line) => running.ready = line,
            None => panic!("the validator did not become ready:\n{}", running.log()),
        }
        running
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and it must end well.
    #[track_caller]
    pub fn stop(self) {
        self.terminate();
        self.ends_well();
    }

    /// Waits for the end after [`Running::terminate`]; a second signal would cut it short.
    #[track_caller]
    pub fn ends_well(mut self) {
        let status = wait_for("the validator to stop", || {
            self.child.try_wait().expect("ours")
        });
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("ours");
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("ours");
        self.child.wait().expect("ours");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ports on `[::1]` that are free for UDP and TCP. Below the range from which the kernel takes
/// ports of outgoing connections, so that a validator which is down does not lose its port.
pub fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests are processes of their own, numbered one after the other: what runs beside this one looks
    // for its ports elsewhere, as a port that is free now is taken only when a validator starts.
    const APART: u64 = 197;
    let start = u64::from(std::process::id()) * APART;
    let mut candidates = (0..COUNT).map(|_| {
        let port = start + u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        FIRST + u16::try_from(port % u64::from(COUNT)).expect("below COUNT")
    });
    std::array::from_fn(|_| {
        let free = |port: &u16| {
            TcpListener::bind(("::1", *port)).is_ok() && UdpSocket::bind(("::1", *port)).is_ok()
        };
        candidates.find(free).expect("a free port")
    })
}

/// Every file under a directory with its content; logs apart.
pub fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_none_or(|extension| extension != "log") {
                files.insert(path.clone(), fs::read(&path).expect("readable"));
            }
        }
    }
    files
}
