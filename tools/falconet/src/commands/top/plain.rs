//! The same as text, and how figures are written in both forms.

use std::fmt::Write as _;

use falconet_ebpf::{Cause, Fate};
use falconet_validator::http::LiveAnswer;

use super::nodes::{Node, Nodes, Said};

/// Headings of [`summary`].
pub const HEADINGS: [&str; 9] = [
    "validator",
    "state",
    "height",
    "round",
    "tx/s",
    "p50 ms",
    "p99 ms",
    "peers",
    "cpu",
];

/// One validator in one line.
pub fn summary(node: &Node) -> [String; 9] {
    let Some(live) = node.live() else {
        let mut cells: [String; 9] = std::array::from_fn(|_| "-".to_owned());
        cells[0].clone_from(&node.url);
        cells[1] = if node.error.is_some() {
            "down"
        } else {
            "asking"
        }
        .into();
        return cells;
    };
    let status = &live.status;
    let sample = live.samples.last();
    let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    [
        format!("{} {}", status.validator, status.validator_name),
        state(live),
        status.height.to_string(),
        status.round.to_string(),
        sample.map_or_else(|| "-".into(), |sample| format!("{:.0}", sample.tx_per_s)),
        number(live.latency.p50_ms),
        number(live.latency.p99_ms),
        format!("{connected}/{}", status.peers.len()),
        sample.map_or_else(|| "-".into(), |sample| format!("{:.2}", sample.cpu_cores)),
    ]
}

/// In a word.
pub fn state(live: &LiveAnswer) -> String {
    let word = if !live.status.signing {
        "NOT SIGNING"
    } else if live.status.syncing {
        "syncing"
    } else if live.not_ready.is_some() {
        "not ready"
    } else if live.status.leader == live.status.validator {
        "leads"
    } else {
        "ready"
    };
    word.into()
}

/// From this score on, of 100, a peer is not marked.
const SCORE_GOOD: f64 = 50.0;

/// Seconds until a ban ends, if it has not.
fn banned_s(until_ms: f64, now_ms: f64) -> Option<f64> {
    (until_ms > now_ms).then(|| ((until_ms - now_ms) / 1e3).ceil())
}

/// A peer as its validator sees it: name, in brackets what is known of the path and of its
/// behaviour; and whether all is well with it.
pub fn peers(said: &Said) -> Vec<(String, bool)> {
    let list = said.raw["status"]["peers"].as_array();
    list.map_or(&[][..], Vec::as_slice)
        .iter()
        .filter(|peer| peer["index"] != said.live.status.validator)
        .map(|peer| {
            let connected = peer["connected"] == true;
            let path = &peer["path"];
            let mut known = Vec::new();
            if let Some(rtt_us) = path["rtt_us"].as_f64() {
                known.push(format!("{:.1} ms", rtt_us / 1e3));
            }
            known.extend(path["tier"].as_str().map(str::to_owned));
            let score = peer["score"].as_f64();
            known.extend(score.map(|score| format!("score {score:.0}")));
            let until = peer["banned_until_ms"].as_f64();
            let banned = until.and_then(|until| banned_s(until, said.now_ms()));
            known.extend(banned.map(|seconds| format!("BANNED {seconds:.0} s")));
            let name = peer["name"].as_str().unwrap_or("?");
            let name = match connected {
                true => name.to_owned(),
                false => format!("{name} DOWN"),
            };
            let text = match known.is_empty() {
                true => name,
                false => format!("{name} ({})", known.join(", ")),
            };
            let spotless = banned.is_none() && score.is_none_or(|score| score >= SCORE_GOOD);
            (text, connected && spotless)
        })
        .collect()
}

/// The filter before the network stack, where there is one: totals by fate, packets a second
/// dropped since the answer before, and the causes of drops, the most frequent first.
pub fn filter(node: &Node) -> Option<String> {
    let xdp = node.live()?.xdp.as_ref()?;
    if !xdp.attached {
        return Some(format!("{} NOT ATTACHED", xdp.device));
    }
    let before = node.before.as_ref().and_then(|said| {
        let seconds = node.live()?.uptime_s - said.live.uptime_s;
        Some((said.live.xdp.as_ref()?, seconds)).filter(|_| seconds > 0.0)
    });
    let speed = before.map_or(String::new(), |(before, seconds)| {
        let new = xdp.dropped.saturating_sub(before.dropped) as f64;
        format!(" ({:.0}/s)", new / seconds)
    });
    let mut text = format!(
        "{} {}: passed {}, redirected {}, dropped {}{speed}",
        xdp.device, xdp.mode, xdp.passed, xdp.redirected, xdp.dropped
    );
    let mut causes: Vec<(&str, u64)> = Cause::ALL
        .iter()
        .filter(|cause| cause.fate() == Fate::Drop)
        .filter_map(|cause| Some((cause.name(), *xdp.causes.get(cause.name())?)))
        .filter(|(_, packets)| *packets > 0)
        .collect();
    causes.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    if !causes.is_empty() {
        let causes: Vec<String> = causes
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        write!(text, ": {}", causes.join(", ")).expect("memory");
    }
    Some(text)
}

/// Everything as one text.
pub fn text(nodes: &Nodes) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(nodes.all().iter().map(summary));
    let mut text = table(&rows);
    for node in nodes.all() {
        if let Some(error) = &node.error {
            writeln!(text, "\n{}: {error}", node.url).expect("memory");
        }
        let (Some(live), Some(said)) = (node.live(), &node.said) else {
            continue;
        };
        let status = &live.status;
        writeln!(
            text,
            "\nvalidator {}: leader of round {} is validator {}",
            status.validator, status.round, status.leader
        )
        .expect("memory");
        if let Some(reason) = &live.not_ready {
            writeln!(text, "not ready: {reason}").expect("memory");
        }
        let head = ["stage", "threads", "busy", "back-pressured", "queue"];
        let mut rows = vec![head.map(str::to_owned)];
        for (i, stage) in live.stages.iter().enumerate() {
            let (busy, pressed) = node.shares(i).unwrap_or_default();
            let queues: Vec<String> = live
                .queues
                .iter()
                .filter(|queue| queue.stage == stage.stage)
                .map(|queue| format!("{} {}/{}", queue.queue, queue.depth, queue.limit))
                .collect();
            rows.push([
                stage.stage.clone(),
                stage.threads.to_string(),
                percent(busy),
                percent(pressed),
                queues.join(", "),
            ]);
        }
        text += &table(&rows);
        let names: Vec<String> = peers(said).into_iter().map(|(name, _)| name).collect();
        writeln!(text, "peers: {}", names.join(", ")).expect("memory");
        if let Some(filter) = filter(node) {
            writeln!(text, "xdp: {filter}").expect("memory");
        }
    }
    text
}

/// A share of time.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |i: usize| {
        rows.iter()
            .map(|row| row[i].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}
