//! Small files that are written whole: whoever reads one finds what it held before or what it holds
//! now, also after a crash, and once [`replace`] returns the new content survives a power failure.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::disk::sync_dir;

/// Gives a file new content, and makes its directory if that is not there. Only the owner may read
/// either. The content is written beside the file first, under its name with the extension `tmp`;
/// two writers of one file must take turns.
///
/// # Panics
/// If the path has no parent.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = parent_of(path).expect("a file is in a directory");
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(dir)?;
    // The directory itself may be new, made here or by a process that was killed before this line.
    // Where its parent is not ours to open, somebody else made the directory.
    match parent_of(dir).map(sync_dir) {
        Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// The directory that a name is in, which is the current one for a name alone.
fn parent_of(path: &Path) -> Option<&Path> {
    let parent = path.parent()?;
    let is_here = parent.as_os_str().is_empty();
    Some(if is_here { Path::new(".") } else { parent })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_its_directory_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/name");
        replace(&path, b"a longer first content").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_name_alone_is_in_the_current_directory() {
        let of = |path| parent_of(Path::new(path)).map(Path::as_os_str);
        assert_eq!(of("data/META"), Some("data".as_ref()));
        assert_eq!(of("data"), Some(".".as_ref()));
        assert_eq!(of("/"), None);
    }

    #[test]
    fn what_an_interrupted_writer_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        std::fs::write(
            path.with_extension("tmp"),
            b"half of something that was longer",
        )
        .unwrap();
        replace(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
