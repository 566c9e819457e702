//! A report as one HTML file: no script, no external asset, light and dark by the reader's wish.
//!
//! Curves and bars are inline SVG whose colours are CSS variables; every chart is followed by the
//! table of its numbers, so that nothing is said by colour or shape alone.

use std::fmt::Write as _;

use crate::machine::Machine;
use crate::net::NetReport;
use crate::report::Report;
use crate::sweep::Sweep;

/// Warnings that are shown unfolded.
const NOTES_SHOWN_MAX: usize = 4;
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;
/// Ticks of an axis, about.
const TICKS: f64 = 6.0;
/// Height of a bar and its gap.
const BAR: f64 = 22.0;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--muted:#5b6570;--grid:#e3e7eb;--a:#0b62c4;
--b:#b4460a;--c:#147a3d;--card:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--muted:#9aa5b1;--grid:#2c333a;
--a:#6cb0ff;--b:#ff9d5c;--c:#5fd08a;--card:#1c2126}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;
padding:24px;max-width:820px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 8px}
p{margin:4px 0 12px}.muted{color:var(--muted)}
svg{display:block;width:100%;height:auto}svg text{fill:var(--muted);font:12px system-ui,sans-serif}
.grid{stroke:var(--grid)}.a{stroke:var(--a);fill:none;stroke-width:2}
.b{stroke:var(--b);fill:none;stroke-width:2;stroke-dasharray:6 3}.c{stroke:var(--c);fill:none;stroke-width:2}
.fa{fill:var(--a)}.fb{fill:var(--b)}.fc{fill:var(--c)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:13px}
th,td{text-align:right;padding:3px 8px;border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{text-align:left}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.card{background:var(--card);border-radius:8px;padding:10px 16px}.card b{display:block;font-size:20px}
.note{border-left:3px solid var(--b);padding:2px 12px;margin:6px 0}
.scroll{overflow-x:auto}";

/// A load on a network.
#[must_use]
pub fn cluster(report: &Report) -> String {
    let title = format!(
        "{} validators, {}, {} tx/s",
        report.validators, report.scheme, report.offered_tps
    );
    let mut page = Page::new(&title, &report.environment.machine);
    page.cards(&[
        ("committed", format!("{:.0} tx/s", report.committed_tps)),
        ("p50", format!("{:.1} ms", report.latency_ms.p50)),
        ("p99", format!("{:.1} ms", report.latency_ms.p99)),
        ("max", format!("{:.1} ms", report.latency_ms.max)),
    ]);
    page.notes(&report.warnings());
    page.load(report);
    page.finish()
}

/// A sweep of rates.
#[must_use]
pub fn sweep(sweep: &Sweep) -> String {
    let title = sweep.steps.first().map_or_else(
        || "rate sweep".to_owned(),
        |step| {
            let report = &step.report;
            format!(
                "{} validators, {}: rate sweep",
                report.validators, report.scheme
            )
        },
    );
    let mut page = Page::new(&title, &sweep.environment.machine);
    page.cards(&[
        (
            if sweep.is_knee_above() {
                "knee, at least"
            } else {
                "knee"
            },
            format!("{} tx/s", sweep.knee_tps),
        ),
        ("saturation", format!("{:.0} tx/s", sweep.saturation_tps)),
    ]);
    let point = |value: fn(&Report) -> f64| -> Vec<(f64, f64)> {
        let steps = sweep.steps.iter().map(|step| &step.report);
        steps.map(|r| (r.committed_tps, value(r))).collect()
    };
    page.heading("Latency by throughput");
    page.lines(
        "committed, transactions a second",
        "latency, ms",
        &[
            ("p50", "a", point(|r| r.latency_ms.p50)),
            ("p99", "b", point(|r| r.latency_ms.p99)),
        ],
    );
    let rows = sweep.steps.iter().map(|step| {
        let (r, l) = (&step.report, &step.report.latency_ms);
        let mut row = vec![r.offered_tps.to_string(), format!("{:.0}", r.committed_tps)];
        row.extend([l.p50, l.p90, l.p99, l.p999, l.p9999, l.max].map(|ms| format!("{ms:.1}")));
        row.push(step.not_held.clone().unwrap_or_else(|| "held".into()));
        row
    });
    page.table(
        &[
            "offered",
            "committed",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
            "",
        ],
        rows,
    );
    let knee = sweep
        .steps
        .iter()
        .find(|step| step.report.offered_tps == sweep.knee_tps);
    if let Some(step) = knee {
        page.heading(&format!("At the knee, {} tx/s", sweep.knee_tps));
        page.notes(&step.report.warnings());
        page.load(&step.report);
    }
    page.finish()
}

/// A comparison of transports.
#[must_use]
pub fn net(report: &NetReport) -> String {
    let mut page = Page::new("STOQ beside other transports", &report.environment.machine);
    page.notes(&report.warnings);
    let mut tasks: Vec<&str> = report
        .cases
        .keys()
        .filter_map(|name| name.split_once('.').map(|(task, _)| task))
        .collect();
    tasks.dedup();
    for task in tasks {
        let cases: Vec<_> = report
            .cases
            .iter()
            .filter_map(|(name, case)| Some((name.split_once('.')?, case)))
            .filter(|((of, _), _)| *of == task)
            .map(|((_, who), case)| (who, case))
            .collect();
        let unit = cases.first().map_or("", |(_, case)| case.unit.as_str());
        page.heading(&format!("{task}, {unit}"));
        let bars = cases.iter().map(|(who, case)| {
            let color = if who.starts_with("stoq") { "fa" } else { "fb" };
            (who.to_string(), case.series.median, color)
        });
        page.bars(unit, &bars.collect::<Vec<_>>());
        let rows = cases.iter().map(|(who, case)| {
            let s = &case.series;
            let mut row = vec![who.to_string()];
            row.extend([s.median, s.min, s.max, case.cpu_cores].map(number));
            row
        });
        page.table(&["", "median", "min", "max", "cores"], rows);
    }
    page.heading("Ratios");
    let rows = report.ratios.iter().map(|(name, s)| {
        let mut row = vec![name.clone()];
        row.extend([s.median, s.min, s.max].map(|value| format!("{value:.3}")));
        row
    });
    page.table(&["", "median", "min", "max"], rows);
    page.finish()
}

/// Name, CSS class and points of a line.
type Line<'a> = (&'a str, &'a str, Vec<(f64, f64)>);

struct Page {
    out: String,
}

impl Page {
    fn new(title: &str, m: &Machine) -> Self {
        let title = escape(title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>"
        );
        let machine = escape(&format!(
            "{}, {} cores, Linux {}; commit {}, {}",
            m.cpu_model, m.cores, m.kernel, m.commit, m.profile
        ));
        let _ = write!(out, "<p class=\"muted\">{machine}</p>");
        Self { out }
    }

    fn finish(mut self) -> String {
        self.out.push_str("</main></body></html>\n");
        self.out
    }

    fn heading(&mut self, text: &str) {
        let _ = write!(self.out, "<h2>{}</h2>", escape(text));
    }

    fn cards(&mut self, cards: &[(&str, String)]) {
        self.out.push_str("<div class=\"cards\">");
        for (name, value) in cards {
            let _ = write!(
                self.out,
                "<div class=\"card\"><span class=\"muted\">{name}</span><b>{}</b></div>",
                escape(value)
            );
        }
        self.out.push_str("</div>");
    }

    fn notes(&mut self, notes: &[String]) {
        // Many warnings must not push the figures off the screen.
        let is_long = notes.len() > NOTES_SHOWN_MAX;
        if is_long {
            let count = notes.len();
            let _ = write!(self.out, "<details><summary>{count} warnings</summary>");
        }
        for note in notes {
            let _ = write!(self.out, "<p class=\"note\">{}</p>", escape(note));
        }
        if is_long {
            self.out.push_str("</details>");
        }
    }

    /// Distribution, time line and costs of one run.
    fn load(&mut self, report: &Report) {
        self.heading("Latency");
        let bars: Vec<(f64, f64)> = report
            .latency_histogram
            .iter()
            .map(|bucket| (bucket.up_to_ms, bucket.count as f64))
            .collect();
        self.histogram(&bars);
        let l = &report.latency_ms;
        let row = [l.p50, l.p90, l.p99, l.p999, l.p9999, l.max, l.mean];
        self.table(
            &["", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"],
            std::iter::once(
                std::iter::once("ms".to_owned())
                    .chain(row.map(|ms| format!("{ms:.1}")))
                    .collect(),
            ),
        );
        self.heading("Second by second");
        let line = |value: fn(&crate::load::Interval) -> f64| -> Vec<(f64, f64)> {
            report
                .intervals
                .iter()
                .map(|i| (i.end_s, value(i)))
                .collect()
        };
        let committed = [("committed a second", "c", line(|i| i.committed as f64))];
        self.lines("seconds", "transactions", &committed);
        let latency = [
            ("p50", "a", line(|i| i.p50_ms)),
            ("p99", "b", line(|i| i.p99_ms)),
        ];
        self.lines("seconds", "latency, ms", &latency);
        if let Some(c) = &report.costs {
            self.heading("What a transaction cost, all validators together");
            let optional = |ms: Option<f64>| ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
            let rows = [
                ("CPU, us", format!("{:.1}", c.cpu_us)),
                ("bytes sent", format!("{:.0}", c.wire_bytes)),
                ("bytes logged", format!("{:.0}", c.log_bytes)),
                ("fsyncs", format!("{:.4}", c.fsyncs)),
                ("signatures verified", format!("{:.2}", c.verifications)),
                ("consensus p50, ms", optional(c.consensus_p50_ms)),
                ("consensus p99, ms", optional(c.consensus_p99_ms)),
            ];
            let rows = rows.map(|(name, value)| (name.to_owned(), value));
            let threads = c.threads_us.iter();
            let threads =
                threads.map(|(name, us)| (format!("CPU of {name}, us"), format!("{us:.2}")));
            self.table(
                &["", ""],
                rows.into_iter()
                    .chain(threads)
                    .map(|(name, value)| vec![name, value]),
            );
        }
    }

    fn lines(&mut self, x_name: &str, y_name: &str, lines: &[Line<'_>]) {
        let all = || lines.iter().flat_map(|(_, _, points)| points);
        let x_max = all().map(|p| p.0).fold(0.0, f64::max);
        let y_max = all().map(|p| p.1).fold(0.0, f64::max);
        let (x, y) = (Scale::x(x_max), Scale::y(y_max));
        self.open_chart(&format!("{y_name} by {x_name}"), HEIGHT);
        self.axes(&x, &y, x_name, y_name);
        for (n, (name, class, points)) in lines.iter().enumerate() {
            let path: Vec<String> = points
                .iter()
                .map(|(px, py)| format!("{:.1},{:.1}", x.at(*px), y.at(*py)))
                .collect();
            let _ = write!(
                self.out,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                path.join(" ")
            );
            for (px, py) in points {
                let (cx, cy) = (x.at(*px), y.at(*py));
                let _ = write!(
                    self.out,
                    "<circle class=\"f{class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\">\
                     <title>{name}: {}, {}</title></circle>",
                    number(*px),
                    number(*py)
                );
            }
            let (lx, ly) = (LEFT + 12.0 + n as f64 * 90.0, TOP + 6.0);
            let _ = write!(
                self.out,
                "<line class=\"{class}\" x1=\"{lx}\" y1=\"{ly}\" x2=\"{}\" y2=\"{ly}\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                lx + 24.0,
                lx + 30.0,
                ly + 4.0,
                escape(name)
            );
        }
        self.out.push_str("</svg>");
    }

    /// Counts by logarithmic bounds: every bar is as wide as the others.
    fn histogram(&mut self, bars: &[(f64, f64)]) {
        let first = bars.iter().position(|(_, count)| *count > 0.0).unwrap_or(0);
        let bars = &bars[first.min(bars.len())..];
        if bars.is_empty() {
            return;
        }
        let y = Scale::y(bars.iter().map(|bar| bar.1).fold(0.0, f64::max));
        self.open_chart("transactions by latency", HEIGHT);
        let x = Scale {
            max: 0.0,
            step: 1.0,
            from: LEFT,
            to: WIDTH - RIGHT,
        };
        self.axes(&x, &y, "latency up to, ms", "transactions");
        let width = (WIDTH - LEFT - RIGHT) / bars.len() as f64;
        let every = bars.len().div_ceil(12);
        for (n, (bound, count)) in bars.iter().enumerate() {
            let (left, top) = (LEFT + n as f64 * width, y.at(*count));
            let _ = write!(
                self.out,
                "<rect class=\"fa\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" \
                 height=\"{:.1}\"><title>up to {bound:.2} ms: {count}</title></rect>",
                (width - 1.0).max(0.5),
                HEIGHT - BOTTOM - top
            );
            if n % every == 0 {
                let _ = write!(
                    self.out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    left + width,
                    HEIGHT - BOTTOM + 16.0,
                    number(*bound)
                );
            }
        }
        self.out.push_str("</svg>");
    }

    fn bars(&mut self, unit: &str, bars: &[(String, f64, &str)]) {
        const NAMES: f64 = 170.0;
        const NUMBERS: f64 = 90.0;
        let max = bars
            .iter()
            .map(|bar| bar.1)
            .fold(f64::MIN_POSITIVE, f64::max);
        self.open_chart(unit, BAR * bars.len() as f64);
        for (n, (name, value, class)) in bars.iter().enumerate() {
            let (top, width) = (BAR * n as f64, value / max * (WIDTH - NAMES - NUMBERS));
            let text = top + BAR * 0.7;
            let _ = write!(
                self.out,
                "<text x=\"{}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"{class}\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\"/><text x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
                NAMES - 8.0,
                escape(name),
                top + 3.0,
                BAR - 6.0,
                NAMES + width + 6.0,
                number(*value)
            );
        }
        self.out.push_str("</svg>");
    }

    fn open_chart(&mut self, label: &str, height: f64) {
        let _ = write!(
            self.out,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(label)
        );
    }

    fn axes(&mut self, x: &Scale, y: &Scale, x_name: &str, y_name: &str) {
        for value in y.ticks() {
            let at = y.at(value);
            let _ = write!(
                self.out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                number(value)
            );
        }
        if x.max > 0.0 {
            for value in x.ticks() {
                let _ = write!(
                    self.out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    x.at(value),
                    HEIGHT - BOTTOM + 16.0,
                    number(value)
                );
            }
        }
        let _ = write!(
            self.out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(12 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(x_name),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(y_name)
        );
    }

    fn table(&mut self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
        self.out
            .push_str("<div class=\"scroll\"><table><thead><tr>");
        for cell in head {
            let _ = write!(self.out, "<th>{}</th>", escape(cell));
        }
        self.out.push_str("</tr></thead><tbody>");
        for row in rows {
            self.out.push_str("<tr>");
            for cell in row {
                let _ = write!(self.out, "<td>{}</td>", escape(&cell));
            }
            self.out.push_str("</tr>");
        }
        self.out.push_str("</tbody></table></div>");
    }
}

/// A linear axis from zero.
struct Scale {
    max: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn x(max: f64) -> Self {
        Self::new(max, LEFT, WIDTH - RIGHT)
    }

    fn y(max: f64) -> Self {
        Self::new(max, HEIGHT - BOTTOM, TOP)
    }

    fn new(max: f64, from: f64, to: f64) -> Self {
        let max = if max > 0.0 && max.is_finite() {
            max
        } else {
            1.0
        };
        let rough = max / TICKS;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|n| n * unit)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let max = (max / step).ceil() * step;
        Self {
            max,
            step,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * value / self.max
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (count, step) = ((self.max / self.step).round() as u32, self.step);
        (0..=count).map(move |n| f64::from(n) * step)
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.0} k", value / 1e3),
        v if v >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        for max in [0.0, 0.3, 7.0, 98.0, 12_345.0] {
            let scale = Scale::x(max);
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!(ticks.len() >= 3 && ticks.len() <= 9, "{max}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= max);
            assert!((scale.at(scale.max) - (WIDTH - RIGHT)).abs() < 1e-9);
        }
    }

    #[test]
    fn nothing_from_outside_becomes_markup_and_nothing_is_loaded() {
        let machine = Machine {
            cpu_model: "<script>alert(1)</script>".into(),
            ..Machine::detect()
        };
        let mut page = Page::new("a & \"b\"", &machine);
        page.lines("x", "y", &[("p50", "a", vec![(1.0, 2.0), (2.0, 4.0)])]);
        page.histogram(&[(0.1, 0.0), (1.0, 5.0), (2.0, 9.0)]);
        page.bars("Gbit/s", &[("stoq".into(), 3.0, "fa")]);
        let html = page.finish();
        assert!(!html.contains("<script") && html.contains("&lt;script"));
        assert!(!html.contains("http") && !html.contains("url("));
        assert!(html.contains("a &amp; &quot;b&quot;"));
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
        assert_eq!(html.matches("<circle").count(), 2);
        assert!(!html.contains("NaN"));
    }
}
