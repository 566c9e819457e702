//! Running the program and looking at what it did.

use std::path::Path;
use std::process::{Command, Output};

/// The program under test.
pub const FALCONET: &str = env!("CARGO_BIN_EXE_falconet");

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
    let output = Command::new(FALCONET)
        .args(arguments)
        .current_dir(dir)
        .env_remove("FALCONET_HTTP")
        .output()
        .expect("the program starts");
    Said::from(&output)
}

impl Said {
    fn from(output: &Output) -> Self {
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
    /// and standard output stays empty.
    #[track_caller]
    pub fn fails_with(self, parts: &[&str]) {
        assert_eq!(
            self.code, 1,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert_eq!(self.stdout, "");
        let line = self.stderr.trim_end();
        assert!(line.starts_with("error: "), "{line}");
        assert_eq!(line.lines().count(), 1, "one line says it all: {line}");
        for part in parts {
            assert!(line.contains(part), "{part:?} is missing in: {line}");
        }
    }
}
