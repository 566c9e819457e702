//! Connections to any number of validators over one local socket and one network thread. Nothing
//! here blocks except [`Hub::poll`]; load generators use it directly, [`crate::Client`] wraps it.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use falconet_dataplane::{
    Channel, CloseCode, CloseReason, ConnId, Event, PeerTarget, SendError, Stoq, StoqConfig,
    TargetId,
};
use falconet_types::message::{Admission, ClientMessage};
use falconet_types::receipt::Receipt;
use falconet_types::{ChainId, Epoch, PublicKey, TxId};

use crate::{ClientError, frames};

/// A silent validator is given up after this long, so that a client can turn to another one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// Interval of keep-alive packets: several are lost before the time-out strikes.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Names a validator within a hub: 0 for the first that was dialled, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(pub usize);

/// What a hub reports of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The connection stands; submissions are possible.
    Connected,
    /// What came of a submission at the door, one entry a transaction, in its order.
    Results {
        /// The submission's tag.
        tag: u64,
        /// In the order of the submission.
        results: Vec<Admission>,
    },
    /// Transactions that were executed.
    Receipts(Vec<Receipt>),
    /// The answer to a request for a proof.
    Proof {
        /// The transaction.
        tx_id: TxId,
        /// The proof's bytes; empty when the validator has none.
        proof: Bytes,
    },
    /// The answer to a request for an epoch's proof.
    EpochProof {
        /// The epoch.
        epoch: Epoch,
        /// The proof's bytes; empty while the epoch goes on, as far as the validator knows.
        proof: Bytes,
    },
    /// The connection ended, or an attempt at one failed. Submissions without a receipt may have
    /// been accepted or not; submitting the same bytes again is safe. The hub dials again.
    Disconnected {
        /// What the transport says.
        reason: CloseReason,
        /// Whether the connection stood before, so that submissions may be lost.
        was_connected: bool,
    },
}

/// Connections to validators.
pub struct Hub {
    stoq: Stoq,
    events: Receiver<Event>,
    links: Vec<LinkState>,
    by_target: HashMap<TargetId, Link>,
    by_conn: HashMap<ConnId, Link>,
}

struct LinkState {
    addr: SocketAddrV6,
    target: TargetId,
    conn: Option<ConnId>,
}

impl Hub {
    /// Opens a local socket. Validators of other chains will refuse the greeting.
    pub fn open(chain_id: ChainId) -> Result<Self, ClientError> {
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        let mut config = StoqConfig::new(any, chain_id);
        config.limits.idle_timeout_client = IDLE_TIMEOUT;
        config.limits.keep_alive_client = KEEP_ALIVE;
        let (stoq, events) = Stoq::bind(config)?;
        Ok(Self {
            stoq,
            events,
            links: Vec::new(),
            by_target: HashMap::new(),
            by_conn: HashMap::new(),
        })
    }

    /// Begins to connect to a validator that proves `key`, and keeps connecting whenever the
    /// connection ends. [`ClientEvent::Connected`] follows.
    pub fn dial(&mut self, addr: SocketAddrV6, key: &PublicKey) -> Result<Link, ClientError> {
        let target = PeerTarget {
            addr,
            key: key.clone(),
            persistent: true,
        };
        let id = self.stoq.handle().connect(target)?;
        let link = Link(self.links.len());
        self.links.push(LinkState {
            addr,
            target: id,
            conn: None,
        });
        self.by_target.insert(id, link);
        Ok(link)
    }

    /// Ends the connection and dials no more. [`ClientEvent::Disconnected`] follows if it stood.
    pub fn hang_up(&mut self, link: Link) {
        let target = self.links[link.0].target;
        self.by_target.remove(&target);
        // An error means that the network thread has stopped.
        let _ = self.stoq.handle().disconnect(target);
    }

    /// Number of validators that were dialled.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Where the validator is.
    #[must_use]
    pub fn addr(&self, link: Link) -> SocketAddrV6 {
        self.links[link.0].addr
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self, link: Link) -> bool {
        self.links[link.0].conn.is_some()
    }

    /// Submits transactions in one frame. `tag` comes back with the results; it should differ
    /// from those of other submissions without results on this connection.
    pub fn submit(&self, link: Link, tag: u64, txs: &[Bytes]) -> Result<(), ClientError> {
        frames::check(txs)?;
        self.send(
            link,
            &ClientMessage::Submit {
                tag,
                txs: txs.to_vec(),
            },
        )
    }

    /// Asks for the proof of an executed transaction.
    pub fn request_proof(&self, link: Link, tx_id: TxId) -> Result<(), ClientError> {
        self.send(link, &ClientMessage::GetProof(tx_id))
    }

    /// Asks for the proof that an epoch is over.
    pub fn request_epoch_proof(&self, link: Link, epoch: Epoch) -> Result<(), ClientError> {
        self.send(link, &ClientMessage::GetEpochProof(epoch))
    }

    /// The next event. Waits until `deadline` for one; without a deadline it only looks.
    pub fn poll(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<(Link, ClientEvent)>, ClientError> {
        loop {
            let event = match deadline {
                None => self.events.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => None,
                    TryRecvError::Disconnected => Some(ClientError::Stopped),
                }),
                Some(deadline) => {
                    self.events
                        .recv_deadline(deadline)
                        .map_err(|error| match error {
                            RecvTimeoutError::Timeout => None,
                            RecvTimeoutError::Disconnected => Some(ClientError::Stopped),
                        })
                }
            };
            match event {
                Ok(event) => {
                    if let Some(event) = self.translate(event) {
                        return Ok(Some(event));
                    }
                }
                Err(None) => return Ok(None),
                Err(Some(error)) => return Err(error),
            }
        }
    }

    fn send(&self, link: Link, message: &ClientMessage) -> Result<(), ClientError> {
        let conn = self.links[link.0].conn.ok_or(ClientError::NotConnected)?;
        let payload = message.payload();
        self.stoq
            .handle()
            .send(conn, Channel::Client, message.kind(), payload)
            .map_err(|error| {
                match error {
                    SendError::Full => ClientError::Overrun,
                    SendError::TooLong { len, .. } => ClientError::FrameTooLarge {
                        count: 1,
                        bytes: len,
                    },
                    // Its end is in the event queue.
                    _ => ClientError::NotConnected,
                }
            })
    }

    fn translate(&mut self, event: Event) -> Option<(Link, ClientEvent)> {
        match event {
            Event::Connected { conn, target, .. } => {
                let link = *self.by_target.get(&target?)?;
                if let Some(old) = self.links[link.0].conn.replace(conn) {
                    self.by_conn.remove(&old);
                }
                self.by_conn.insert(conn, link);
                Some((link, ClientEvent::Connected))
            }
            Event::Frame {
                conn,
                kind,
                payload,
                ..
            } => {
                let link = *self.by_conn.get(&conn)?;
                match ClientMessage::parse(kind, &payload) {
                    Ok(ClientMessage::Results { tag, results }) => {
                        Some((link, ClientEvent::Results { tag, results }))
                    }
                    Ok(ClientMessage::Receipts(receipts)) => {
                        Some((link, ClientEvent::Receipts(receipts)))
                    }
                    Ok(ClientMessage::Proof { tx_id, proof }) => {
                        Some((link, ClientEvent::Proof { tx_id, proof }))
                    }
                    Ok(ClientMessage::EpochProof { epoch, proof }) => {
                        Some((link, ClientEvent::EpochProof { epoch, proof }))
                    }
                    Ok(
                        ClientMessage::Submit { .. }
                        | ClientMessage::GetProof(_)
                        | ClientMessage::GetEpochProof(_),
                    ) => {
                        self.refuse(conn, "a client's message came from a validator".into());
                        None
                    }
                    Err(error) => {
                        self.refuse(conn, error.to_string());
                        None
                    }
                }
            }
            Event::Closed { conn, reason, .. } => {
                let link = self.by_conn.remove(&conn)?;
                self.links[link.0].conn = None;
                Some((
                    link,
                    ClientEvent::Disconnected {
                        reason,
                        was_connected: true,
                    },
                ))
            }
            Event::DialFailed { target, reason, .. } => {
                let link = *self.by_target.get(&target)?;
                Some((
                    link,
                    ClientEvent::Disconnected {
                        reason,
                        was_connected: false,
                    },
                ))
            }
            _ => None,
        }
    }

    /// Ends a connection whose validator does not keep to the protocol. Its `Closed` follows.
    fn refuse(&self, conn: ConnId, reason: String) {
        tracing::warn!(%conn, reason, "a validator broke the protocol");
        // Failing means that the connection has ended already.
        let _ = self.stoq.handle().close(conn, CloseCode::BadFrame, reason);
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up = self.links.iter().filter(|link| link.conn.is_some()).count();
        write!(f, "Hub({up} of {} connected)", self.links.len())
    }
}

/// A point in time from which nobody wakes: for callers who do not want to give up.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    /// Longest wait in one go.
    const WAIT_MAX: Duration = Duration::from_secs(365 * 86_400);
    Instant::now() + timeout.min(WAIT_MAX)
}
