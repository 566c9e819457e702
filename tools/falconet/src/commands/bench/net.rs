//! `falconet bench net`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use falconet_bench::html;
use falconet_bench::net::{NetBench, compare};
use falconet_dataplane::Backend;

use crate::output;

/// Compare the transport with quinn, s2n-quic and TCP + TLS on loopback, in one run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench net
  falconet bench net --quick --only bulk
  falconet bench net --backend mmsg --json

Contenders take turns of about a second; ratios are taken round by round and the median counts.
Sender and receiver have a core each. The whole takes about five minutes. A program that was built
without the libraries to compare with (`--features peers`) measures only STOQ. AF_XDP is no choice
here: it needs a network device and its driver, and loopback has none.")]
pub struct Net {
    /// I/O backend of STOQ in the comparisons with others
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    backend: Choice,
    /// Rounds; each contender has its turn in each [default: 7, quick: 3]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// A look in less than a minute, with wide spreads
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this, as in bulk_mtu1500 or datagram64.quinn
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the report as one HTML file with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// End with one JSON object on standard output; tables go to standard error
    #[arg(long)]
    json: bool,
}

/// An I/O backend
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Choice {
    /// The best that this kernel permits
    Auto,
    /// io_uring with multishot receive
    IoUring,
    /// recvmmsg and sendmmsg with segmentation offload
    Mmsg,
    /// The same without segmentation offload
    Plain,
}

impl Net {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let backend = match self.backend {
            Choice::Auto => Backend::Auto,
            Choice::IoUring => Backend::IoUring,
            Choice::Mmsg => Backend::Mmsg,
            Choice::Plain => Backend::Plain,
        };
        let mut bench = if self.quick {
            NetBench::quick(backend)
        } else {
            NetBench::full(backend)
        };
        bench.rounds = self.rounds.unwrap_or(bench.rounds);
        bench.only = self.only;
        let spinner = output::spinner("preparing");
        let report = compare(&bench, &|case, done, total| {
            spinner.set_message(format!("{done}/{total} {case}"));
        })?;
        spinner.finish_and_clear();
        if let Some(path) = &self.html {
            super::write(path, &html::net(&report))?;
        }
        if self.json {
            eprint!("{report}");
            output::line(serde_json::to_string(&report)?)?;
        } else {
            output::line(report.to_string().trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
