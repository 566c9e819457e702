//! The `falconet` command: makes keys, runs validators and local networks, talks to them, and
//! measures them.
//!
//! One module a command under [`commands`]; what a library could own lives in a library.

mod commands;
mod http;
mod output;
mod panics;
mod parent;
mod signals;

use std::process::ExitCode;

use clap::Parser as _;

/// Allocation from many threads at a time is what the validator does; mimalloc is made for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes: 0 done, 1 failed, 2 called wrongly (by clap).
fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    match cli.command.run() {
        Ok(code) => code,
        // A closed pipe (`falconet … | head`) is the reader's decision, not a failure to report.
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", output::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
