//! The validators that are watched, and what each said last.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use falconet_validator::http::LiveAnswer;
use serde_json::{Value, json};

use crate::http;
use crate::output;

/// Answers that wait to be shown, for each validator.
const ANSWERS_WAITING: usize = 4;

/// What one validator said.
pub struct Said {
    /// The figures.
    pub live: LiveAnswer,
    /// The same as it came, for figures that not every version has.
    pub raw: Value,
}

impl Said {
    /// What a script can have made of an answer.
    pub fn read(raw: Value) -> anyhow::Result<Self> {
        let live = serde_json::from_value(raw.clone())
            .context("the validator is of another version; use its own falconet")?;
        Ok(Self { live, raw })
    }

    /// The validator's clock when it spoke, milliseconds since 1970; zero before its first sample.
    pub fn now_ms(&self) -> f64 {
        self.live.samples.last().map_or(0.0, |s| s.time_ms as f64)
    }
}

/// One validator.
pub struct Node {
    /// Its address.
    pub url: String,
    /// Its last answer.
    pub said: Option<Said>,
    /// The answer before, for rates.
    pub before: Option<Said>,
    /// Why it does not answer now.
    pub error: Option<String>,
}

impl Node {
    /// Nothing is known yet.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            said: None,
            before: None,
            error: None,
        }
    }

    /// Takes an answer, or its absence.
    pub fn take(&mut self, answer: anyhow::Result<Said>) {
        match answer {
            Ok(said) => {
                self.error = None;
                // Asked twice within one interval of the validator's sampler, it says the same.
                let again = |old: &Said| old.live.uptime_s == said.live.uptime_s;
                if !self.said.as_ref().is_some_and(again) {
                    self.before = self.said.replace(said);
                }
            }
            Err(error) => self.error = Some(output::one_line(&error)),
        }
    }

    /// The figures, while the validator answers.
    pub fn live(&self) -> Option<&LiveAnswer> {
        let said = self.said.as_ref().filter(|_| self.error.is_none());
        said.map(|said| &said.live)
    }

    /// Shares of a stage's time that were busy and back-pressured, since the answer before; since
    /// the start of the process when there is none.
    pub fn shares(&self, stage: usize) -> Option<(f64, f64)> {
        let now = self.live()?.stages.get(stage)?;
        let before = self
            .before
            .as_ref()
            .and_then(|said| said.live.stages.get(stage));
        let times = |s: &falconet_validator::metrics::stages::StageStatus| {
            [s.busy_s, s.back_pressured_s, s.waiting_s]
        };
        let mut spent = times(now);
        if let Some(before) = before {
            for (time, old) in spent.iter_mut().zip(times(before)) {
                // A restarted validator begins at zero again.
                *time = (*time - old).max(0.0);
            }
        }
        let sum: f64 = spent.iter().sum();
        (sum > 0.0).then(|| (spent[0] / sum, spent[1] / sum))
    }
}

/// All of them.
pub struct Nodes {
    list: Vec<Node>,
    answers: Option<Receiver<(usize, anyhow::Result<Said>)>>,
}

impl Nodes {
    /// Asks all of them once, at the same time.
    pub fn ask_once(urls: &[String]) -> anyhow::Result<Self> {
        let clients = clients(urls)?;
        let mut list: Vec<Node> = urls.iter().map(|url| Node::new(url)).collect();
        thread::scope(|scope| {
            let asking: Vec<_> = clients
                .iter()
                .map(|client| scope.spawn(|| ask(client)))
                .collect();
            for (node, answer) in list.iter_mut().zip(asking) {
                node.take(answer.join().expect("asking does not panic"));
            }
        });
        Ok(Self {
            list,
            answers: None,
        })
    }

    /// Asks all of them again and again. The threads end with the process.
    pub fn watch(urls: &[String], interval: Duration) -> anyhow::Result<Self> {
        let (sender, answers) = sync_channel(ANSWERS_WAITING * urls.len());
        for (i, client) in clients(urls)?.into_iter().enumerate() {
            let sender = sender.clone();
            thread::Builder::new()
                .name(format!("ask-{i}"))
                .spawn(move || ask_on(i, &client, interval, &sender))
                .context("cannot start a thread")?;
        }
        Ok(Self {
            list: urls.iter().map(|url| Node::new(url)).collect(),
            answers: Some(answers),
        })
    }

    /// Nodes that are made elsewhere.
    #[cfg(test)]
    pub fn of(list: Vec<Node>) -> Self {
        Self {
            list,
            answers: None,
        }
    }

    /// Takes what has arrived.
    pub fn take_answers(&mut self) {
        let Some(answers) = &self.answers else {
            return;
        };
        while let Ok((i, answer)) = answers.try_recv() {
            self.list[i].take(answer);
        }
    }

    /// All, in the order of the arguments.
    pub fn all(&self) -> &[Node] {
        &self.list
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many answer.
    pub fn up(&self) -> usize {
        self.list
            .iter()
            .filter(|node| node.live().is_some())
            .count()
    }

    /// Why the first that does not answer does not.
    pub fn first_error(&self) -> Option<String> {
        self.list.iter().find_map(|node| node.error.clone())
    }

    /// Everything for a script: the answers as they came.
    pub fn json(&self) -> Value {
        let node = |node: &Node| match (&node.said, &node.error) {
            (Some(said), None) => json!({ "url": node.url, "live": said.raw }),
            (_, error) => json!({ "url": node.url, "error": error }),
        };
        json!({ "validators": self.list.iter().map(node).collect::<Vec<_>>() })
    }
}

fn clients(urls: &[String]) -> anyhow::Result<Vec<http::Node>> {
    urls.iter().map(|url| http::Node::new(url)).collect()
}

fn ask(client: &http::Node) -> anyhow::Result<Said> {
    Said::read(client.get("/v1/live")?)
}

fn ask_on(
    i: usize,
    client: &http::Node,
    interval: Duration,
    answers: &SyncSender<(usize, anyhow::Result<Said>)>,
) {
    loop {
        match answers.try_send((i, ask(client))) {
            // The screen is slow: it sees the next answer.
            Ok(()) | Err(TrySendError::Full(_)) => thread::sleep(interval),
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
}
