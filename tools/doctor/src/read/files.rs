//! Small files of `/proc` and `/sys`, under a root that tests can move.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::machine::Fact;

/// Where files are read.
pub(crate) struct Files {
    root: PathBuf,
}

impl Files {
    /// The files of this machine.
    pub(crate) fn system() -> Self {
        Self { root: "/".into() }
    }

    /// A copy of them in a directory.
    #[cfg(test)]
    pub(crate) fn under(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Where a file lies.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file without surrounding space.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Fact<String> {
        let path = self.path(path);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// A file that holds one number.
    pub(crate) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Fact<T> {
        let text = self.text(&path)?;
        let number = text.parse();
        number.map_err(|_| format!("{} holds {text:?}", path.as_ref().display()))
    }

    /// Whether a file is there.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// Names in a directory, sorted; empty when it is not there.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The last part of where a link points to.
    pub(crate) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

/// The value of a `Name:  value` line.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
