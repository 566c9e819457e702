//! The screen. Everything has its place in 80 columns and 24 lines; more room shows more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState, Wrap};

use super::nodes::{Node, Nodes};
use super::plain::{self, HEADINGS};

/// Lines of the table of validators that are kept for the panels below it.
const PANELS: u16 = 16;
/// Lines of the panel of stages: a border, a heading, six stages, a border.
const STAGES: u16 = 9;

/// What is chosen.
#[derive(Default)]
pub struct View {
    table: TableState,
}

impl View {
    /// Chooses the validator above.
    pub fn up(&mut self) {
        let now = self.table.selected().unwrap_or(0);
        self.table.select(Some(now.saturating_sub(1)));
    }

    /// Chooses the validator below.
    pub fn down(&mut self, count: usize) {
        let now = self.table.selected().unwrap_or(0);
        self.table
            .select(Some((now + 1).min(count.saturating_sub(1))));
    }

    /// Draws everything.
    pub fn draw(&mut self, nodes: &Nodes, frame: &mut Frame<'_>) {
        let area = frame.area();
        if self.table.selected().is_none() {
            self.table.select(Some(0));
        }
        let wanted = u16::try_from(nodes.len())
            .unwrap_or(u16::MAX)
            .saturating_add(3);
        let room = area.height.saturating_sub(PANELS).max(4);
        let [title, network, stages, peers] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(wanted.min(room)),
            Constraint::Length(STAGES),
            Constraint::Min(0),
        ])
        .areas(area);
        frame.render_widget(headline(nodes), title);
        self.network(nodes, network, frame);
        let Some(node) = self.table.selected().and_then(|i| nodes.all().get(i)) else {
            return;
        };
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(58), Constraint::Fill(1)]).areas(stages);
        frame.render_widget(stage_table(node), left);
        frame.render_widget(queue_table(node), right);
        frame.render_widget(details(node), peers);
    }

    fn network(&mut self, nodes: &Nodes, area: Rect, frame: &mut Frame<'_>) {
        let rows = nodes.all().iter().map(|node| {
            let style = match node.live() {
                None if node.error.is_some() => Style::new().fg(Color::Red),
                None => Style::new(),
                Some(live) if live.not_ready.is_some() => Style::new().fg(Color::Yellow),
                Some(_) => Style::new(),
            };
            Row::new(plain::summary(node).map(Cell::from)).style(style)
        });
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(11),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(5),
            Constraint::Length(4),
        ];
        let table = Table::new(rows, widths)
            .header(heading(&HEADINGS))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(" validators "));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

fn headline(nodes: &Nodes) -> Paragraph<'_> {
    let name = nodes
        .all()
        .iter()
        .find_map(|node| node.live().map(|live| live.status.name.as_str()))
        .unwrap_or("no network yet");
    let (up, all) = (nodes.up(), nodes.len());
    let counted = Span::styled(
        format!("{up} of {all} answer"),
        Style::new().fg(if up == all { Color::Green } else { Color::Red }),
    );
    Paragraph::new(Line::from(vec![
        Span::styled("falconet top", Style::new().add_modifier(Modifier::BOLD)),
        format!("  {name}  ").into(),
        counted,
        "   q ends, up and down choose".into(),
    ]))
}

fn heading(names: &[&'static str]) -> Row<'static> {
    Row::new(names.to_vec()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn stage_table(node: &Node) -> Table<'_> {
    let stages = node.live().map_or(&[][..], |live| &live.stages);
    let rows = stages.iter().enumerate().map(|(i, stage)| {
        let (busy, pressed) = node.shares(i).unwrap_or_default();
        let waits = (1.0 - busy - pressed).max(0.0);
        let hot = if pressed > 0.5 {
            Color::Yellow
        } else if busy > 0.9 {
            Color::Red
        } else {
            Color::Reset
        };
        Row::new([
            stage.stage.clone(),
            plain::percent(busy),
            plain::percent(pressed),
            plain::percent(waits),
            bar(busy, pressed),
        ])
        .style(Style::new().fg(hot))
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    Table::new(rows, widths)
        .header(heading(&["stage", "busy", "pressed", "waiting", ""]))
        .block(Block::bordered().title(" stages "))
}

/// Ten characters: `#` busy, `=` back-pressured.
fn bar(busy: f64, pressed: f64) -> String {
    const WIDTH: f64 = 10.0;
    let busy = (busy * WIDTH).round() as usize;
    let pressed = (pressed * WIDTH).round() as usize;
    let rest = (WIDTH as usize).saturating_sub(busy + pressed);
    format!(
        "{}{}{}",
        "#".repeat(busy),
        "=".repeat(pressed),
        ".".repeat(rest)
    )
}

fn queue_table(node: &Node) -> Table<'_> {
    let queues = node.live().map_or(&[][..], |live| &live.queues);
    let rows = queues.iter().map(|queue| {
        let full = queue.depth * 10 > queue.limit * 9;
        Row::new([
            queue.queue.clone(),
            queue.depth.to_string(),
            queue.limit.to_string(),
        ])
        .style(Style::new().fg(if full { Color::Red } else { Color::Reset }))
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    Table::new(rows, widths)
        .header(heading(&["queue", "entries", "fit"]))
        .block(Block::bordered().title(" queues "))
}

fn details(node: &Node) -> Paragraph<'_> {
    let mut lines = Vec::new();
    if let Some(error) = &node.error {
        lines.push(Line::styled(error.as_str(), Style::new().fg(Color::Red)));
    }
    let mut title = format!(" {} ", node.url);
    if let (Some(live), Some(said)) = (node.live(), &node.said) {
        let status = &live.status;
        title = format!(" {} at {} ", status.validator_name, node.url);
        if let Some(reason) = &live.not_ready {
            lines.push(Line::styled(
                reason.as_str(),
                Style::new().fg(Color::Yellow),
            ));
        }
        lines.push(Line::from(format!(
            "leader {}  timed out {}  evidence {}  memory {} MiB  up {} s",
            status.leader,
            status.rounds_timed_out,
            status.evidence,
            live.resident_bytes >> 20,
            live.uptime_s as u64
        )));
        let mut spans = vec![Span::from("peers ")];
        for (text, connected) in plain::peers(said) {
            let color = if connected { Color::Reset } else { Color::Red };
            spans.push(Span::styled(format!("{text}  "), Style::new().fg(color)));
        }
        lines.push(Line::from(spans));
        if let Some(filter) = plain::filter(node) {
            lines.push(Line::from(format!("xdp {filter}")));
        }
    }
    Paragraph::new(lines)
        .wrap(Wrap { trim: true })
        .block(Block::bordered().title(title))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::super::nodes::Said;
    use super::*;

    /// An answer at `height`, as many seconds after the start.
    fn answer(index: u16, height: u64, busy_s: f64) -> Said {
        let digest = "0".repeat(64);
        let stages = ["inbound", "verify", "core", "log", "execute", "history"].map(|stage| {
            json!({ "stage": stage, "threads": 1, "busy_s": busy_s, "waiting_s": 10.0, "back_pressured_s": 0.0 })
        });
        Said::read(json!({
            "status": {
                "chain_id": digest, "name": "demo", "application": "ledger", "scheme": "falcon1024",
                "validator": index, "validator_name": format!("validator-{index}"), "version": "0",
                "epoch": 0, "round": height + 1, "leader": 1, "high_qc_round": height,
                "height": height, "committed_block": digest, "executed_height": height,
                "state_commitment": digest, "transactions_committed": 5, "transactions_failed": 0,
                "transactions_pending": 0, "signing": true, "syncing": false, "fsync": true,
                "peers": [
                    { "index": 0, "name": "validator-0", "connected": true, "path": { "tier": "lan",
                        "rtt_min_us": 900, "rtt_us": 1250, "mtu_bytes": 1452, "packets_sent": 5, "packets_lost": 0 },
                        "score": 97 },
                    { "index": 1, "name": "validator-1", "connected": false, "score": 3,
                        "banned_until_ms": 31_500 },
                ],
                "clients": 0, "rounds_timed_out": 3, "evidence": 0, "verifier_backend": "avx2",
            },
            "not_ready": null, "uptime_s": height, "resident_bytes": 64 << 20, "stages": stages,
            "queues": [{ "queue": "core", "stage": "core", "depth": 8000, "limit": 8192 }],
            "latency": { "count": 9, "p50_ms": 8.4, "p99_ms": 20.0, "p999_ms": null },
            "transport": { "bytes_in": 5 },
            "xdp": { "device": "eth7", "mode": "tc (TCX)", "attached": true, "passed": 77, "redirected": 0,
                "dropped": 10 * height, "causes": { "client": 77, "blocked": 3, "quic_short": 10 * height - 3 } },
            "samples": [{ "time_ms": 1_000, "round": height, "height": height, "tx_per_s": 512.0,
                "blocks_per_s": 9.0, "p50_ms": 8.4, "p99_ms": null, "in_bytes_per_s": 0.0,
                "out_bytes_per_s": 0.0, "cpu_cores": 0.25 }],
            "blocks": [],
        }))
        .unwrap()
    }

    fn nodes() -> Nodes {
        let mut busy = Node::new("http://[::1]:1");
        busy.take(Ok(answer(2, 70, 0.0)));
        busy.take(Ok(answer(2, 77, 30.0)));
        let mut down = Node::new("http://[::1]:2");
        down.take(Ok(answer(1, 70, 0.0)));
        down.take(Err(anyhow::anyhow!("cannot reach the validator")));
        Nodes::of(vec![busy, down, Node::new("http://[::1]:3")])
    }

    fn screen(view: &mut View, nodes: &Nodes, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(nodes, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_has_its_place_in_a_small_terminal() {
        let text = screen(&mut View::default(), &nodes(), 80, 24);
        for part in [
            "demo",
            "1 of 3 answer",
            "2 validator-2",
            "ready",
            "77",
            "512",
            "8.4",
            "20.0",
            "1/2",
            "0.25",
            "down",
            "asking",
            "execute",
            "history",
            "100%",
            "##########",
            "8000",
            "8192",
            "validator-0 (1.2 ms, lan, score 97)",
            "validator-1 DOWN (score 3, BANNED",
            "timed out 3",
            "xdp eth7 tc (TCX): passed 77, redirected 0,",
            "dropped 770 (10/s): quic_short",
            "q ends",
        ] {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
    }

    #[test]
    fn the_chosen_validator_is_shown_and_a_silent_one_says_why() {
        let (mut view, nodes) = (View::default(), nodes());
        view.up();
        view.down(nodes.len());
        let text = screen(&mut view, &nodes, 80, 24);
        assert!(text.contains("cannot reach the validator"), "{text}");
        for _ in 0..9 {
            view.down(nodes.len());
        }
        assert!(screen(&mut view, &nodes, 80, 24).contains(" http://[::1]:3 "));
    }

    #[test]
    fn any_size_can_be_drawn() {
        let nodes = nodes();
        for (width, height) in [(1, 1), (5, 3), (20, 8), (79, 23), (300, 100)] {
            screen(&mut View::default(), &nodes, width, height);
        }
    }

    #[test]
    fn a_restarted_validator_does_not_show_negative_shares() {
        let mut node = Node::new("http://[::1]:1");
        node.take(Ok(answer(0, 70, 100.0)));
        node.take(Ok(answer(0, 71, 1.0)));
        let (busy, pressed) = node.shares(0).unwrap_or_default();
        assert!((0.0..=1.0).contains(&busy) && (0.0..=1.0).contains(&pressed));
    }
}
