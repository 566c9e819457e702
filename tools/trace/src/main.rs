//! `falconet-trace`: follows batches and transactions through a running validator by its static
//! probes, and says how long each step takes. Needs root; slows the validator by some 0.2 us a
//! probe hit while it runs.

mod event;
mod follow;
mod live;
mod perfetto;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;

use follow::Follower;
use live::Live;

/// Time of a trace for Perfetto, and between two lines.
const SECOND: Duration = Duration::from_secs(1);
/// How long `--once` looks.
const ONCE: Duration = Duration::from_secs(5);

/// Follow batches and transactions through a running validator
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  falconet-trace $(pgrep -f 'falconet run')                a line a second, a table at Ctrl-C
  falconet-trace PID --for 10s --json                      for programs
  falconet-trace PID --perfetto second.json                one second, for ui.perfetto.dev"
)]
struct Args {
    /// Process id of the validator
    pid: u32,
    /// End after this many seconds, such as 10s [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds)]
    for_: Option<Duration>,
    /// Look for five seconds, print the table, end
    #[arg(long, conflicts_with = "for_")]
    once: bool,
    /// Print one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
    /// Write a trace of one second for Perfetto, and end
    #[arg(long, value_name = "FILE", conflicts_with_all = ["for_", "once", "json"])]
    perfetto: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse() {
        Ok(0) | Err(_) => Err("a number of seconds such as 10s".into()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone())?;
    signal_hook::flag::register(signal_hook::consts::SIGTERM, stop.clone())?;
    let live = Live::attach(args.pid)?;
    let start = Instant::now();
    if let Some(path) = &args.perfetto {
        let mut events = Vec::new();
        live.run(start + SECOND, |event| {
            events.push(event);
            events.len() < perfetto::EVENTS_MAX && !stop.load(Ordering::Relaxed)
        })?;
        let trace = perfetto::trace(args.pid, &events);
        std::fs::write(path, trace.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{} events in {}", events.len(), path.display());
        return Ok(());
    }
    let length = if args.once { Some(ONCE) } else { args.for_ };
    let end = length.map(|length| start + length);
    let mut follower = Follower::default();
    while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        let next = Instant::now() + SECOND;
        live.run(end.map_or(next, |end| end.min(next)), |event| {
            follower.event(&event);
            !stop.load(Ordering::Relaxed)
        })?;
        if !args.json && !args.once {
            println!("{}", report::line(&follower));
        }
    }
    let lost = live.lost()?;
    if args.json {
        println!("{}", report::json(&follower, lost));
    } else {
        print!("{}", report::table(&follower, lost));
    }
    Ok(())
}
