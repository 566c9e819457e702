//! The same as text, and how figures are written in both forms.

use std::fmt::Write as _;

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

/// A peer as its validator sees it: name, and in brackets what is known of the path.
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
            let name = peer["name"].as_str().unwrap_or("?");
            let text = match (connected, known.is_empty()) {
                (false, _) => format!("{name} DOWN"),
                (true, true) => name.to_owned(),
                (true, false) => format!("{name} ({})", known.join(", ")),
            };
            (text, connected)
        })
        .collect()
}

/// Counters of the packet filter in the kernel, where there is one.
pub fn filter(said: &Said) -> Option<String> {
    let of_transport = said
        .live
        .transport
        .iter()
        .filter(|(name, _)| name.starts_with("xdp"));
    let mut parts: Vec<String> = of_transport
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    if let Some(object) = said.raw["xdp"].as_object() {
        parts.extend(object.iter().map(|(name, n)| format!("{name} {n}")));
    }
    (!parts.is_empty()).then(|| parts.join("  "))
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
        if let Some(filter) = filter(said) {
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
