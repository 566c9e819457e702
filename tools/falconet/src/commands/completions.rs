//! `falconet completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet completions bash > ~/.local/share/bash-completion/completions/falconet
  falconet completions zsh > ~/.zfunc/_falconet
  falconet completions fish > ~/.config/fish/completions/falconet.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut super::Cli::command(),
            "falconet",
            &mut script,
        );
        output::line(String::from_utf8(script)?.trim_end())
    }
}
