//! Secret keys on disk.
//!
//! A key file is a text of four lines:
//!
//! ```text
//! falconet-secret-key-v1
//! scheme: falcon1024
//! public: <base64>
//! secret: <base64>
//! ```
//!
//! It is created with mode 0600 and never overwritten; reading refuses a file that group or others
//! can read. A process that signs with a key holds the file locked ([`LockedKey`]), so that a
//! validator started twice by mistake does not sign twice.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::fs::{FlockOperation, OFlags};
use zeroize::Zeroizing;

use crate::falcon::{KeyPair, PublicKey, Scheme};

const HEADER: &str = "falconet-secret-key-v1";

/// Largest key file that is read, in bytes. A FALCON-1024 key file has about 5,600.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// Mode of a key file: the owner reads and writes.
const MODE: u32 = 0o600;

/// Why a key file cannot be written, read or locked.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file exists; a key is never overwritten.
    #[error("{} exists, and a key file is never overwritten; choose another name or move it away", .0.display())]
    Exists(PathBuf),
    /// Group or others have access.
    #[error("{} can be accessed by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file.
    #[error("{} is not a regular file; give the path of the key file itself", .0.display())]
    NotAFile(PathBuf),
    /// The content is not a key file.
    #[error("{} is not a valid key file ({problem}); restore it from a backup", path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process holds the key.
    #[error("key {} is in use by another process; stop it first", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes `pair` to a new file at `path` and makes file and directory entry durable.
pub fn write(path: &Path, pair: &KeyPair) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => io_error("create", path, source),
        })?;
    file.write_all(encode(pair).as_bytes())
        .map_err(|e| io_error("write", path, e))?;
    file.sync_all().map_err(|e| io_error("sync", path, e))?;

    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| io_error("sync the directory", directory, e))
}

/// Reads the key file at `path` without locking it.
pub fn read(path: &Path) -> Result<KeyPair, KeyFileError> {
    read_from(&mut open(path)?, path)
}

/// A key that this process alone uses: its file is locked while this value lives.
#[derive(Debug)]
pub struct LockedKey {
    pair: KeyPair,
    /// Closing the file releases the lock.
    _file: File,
}

impl LockedKey {
    /// Locks the key file at `path` and reads it.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let mut file = open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(KeyFileError::InUse(path.to_owned()));
            }
            Err(errno) => return Err(io_error("lock", path, errno.into())),
        }
        let pair = read_from(&mut file, path)?;
        Ok(Self { pair, _file: file })
    }

    /// The key pair.
    pub fn key(&self) -> &KeyPair {
        &self.pair
    }
}

fn open(path: &Path) -> Result<File, KeyFileError> {
    // NONBLOCK: a FIFO in place of the file must not hang the process.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|e| match rustix::io::Errno::from_io_error(&e) {
            Some(rustix::io::Errno::LOOP) => KeyFileError::NotAFile(path.to_owned()),
            _ => io_error("open", path, e),
        })?;
    let metadata = file.metadata().map_err(|e| io_error("inspect", path, e))?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(file)
}

fn read_from(file: &mut File, path: &Path) -> Result<KeyPair, KeyFileError> {
    // Reserved in one piece, so that growing leaves no copy of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_LEN_MAX as usize + 1));
    file.take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| io_error("read", path, e))?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let problem = format!("more than {FILE_LEN_MAX} bytes");
        return Err(KeyFileError::Malformed {
            path: path.to_owned(),
            problem,
        });
    }
    decode(&bytes).map_err(|problem| KeyFileError::Malformed {
        path: path.to_owned(),
        problem,
    })
}

fn encode(pair: &KeyPair) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(FILE_LEN_MAX as usize));
    text.push_str(HEADER);
    text.push_str("\nscheme: ");
    text.push_str(&pair.scheme().to_string());
    text.push_str("\npublic: ");
    BASE64.encode_string(pair.public().as_bytes(), &mut text);
    text.push_str("\nsecret: ");
    BASE64.encode_string(pair.secret_bytes(), &mut text);
    text.push('\n');
    text
}

/// What is wrong is said without quoting the content: it holds a secret.
fn decode(bytes: &[u8]) -> Result<KeyPair, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    let mut lines = text
        .strip_suffix('\n')
        .ok_or("the last line is incomplete")?
        .split('\n');
    if lines.next() != Some(HEADER) {
        return Err(format!("the first line is not {HEADER:?}"));
    }
    let mut field = |name: &str| {
        lines
            .next()
            .and_then(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .ok_or(format!("the line {name:?} is missing"))
    };
    let scheme: Scheme = field("scheme")?
        .parse()
        .map_err(|_| "unknown scheme".to_owned())?;
    let public = BASE64
        .decode(field("public")?)
        .map_err(|_| "public: not base64")?;
    let secret = Zeroizing::new(
        BASE64
            .decode(field("secret")?)
            .map_err(|_| "secret: not base64")?,
    );
    if lines.next().is_some() {
        return Err("unexpected lines at the end".to_owned());
    }
    let public = PublicKey::from_bytes(scheme, &public).map_err(|e| e.to_string())?;
    let pair = KeyPair::from_secret_bytes(scheme, &secret).map_err(|e| e.to_string())?;
    if *pair.public() != public {
        return Err("public and secret key do not belong together".to_owned());
    }
    Ok(pair)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
