//! Logs: `tracing` to standard error, for people or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// A log level that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "[log] level = {level:?} is not understood: {reason}; use error, warn, info, debug or trace"
)]
pub struct LevelError {
    level: String,
    reason: String,
}

/// Installs the process-wide subscriber; a second call changes nothing.
pub fn init(config: &LogSection) -> Result<(), LevelError> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| LevelError {
        level: config.level.clone(),
        reason: error.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // An error means that a subscriber exists already, as in tests with many validators.
    let _ = match config.format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
