//! A small blocking client of a validator's HTTP API.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

/// Where a validator listens unless its configuration says otherwise.
pub const URL_DEFAULT: &str = "http://[::1]:26700";
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read, bytes. A proof at 256 validators has about 1 MB.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The option that names the validator to talk to.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// HTTP address of a validator
    #[arg(long = "http", value_name = "URL", env = "FALCONET_HTTP", default_value = URL_DEFAULT)]
    url: String,
}

impl NodeArgs {
    /// A client of that validator. Nothing is sent yet.
    pub fn connect(&self) -> anyhow::Result<Node> {
        Node::new(&self.url)
    }
}

/// A validator's HTTP API.
pub struct Node {
    base: String,
    agent: ureq::Agent,
}

impl Node {
    /// A client of the validator at `url`, such as `http://[::1]:26700`.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            bail!("{url:?} is not an address this command can use; write http://[address]:port");
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .user_agent(concat!("falconet/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { base, agent })
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    /// `POST path` with raw bytes.
    pub fn post(&self, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.base));
        self.answer(request.content_type("application/octet-stream").send(body))
    }

    /// `PUT path` with a JSON body.
    pub fn put(&self, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let request = self.agent.put(format!("{}{path}", self.base));
        self.answer(request.content_type("application/json").send(body))
    }

    fn answer(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let mut answer = answer.map_err(|error| {
            let why = match error {
                ureq::Error::Io(error) => error.to_string(),
                other => other.to_string(),
            };
            anyhow!(
                "cannot reach the validator at {}: {why}; start it, or name another with --http",
                self.base
            )
        })?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .with_context(|| format!("{} broke off its answer; try again", self.base))?;
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if !status.is_success() && value.as_ref().is_none_or(|value| !value["error"].is_null()) {
            let said = |field: &str| value.as_ref()?.get("error")?.get(field)?.as_str();
            let (Some(code), Some(message)) = (said("code"), said("message")) else {
                bail!(
                    "{} answered {status}; is it a Falconet validator?",
                    self.base
                );
            };
            return Err(Refused {
                code: code.into(),
                message: message.into(),
            }
            .into());
        }
        // A submission that is refused has a status of its own and an ordinary answer.
        value.with_context(|| {
            format!(
                "{} did not answer with JSON; is it a Falconet validator?",
                self.base
            )
        })
    }
}

/// The validator answered with an error of its own.
#[derive(Debug)]
pub struct Refused {
    /// The error's code, for programs.
    pub code: String,
    /// What it says to people.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Refused {}

/// A text field of an answer; a dash when it is absent or null.
pub fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}
