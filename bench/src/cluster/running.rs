//! The processes of a local network.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use falconet_types::validators::VALIDATORS_MAX;
use rustix::process::{Pid, Signal, kill_process};

use super::{Namespaces, RootsCheck, Testnet, ValidatorFiles, check_roots};
use crate::http::Node;
use crate::process::{ProcessStats, ThreadTimes};

/// How often a child is asked whether it ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of a log that an error quotes.
const LOG_LINES: usize = 12;
/// Bytes at the end of a log that are searched for them.
const LOG_TAIL_BYTES: u64 = 8 << 10;

/// How validators are started.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// How long they may take until they are ready.
    pub ready_timeout: Duration,
    /// Environment variables in addition to this process's own.
    pub env: Vec<(String, String)>,
    /// Arguments of single validators in addition to the configuration.
    pub args: BTreeMap<usize, Vec<String>>,
    /// Network namespaces of the validators; without them they run where this process does.
    pub namespaces: Option<Namespaces>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            ready_timeout: Duration::from_secs(60),
            env: Vec::new(),
            args: BTreeMap::new(),
            namespaces: None,
        }
    }
}

/// Why validators do not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The program cannot be started.
    #[error("cannot start {}: {source}; give the path of the falconet program", exe.display())]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("cannot write the log {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A validator ended before it was ready.
    #[error("{0}")]
    Died(Exit),
    /// A validator is not ready in time.
    #[error("validator {index} is not ready after {} s; its log is {}:\n{tail}", after.as_secs(), log.display())]
    NotReady {
        /// The validator.
        index: usize,
        /// How long it had.
        after: Duration,
        /// Its log.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
}

/// A validator that ended without being told to.
#[derive(Debug, Clone)]
pub struct Exit {
    /// The validator.
    pub index: usize,
    /// How it ended.
    pub status: ExitStatus,
    /// Its log.
    pub log: PathBuf,
    /// The last lines of its log.
    pub tail: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (index, status, log) = (self.index, self.status, self.log.display());
        write!(
            f,
            "validator {index} ended ({status}); its log is {log}:\n{}",
            self.tail
        )
    }
}

/// How a network was stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Validators that had to be killed because they did not end in time.
    pub killed: Vec<usize>,
    /// Validators that ended with an error, with the status in words.
    pub failed: Vec<(usize, String)>,
}

/// Kills all processes of a network at once, from any thread; for a second Ctrl-C.
#[derive(Debug, Clone, Default)]
pub struct KillSwitch(Arc<Mutex<Vec<Pid>>>);

impl KillSwitch {
    /// Sends SIGKILL to every validator that still runs.
    pub fn kill_all(&self) {
        for pid in self.lock().iter() {
            // An error means that it has ended already.
            let _ = kill_process(*pid, Signal::KILL);
        }
    }

    fn add(&self, pid: Pid) {
        self.lock().push(pid);
    }

    /// To be called before the process is waited for; from then on its id may name another.
    fn remove(&self, pid: Pid) {
        self.lock().retain(|other| *other != pid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Pid>> {
        self.0.lock().expect("no panic while the lock is held")
    }
}

/// The processes of a local network. Dropping it kills them.
pub struct Running {
    exe: PathBuf,
    options: StartOptions,
    validators: Vec<ValidatorFiles>,
    nodes: Vec<Node>,
    processes: Vec<Option<Process>>,
    kill_switch: KillSwitch,
}

struct Process {
    child: Child,
    pid: Pid,
    output: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts all validators of a network as `EXE run --config FILE` and waits until each says
    /// that it is ready; `on_ready` gets its line. When one fails, all are killed.
    pub fn start(
        testnet: &Testnet,
        exe: &Path,
        options: StartOptions,
        mut on_ready: impl FnMut(usize, &str),
    ) -> Result<Self, ClusterError> {
        let validators = testnet.validators();
        let mut running = Self {
            exe: exe.to_owned(),
            options,
            nodes: validators
                .iter()
                .map(|validator| Node::new(validator.http))
                .collect(),
            processes: validators.iter().map(|_| None).collect(),
            validators,
            kill_switch: KillSwitch::default(),
        };
        let (sender, ready) = crossbeam_channel::bounded(VALIDATORS_MAX);
        for index in 0..running.validators.len() {
            running.spawn(index, sender.clone())?;
        }
        drop(sender);
        running.wait_ready(
            (0..running.validators.len()).collect(),
            &ready,
            &mut on_ready,
        )?;
        Ok(running)
    }

    /// Number of validators, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.validators.is_empty()
    }

    /// The HTTP API of each validator.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether a validator's process runs, as far as known.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        self.processes[index].is_some()
    }

    /// The process id of a validator that runs.
    #[must_use]
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.processes[index]
            .as_ref()
            .map(|process| process.child.id())
    }

    /// Memory and CPU time of a validator that runs.
    #[must_use]
    pub fn process_stats(&self, index: usize) -> Option<ProcessStats> {
        ProcessStats::of(self.pid(index)?)
    }

    /// CPU time of a validator's threads; none when it does not run.
    #[must_use]
    pub fn thread_times(&self, index: usize) -> ThreadTimes {
        self.pid(index).map(ThreadTimes::of).unwrap_or_default()
    }

    /// Something that kills all processes at once.
    #[must_use]
    pub fn kill_switch(&self) -> KillSwitch {
        self.kill_switch.clone()
    }

    /// Validators that ended since the last call.
    pub fn exits(&mut self) -> Vec<Exit> {
        (0..self.len())
            .filter_map(|index| self.exit(index))
            .collect()
    }

    /// Compares the state of all validators, see [`check_roots`].
    #[must_use]
    pub fn check_roots(&self) -> RootsCheck {
        check_roots(&self.nodes)
    }

    /// Kills a validator as kill -9 does, and waits until it is gone.
    pub fn kill(&mut self, index: usize) {
        if let Some(process) = self.processes[index].take() {
            // An error means that it has ended already.
            let _ = kill_process(process.pid, Signal::KILL);
            self.reap(process);
        }
    }

    /// Starts a validator that does not run, and waits until it is ready.
    pub fn restart(&mut self, index: usize) -> Result<(), ClusterError> {
        assert!(self.processes[index].is_none(), "validator {index} runs");
        let (sender, ready) = crossbeam_channel::bounded(1);
        self.spawn(index, sender)?;
        self.wait_ready(vec![index], &ready, &mut |_, _| {})
    }

    /// Asks every validator to end, and kills those that do not within `grace`.
    pub fn stop(mut self, grace: Duration) -> StopReport {
        for process in self.processes.iter().flatten() {
            // An error means that it has ended already.
            let _ = kill_process(process.pid, Signal::TERM);
        }
        let mut report = StopReport::default();
        let deadline = Instant::now() + grace;
        for index in 0..self.len() {
            let Some(mut process) = self.processes[index].take() else {
                continue;
            };
            while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL_INTERVAL);
            }
            if matches!(process.child.try_wait(), Ok(None)) {
                let _ = kill_process(process.pid, Signal::KILL);
                report.killed.push(index);
            }
            let status = self.reap(process);
            if let Some(status) = status.filter(|status| !status.success())
                && !report.killed.contains(&index)
            {
                report.failed.push((index, status.to_string()));
            }
        }
        report
    }

    fn spawn(&mut self, index: usize, ready: Sender<(usize, String)>) -> Result<(), ClusterError> {
        let files = &self.validators[index];
        let log_error = |source| ClusterError::Log {
            path: files.log.clone(),
            source,
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&files.log)
            .map_err(log_error)?;
        let stderr = log.try_clone().map_err(log_error)?;
        let mut command = Command::new(&self.exe);
        command
            .arg("run")
            .arg("--config")
            .arg(&files.config)
            .args(self.options.args.get(&index).into_iter().flatten())
            // Its output goes to a file.
            .env("NO_COLOR", "1")
            .envs(self.options.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C at the terminal reaches this process alone, which then stops them in order.
            .process_group(0);
        let spawned = match &self.options.namespaces {
            Some(namespaces) => namespaces.spawn(index, &mut command),
            None => command.spawn(),
        };
        let mut child = spawned.map_err(|source| ClusterError::Spawn {
            exe: self.exe.clone(),
            source,
        })?;
        let pid = Pid::from_child(&child);
        self.kill_switch.add(pid);
        let stdout = child.stdout.take().expect("piped");
        let output = std::thread::Builder::new()
            .name(format!("output-{index}"))
            .spawn(move || copy_output(index, stdout, log, &ready));
        // Without the thread the pipe would fill up; the process is of no use then.
        let (output, failed) = match output {
            Ok(handle) => (Some(handle), None),
            Err(source) => (None, Some(source)),
        };
        self.processes[index] = Some(Process { child, pid, output });
        match failed {
            None => Ok(()),
            Some(source) => Err(ClusterError::Spawn {
                exe: self.exe.clone(),
                source,
            }),
        }
    }

    fn wait_ready(
        &mut self,
        mut missing: Vec<usize>,
        ready: &Receiver<(usize, String)>,
        on_ready: &mut dyn FnMut(usize, &str),
    ) -> Result<(), ClusterError> {
        let deadline = Instant::now() + self.options.ready_timeout;
        while let Some(index) = missing.first().copied() {
            if let Ok((index, line)) = ready.recv_timeout(POLL_INTERVAL) {
                missing.retain(|other| *other != index);
                on_ready(index, &line);
                continue;
            }
            let died = missing.iter().find_map(|index| self.exit(*index));
            if let Some(exit) = died {
                return Err(ClusterError::Died(exit));
            }
            if Instant::now() >= deadline {
                let log = self.validators[index].log.clone();
                let (after, tail) = (self.options.ready_timeout, log_tail(&log));
                return Err(ClusterError::NotReady {
                    index,
                    after,
                    log,
                    tail,
                });
            }
        }
        Ok(())
    }

    /// How a validator ended, if it did since this was last asked.
    fn exit(&mut self, index: usize) -> Option<Exit> {
        let process = self.processes[index].as_mut()?;
        // Looks without collecting, so that the id stays taken until it leaves the kill switch.
        if !has_ended(process.pid) {
            return None;
        }
        let process = self.processes[index].take().expect("looked above");
        let status = self.reap(process)?;
        let log = self.validators[index].log.clone();
        Some(Exit {
            index,
            status,
            tail: log_tail(&log),
            log,
        })
    }

    /// Waits for a process that has ended or is about to.
    fn reap(&self, mut process: Process) -> Option<ExitStatus> {
        self.kill_switch.remove(process.pid);
        let status = process.child.wait().ok();
        if let Some(output) = process.output.take() {
            // The pipe is closed now, so the thread ends; its panic would be ours.
            output
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_switch.kill_all();
        for process in self.processes.iter_mut().flatten() {
            self.kill_switch.remove(process.pid);
            let _ = process.child.wait();
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up = self.processes.iter().flatten().count();
        write!(f, "Running({up} of {})", self.len())
    }
}

/// Whether a child is a zombie: ended, not yet waited for.
fn has_ended(pid: Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let Ok(stat) = fs::read_to_string(path) else {
        return true;
    };
    let state = stat
        .rfind(')')
        .and_then(|at| stat[at + 1..].trim_start().chars().next());
    matches!(state, Some('Z' | 'X') | None)
}

/// Copies a validator's standard output to its log and reports the line that says it is ready.
fn copy_output(index: usize, stdout: ChildStdout, mut log: File, ready: &Sender<(usize, String)>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        // A full disk must not stop the validator; its own log has the same fate.
        let _ = writeln!(log, "{line}");
        // The index is that of the present epoch; one that has left follows.
        let is_node = line.starts_with("validator ") || line.starts_with("follower ");
        if is_node && line.contains(" ready: ") {
            // The receiver is gone when nobody waits any more, and full when one says it again.
            let _ = ready.try_send((index, line));
        }
    }
}

/// The last lines of a log.
fn log_tail(path: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
        file.read_to_end(&mut text)
    });
    if let Err(error) = read {
        return format!("(the log cannot be read: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    if lines.is_empty() {
        "(the log is empty)".into()
    } else {
        lines[from..].join("\n")
    }
}

#[cfg(test)]
mod tests;
