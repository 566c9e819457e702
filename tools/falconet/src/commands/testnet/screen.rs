//! What `falconet testnet` shows: figures in place on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, Instant};

use falconet_bench::cluster::Testnet;
use falconet_bench::http::{Node, NodeStatus};
use falconet_bench::load::LiveSnapshot;
use falconet_bench::report::Report;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How often a validator is asked for height and round.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Where to show things.
#[derive(Clone, Copy)]
pub struct Screen {
    /// Standard output belongs to the JSON object.
    json: bool,
    /// Figures may be drawn in place.
    in_place: bool,
}

impl Screen {
    /// Looks whether there is a terminal.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            in_place: !json && stdout().is_terminal(),
        }
    }

    /// A line for people. Nobody needs to read it, so a closed output is no error.
    pub fn line(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            let _ = output::line(text);
        }
    }

    /// What a person needs to know of a network that runs.
    pub fn started(&self, testnet: &Testnet) {
        self.line(&format!("files in {}", testnet.dir().display()));
        let faucet = testnet.faucet_path();
        if faucet.exists() {
            self.line(&format!("a funded account for you: {}", faucet.display()));
        }
    }

    /// Starts to show figures.
    pub fn live(&self, nodes: &[Node]) -> Live {
        let bar = self.in_place.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(ProgressStyle::with_template("\n{msg}").expect("valid template"));
            bar
        });
        let now = Instant::now();
        Live {
            screen: *self,
            bar,
            nodes: nodes.to_vec(),
            status: None,
            signing: 0,
            status_due: now,
            line_due: now + LINE_INTERVAL,
        }
    }

    /// The result.
    pub fn report(&self, report: &Report) -> anyhow::Result<()> {
        let text = report.to_string();
        if self.json {
            eprint!("{text}");
            output::line(serde_json::to_string(report)?)
        } else {
            output::line(text.trim_end())
        }
    }
}

/// Figures that change.
pub struct Live {
    screen: Screen,
    bar: Option<ProgressBar>,
    nodes: Vec<Node>,
    /// The most advanced validator's.
    status: Option<NodeStatus>,
    /// Validators that answer and sign.
    signing: usize,
    status_due: Instant,
    line_due: Instant,
}

impl Live {
    /// Shows the latest figures; without load only the chain's.
    pub fn show(&mut self, load: Option<&LiveSnapshot>) {
        let now = Instant::now();
        if now >= self.status_due {
            self.status_due = now + STATUS_INTERVAL;
            let answers: Vec<NodeStatus> = self
                .nodes
                .iter()
                .filter_map(|node| node.status().ok())
                .collect();
            self.signing = answers.iter().filter(|status| status.signing).count();
            self.status = answers.into_iter().max_by_key(|status| status.height);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(self.block(load));
            bar.tick();
        } else if now >= self.line_due {
            self.line_due = now + LINE_INTERVAL;
            self.screen.line(&self.sentence(load));
        }
    }

    /// Something that must not be overwritten.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.screen.line(text)),
            None => self.screen.line(text),
        }
    }

    fn chain(&self) -> (String, String) {
        let show = |number: fn(&NodeStatus) -> u64| {
            self.status
                .as_ref()
                .map_or_else(|| "-".into(), |status| number(status).to_string())
        };
        (show(|status| status.height), show(|status| status.round))
    }

    /// Several lines, drawn in place.
    fn block(&self, load: Option<&LiveSnapshot>) -> String {
        let (height, round) = self.chain();
        let (signing, all) = (self.signing, self.nodes.len());
        let mut text =
            format!("  height     {height}   round {round}   {signing} of {all} validators sign\n");
        if let Some(load) = load {
            text += &format!(
                "  committed  {:.0} tx/s of {} offered   {} in all\n\
                 \x20 latency    p50 {} ms   p99 {} ms\n\
                 \x20 in flight  {}   refused {}   busy {}{}\n",
                load.committed_tps,
                load.offered_tps,
                load.committed,
                output::millis(load.p50_ms),
                output::millis(load.p99_ms),
                load.in_flight,
                load.refused,
                load.busy,
                if load.generator_behind {
                    "   (the load generator is behind)"
                } else {
                    ""
                },
            );
        }
        text += "  Ctrl-C stops";
        text
    }

    /// One line, printed now and then.
    fn sentence(&self, load: Option<&LiveSnapshot>) -> String {
        let (height, round) = self.chain();
        let (signing, all) = (self.signing, self.nodes.len());
        let mut text = format!("height {height}, round {round}, {signing} of {all} sign");
        if let Some(load) = load {
            text += &format!(
                ", {:.0} tx/s committed of {} offered, p50 {} ms, p99 {} ms, {} in flight, \
                 {} refused",
                load.committed_tps,
                load.offered_tps,
                output::millis(load.p50_ms),
                output::millis(load.p99_ms),
                load.in_flight,
                load.refused,
            );
        }
        text
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
