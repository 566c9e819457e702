//! `falconet top`: what validators do, live in a terminal or once as text.

mod nodes;
mod plain;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use falconet_bench::cluster::Testnet;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::nodes::Nodes;
use self::view::View;
use crate::http::URL_DEFAULT;
use crate::output;
use crate::signals::Stop;

/// Validators that are watched at a time; each has a thread that asks.
const NODES_MAX: usize = 256;
/// Longest wait for a key before the screen is drawn again.
const FRAME: Duration = Duration::from_millis(250);

/// Watch validators: stages, queues, rounds, latency, peers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet top                                       the validator at the default address
  falconet top http://[::1]:26700 http://[::1]:26701
  falconet top --dir my-chain                        every validator of a local network
  falconet top --dir my-chain --once --json          one answer for a script

Keys: up and down (or k and j) choose the validator whose stages and peers are shown, q ends. A stage
that is busy while those before it are back-pressured is the one that limits the validator. Exit code 1
of --once when no validator answered.")]
pub struct Args {
    /// HTTP addresses of validators [default: http://[::1]:26700]
    #[arg(value_name = "URL", env = "FALCONET_HTTP")]
    urls: Vec<String>,
    /// Directory of a network made by `falconet testnet --dir`: all of its validators instead
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// Print JSON; with --once only
    #[arg(long, requires = "once")]
    json: bool,
    /// Time between two questions to a validator
    #[arg(long, value_name = "DURATION", value_parser = output::parse_duration, default_value = "1s")]
    interval: Duration,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let urls = self.addresses()?;
        if !self.once {
            return live(Nodes::watch(&urls, self.interval)?);
        }
        let nodes = Nodes::ask_once(&urls)?;
        if self.json {
            output::json(&nodes.json())?;
        } else {
            output::line(plain::text(&nodes).trim_end())?;
        }
        if nodes.up() == 0 {
            let why = nodes.first_error().unwrap_or_default();
            bail!("no validator answers: {why}");
        }
        Ok(())
    }

    fn addresses(&self) -> anyhow::Result<Vec<String>> {
        let urls = match &self.dir {
            Some(dir) => {
                let testnet = Testnet::open(dir)?;
                let nodes = testnet.validators();
                nodes.iter().map(|v| format!("http://{}", v.http)).collect()
            }
            None if self.urls.is_empty() => vec![URL_DEFAULT.to_owned()],
            None => self.urls.clone(),
        };
        if urls.len() > NODES_MAX {
            bail!(
                "{} addresses are too many; name at most {NODES_MAX}",
                urls.len()
            );
        }
        Ok(urls)
    }
}

/// Draws until somebody ends it. `ratatui` gives the terminal back on a panic; here on every other
/// way out.
fn live(mut nodes: Nodes) -> anyhow::Result<()> {
    let stop = Stop::install().context("cannot catch signals")?;
    let mut terminal =
        ratatui::try_init().context("this needs a terminal; use --once where there is none")?;
    let mut view = View::default();
    let result = loop {
        nodes.take_answers();
        if let Err(error) = terminal.draw(|frame| view.draw(&nodes, frame)) {
            break Err(error.into());
        }
        match event::poll(FRAME).and_then(|ready| ready.then(event::read).transpose()) {
            Ok(Some(event)) if ends(&event) => break Ok(()),
            Ok(Some(Event::Key(key))) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Up | KeyCode::Char('k') => view.up(),
                KeyCode::Down | KeyCode::Char('j') => view.down(nodes.len()),
                _ => {}
            },
            Ok(_) if stop.asked() => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error.into()),
        }
    };
    ratatui::restore();
    result
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
