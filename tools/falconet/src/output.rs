//! What people and scripts read: one-line errors, aligned fields, JSON, progress, durations.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use falconet_types::genesis::Params;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// Milliseconds between two frames of a spinner.
const TICK_MS: u64 = 120;

/// Writes to standard output. Unlike `println!` a closed pipe is an error and not a panic.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Writes names and values in two columns.
pub fn fields(rows: &[(&str, String)]) -> anyhow::Result<()> {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        line(format_args!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// Writes a JSON value over several lines.
pub fn json(value: &Value) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// The error and its causes in one line. Many errors quote their cause themselves; a cause that
/// was already said is not said again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = flat(&cause.to_string());
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// Joins the lines of a text. Parsers draw the source with a gutter of line numbers and bars below
/// their message: of that the quoted line stays, what is around it goes.
fn flat(text: &str) -> String {
    let lines = text.lines().filter_map(|line| match line.split_once('|') {
        Some((gutter, _)) if gutter.trim().is_empty() => None,
        Some((gutter, source)) if gutter.trim().bytes().all(|b| b.is_ascii_digit()) => {
            Some(format!("`{}`", source.trim()))
        }
        _ => Some(line.trim().to_owned()),
    });
    lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(": ")
}

/// True when the error is that the reader of our output went away.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A spinner on standard error; invisible when that is no terminal.
pub fn spinner(message: impl Into<String>) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("valid template");
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(message.into());
    bar.enable_steady_tick(Duration::from_millis(TICK_MS));
    bar
}

/// A latency that may not be known yet.
pub fn millis(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1}"))
}

/// Reads `500ms`, `30s`, `5m` or `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number and a unit, such as 500ms, 30s, 5m or 2h".into()),
    };
    let millis = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit_ms));
    match millis {
        Some(0) | None => Err("the duration is zero, not a number, or too long".into()),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// Genesis parameters: the defaults with each `NAME=VALUE` applied.
pub fn params(assignments: &[String]) -> anyhow::Result<Params> {
    let apply = |params: Params, assignment: &String| params.with(assignment);
    Ok(assignments.iter().try_fold(Params::default(), apply)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in [
            "",
            "30",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "30 s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn of_a_drawing_of_the_source_the_line_stays() {
        let text = "file: TOML parse error at line 8, column 1\n  |\n8 | levle = 1\n  | ^^^^^\n\
                    unknown field `levle`\n";
        let expected =
            "file: TOML parse error at line 8, column 1: `levle = 1`: unknown field `levle`";
        assert_eq!(flat(text), expected);
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = io::Error::other("the disk is full");
        let error = Err::<(), _>(cause).context("cannot write x: the disk is full; free some");
        let text = one_line(&error.unwrap_err());
        assert_eq!(text, "cannot write x: the disk is full; free some");
        let error = Err::<(), _>(io::Error::other("why"))
            .context("what")
            .unwrap_err();
        assert_eq!(one_line(&error), "what: why");
    }
}
