//! `falconet probes`: the table of static probes, also the source of `docs/probes.md`.

use crate::output;

/// List the static probes (USDT) that this program carries, as Markdown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet probes | less
  bpftrace -l \"usdt:$(command -v falconet):*\"     the same, as the kernel sees them")]
pub struct Args {}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        output::line(falconet_probes::markdown().trim_end())
    }
}
