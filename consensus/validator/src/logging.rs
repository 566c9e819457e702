//! Logs: `tracing` to standard error, for people or as JSON, with a level that can be changed
//! while the process runs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, LogSection};

/// Longest level that is taken at run time, bytes.
pub const LEVEL_BYTES_MAX: usize = 1024;

/// A log level that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "log level {level:?} is not understood: {reason}; use error, warn, info, debug or trace, or directives such as info,falconet_hotstuff=debug"
)]
pub struct LevelError {
    level: String,
    reason: String,
}

/// The filter that is in force. There is one subscriber a process.
struct Installed {
    handle: reload::Handle<EnvFilter, Registry>,
    level: Mutex<String>,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();

fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let error = |reason: String| LevelError {
        level: level.chars().take(80).collect(),
        reason,
    };
    if level.len() > LEVEL_BYTES_MAX {
        return Err(error(format!("longer than {LEVEL_BYTES_MAX} bytes")));
    }
    // A single misspelt word would be taken for the name of a module, and silence everything.
    if level.trim().is_empty() {
        return Err(error("it is empty".into()));
    }
    for directive in level.split(',').map(str::trim) {
        let bare = !directive.contains(['=', '[', ':']);
        if bare
            && directive
                .parse::<tracing::level_filters::LevelFilter>()
                .is_err()
        {
            return Err(error(format!("{directive:?} is no level")));
        }
    }
    EnvFilter::try_new(level).map_err(|reason| error(reason.to_string()))
}

/// Installs the process-wide subscriber; a second call changes nothing.
pub fn init(config: &LogSection) -> Result<(), LevelError> {
    let filter = filter(&config.level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = match config.format {
        LogFormat::Human => Box::new(lines.with_target(false)),
        LogFormat::Json => Box::new(lines.json()),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(crate::otel::LogLayer);
    // An error means that a subscriber exists already, as in tests with many validators.
    if subscriber.try_init().is_ok() {
        let level = Mutex::new(config.level.clone());
        drop(INSTALLED.set(Installed { handle, level }));
    }
    Ok(())
}

/// The level in force; `None` when somebody else installed the subscriber.
#[must_use]
pub fn level() -> Option<String> {
    INSTALLED
        .get()
        .map(|installed| installed.level.lock().clone())
}

/// Changes the level. Takes effect at once, and until the next change or the end of the process.
pub fn set_level(level: &str) -> Result<(), LevelError> {
    let filter = filter(level)?;
    let unavailable = |reason: &str| LevelError {
        level: level.into(),
        reason: reason.into(),
    };
    let installed = INSTALLED
        .get()
        .ok_or_else(|| unavailable("another part of the process owns the logs"))?;
    let mut current = installed.level.lock();
    installed
        .handle
        .reload(filter)
        .map_err(|error| unavailable(&error.to_string()))?;
    let before = std::mem::replace(&mut *current, level.to_owned());
    drop(current);
    tracing::info!(before, now = level, "log level changed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood_and_misspelt_ones_are_not() {
        for good in ["info", "off", "info,falconet_hotstuff=debug", "WARN"] {
            filter(good).unwrap();
        }
        for bad in ["", "inof", "info,=", "falconet=loud", "info,falconet"] {
            assert!(filter(bad).is_err(), "{bad:?}");
        }
        assert!(filter(&"a=info,".repeat(LEVEL_BYTES_MAX)).is_err());
    }
}
