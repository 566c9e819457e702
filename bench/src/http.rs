//! The few questions that a benchmark asks a validator's HTTP API.

use std::net::SocketAddrV6;
use std::time::Duration;

use falconet_types::AccountId;
use falconet_types::transaction::NONCE_WINDOW;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::accounts::LoadAccounts;
use crate::costs::Counts;
use crate::supply::presigned::FIRST_NONCE;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why a validator's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No answer.
    #[error("no answer from {url}: {reason}; check that the validator runs, and its log")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// An answer of another form.
    #[error("{url} answered something else than expected: {reason}; use programs of one version")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The part of `GET /v1/status` that is used here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeStatus {
    /// Current round.
    pub round: u64,
    /// Height of the last committed block.
    pub height: u64,
    /// Height of the last executed block.
    pub executed_height: u64,
    /// State commitment after it, hexadecimal.
    pub state_commitment: String,
    /// Transactions that took effect since the process started.
    pub transactions_committed: u64,
    /// Whether the validator signs.
    pub signing: bool,
    /// Whether everything is on disk before it counts.
    pub fsync: bool,
}

/// The part of `GET /v1/blocks/{height}` that is used here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeBlock {
    /// Block id, hexadecimal.
    pub id: String,
    /// State commitment after the block, where the validator still knows it, hexadecimal.
    pub state_commitment: Option<String>,
}

#[derive(Deserialize)]
struct NodeAccount {
    nonce_highest: Option<u64>,
}

/// A validator's HTTP API.
#[derive(Debug, Clone)]
pub struct Node {
    base: String,
    agent: ureq::Agent,
}

impl Node {
    /// The API at an address. Nothing is sent yet.
    #[must_use]
    pub fn new(addr: SocketAddrV6) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .build()
            .into();
        Self {
            base: format!("http://{addr}"),
            agent,
        }
    }

    /// `GET /v1/status`
    pub fn status(&self) -> Result<NodeStatus, HttpError> {
        self.get("/v1/status")
    }

    /// `GET /v1/blocks/{height}`
    pub fn block(&self, height: u64) -> Result<NodeBlock, HttpError> {
        self.get(&format!("/v1/blocks/{height}"))
    }

    /// The highest nonce that an account used.
    pub fn nonce_highest(&self, id: &AccountId) -> Result<Option<u64>, HttpError> {
        let account: NodeAccount = self.get(&format!("/v1/accounts/{id}"))?;
        Ok(account.nonce_highest)
    }

    /// `GET /metrics`
    pub fn metrics(&self) -> Result<Counts, HttpError> {
        let (_, body) = self.read("/metrics")?;
        Ok(Counts::parse(&String::from_utf8_lossy(&body)))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let (url, body) = self.read(path)?;
        serde_json::from_slice(&body).map_err(|error| HttpError::Unexpected {
            url,
            reason: error.to_string(),
        })
    }

    /// The address asked and the body of a successful answer.
    fn read(&self, path: &str) -> Result<(String, Vec<u8>), HttpError> {
        let url = format!("{}{path}", self.base);
        let unreachable = |error: ureq::Error| HttpError::Unreachable {
            url: url.clone(),
            reason: error.to_string(),
        };
        let mut answer = self.agent.get(&url).call().map_err(unreachable)?;
        let status = answer.status();
        let body = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(unreachable)?;
        if !status.is_success() {
            let reason = format!("{status} {}", String::from_utf8_lossy(&body));
            return Err(HttpError::Unexpected { url, reason });
        }
        Ok((url, body))
    }
}

/// A first nonce above everything that the accounts used or may still have on its way through a
/// lane, on a chain that has run before.
///
/// Transactions that were ordered and not executed yet are not in the state that is asked. Their
/// nonces lie above what is seen; so a whole window is left out.
pub fn next_nonce(node: &Node, accounts: &LoadAccounts) -> Result<u64, HttpError> {
    let mut highest = None;
    for index in 0..accounts.len() {
        highest = highest.max(node.nonce_highest(&accounts.id(index))?);
    }
    Ok(highest.map_or(FIRST_NONCE, |nonce| nonce.saturating_add(1 + NONCE_WINDOW)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request after the other with these bodies, in turn.
    fn serve(answers: Vec<(&'static str, String)>) -> SocketAddrV6 {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let std::net::SocketAddr::V6(addr) = listener.local_addr().unwrap() else {
            unreachable!("bound to IPv6")
        };
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).unwrap();
                let len = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n{body}"
                )
                .unwrap();
            }
        });
        addr
    }

    #[test]
    fn a_status_with_more_fields_than_we_know_is_read() {
        let body = r#"{"round":7,"height":5,"executed_height":4,"state_commitment":"ab",
            "transactions_committed":9,"signing":true,"fsync":true,"new":{"x":1}}"#;
        let node = Node::new(serve(vec![("200 OK", body.into())]));
        let status = node.status().unwrap();
        assert_eq!(
            (status.round, status.executed_height, status.fsync),
            (7, 4, true)
        );
    }

    #[test]
    fn errors_name_the_address_and_the_answer() {
        let answers = vec![
            (
                "404 Not Found",
                r#"{"error":{"code":"unknown_block","message":"no"}}"#.to_owned(),
            ),
            ("200 OK", "hello".to_owned()),
        ];
        let node = Node::new(serve(answers));
        let error = node.block(3).unwrap_err().to_string();
        assert!(
            error.contains("/v1/blocks/3") && error.contains("unknown_block"),
            "{error}"
        );
        assert!(matches!(node.status(), Err(HttpError::Unexpected { .. })));
        let nobody = Node::new("[::1]:1".parse().unwrap());
        assert!(matches!(
            nobody.status(),
            Err(HttpError::Unreachable { .. })
        ));
    }

    #[test]
    fn the_next_nonce_leaves_room_for_what_is_on_its_way() {
        let account = |nonce: &str| ("200 OK", format!(r#"{{"nonce_highest":{nonce}}}"#));
        let scheme = falconet_crypto::falcon::Scheme::Falcon512;
        let accounts =
            LoadAccounts::generate(scheme, 2, &[1; 32], None, &crate::progress::silent).unwrap();
        let fresh = Node::new(serve(vec![account("null"), account("null")]));
        assert_eq!(next_nonce(&fresh, &accounts).unwrap(), FIRST_NONCE);
        let used = Node::new(serve(vec![account("12"), account("null")]));
        assert_eq!(next_nonce(&used, &accounts).unwrap(), 13 + NONCE_WINDOW);
    }
}
