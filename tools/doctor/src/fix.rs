//! Changes to the machine: shown as the commands that would make them, made on demand, with the
//! command that takes each back. All of them last until the machine is restarted.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};

/// A change by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What `--fix NAME` calls it.
    pub name: String,
    /// What is changed, in this order.
    pub changes: Vec<Change>,
}

impl Fix {
    pub(crate) fn one(name: impl Into<String>, change: Change) -> Self {
        Self {
            name: name.into(),
            changes: vec![change],
        }
    }

    /// The commands that make the changes.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.changes.iter().map(Change::command).collect()
    }

    /// The commands that take them back, in the order to give them.
    #[must_use]
    pub fn undo(&self) -> Vec<String> {
        self.changes.iter().rev().map(Change::undo).collect()
    }
}

impl Serialize for Fix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fix = serializer.serialize_struct("Fix", 3)?;
        fix.serialize_field("name", &self.name)?;
        fix.serialize_field("commands", &self.commands())?;
        fix.serialize_field("undo", &self.undo())?;
        fix.end()
    }
}

/// One step of a [`Fix`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A kernel setting under `/proc/sys`.
    Sysctl {
        /// Its name with dots.
        key: &'static str,
        /// What it is.
        from: String,
        /// What it becomes.
        to: String,
    },
    /// A file under `/sys` that holds a setting.
    Setting {
        /// The file.
        path: PathBuf,
        /// What it holds.
        from: String,
        /// What it will hold.
        to: String,
    },
    /// The BPF filesystem.
    MountBpf {
        /// The directory.
        at: PathBuf,
    },
}

impl Change {
    /// The command that makes it, to be run as root.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Self::Sysctl { key, to, .. } => format!("sysctl -w {key}={}", quoted(to)),
            Self::Setting { path, to, .. } => format!("echo {to} > {}", path.display()),
            Self::MountBpf { at } => format!("mount -t bpf bpf {}", at.display()),
        }
    }

    /// The command that takes it back.
    #[must_use]
    pub fn undo(&self) -> String {
        match self {
            Self::Sysctl { key, from, .. } => format!("sysctl -w {key}={}", quoted(from)),
            Self::Setting { path, from, .. } => format!("echo {from} > {}", path.display()),
            Self::MountBpf { at } => format!("umount {}", at.display()),
        }
    }

    /// Makes the change and looks whether it took hold.
    pub fn make(&self) -> Result<(), ChangeError> {
        let (path, to) = match self {
            Self::Sysctl { key, to, .. } => {
                (PathBuf::from("/proc/sys").join(key.replace('.', "/")), to)
            }
            Self::Setting { path, to, .. } => (path.clone(), to),
            Self::MountBpf { at } => return self.mount(at),
        };
        let wrote = fs::write(&path, to).and_then(|()| fs::read_to_string(&path));
        match wrote {
            Ok(now) if same_words(&now, to) => Ok(()),
            Ok(now) => Err(self.failed(io::Error::other(format!(
                "the kernel made it {:?}",
                now.trim()
            )))),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn mount(&self, at: &std::path::Path) -> Result<(), ChangeError> {
        let output = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(at)
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(self.failed(io::Error::other(said.trim().to_owned())))
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> ChangeError {
        ChangeError {
            command: self.command(),
            source,
        }
    }
}

/// A change that could not be made.
#[derive(Debug)]
pub struct ChangeError {
    command: String,
    source: io::Error,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.source.kind() {
            io::ErrorKind::PermissionDenied => "; run it as root, outside of containers",
            _ => "",
        };
        write!(f, "{}: {}{hint}", self.command, self.source)
    }
}

impl std::error::Error for ChangeError {}

/// A value of several words is one argument.
fn quoted(value: &str) -> String {
    if value.contains(char::is_whitespace) {
        format!("\"{value}\"")
    } else {
        value.to_owned()
    }
}

/// The kernel separates words as it likes; a selection marks the chosen word with brackets.
fn same_words(now: &str, to: &str) -> bool {
    now.split_whitespace().eq(to.split_whitespace())
        || now.split_whitespace().any(|word| word == format!("[{to}]"))
}
