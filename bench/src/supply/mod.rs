//! Where the transactions of a load come from: a thread of its own makes them ahead of time, the
//! generator takes them without ever waiting.
//!
//! * [`presigned`]: signed transfers, read from disk while there are files, signed ahead beyond;
//! * [`opaque`]: payloads of random-looking bytes, for chains that execute nothing.

pub mod opaque;
pub mod presigned;
mod segment;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use falconet_types::TxId;

/// Segments that are made ahead, beside the one in use. Bounds the memory of a supply.
const SEGMENTS_AHEAD: usize = 2;
/// Niceness of the threads that sign while a load runs: validators on the same cores go first.
const SIGNER_NICENESS: i32 = 10;

/// One transaction, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupplyTx {
    /// Its id.
    pub id: TxId,
    /// All its bytes.
    pub bytes: Bytes,
    /// The validator that its sender normally uses: the index of a target.
    pub home: usize,
}

/// A stream of transactions without end.
pub trait Supply: Send {
    /// The next transaction, or nothing when making them does not keep pace right now. Never
    /// waits.
    fn next(&mut self) -> Option<SupplyTx>;
}

impl Supply for Box<dyn Supply> {
    fn next(&mut self) -> Option<SupplyTx> {
        self.as_mut().next()
    }
}

/// Some transactions that share one buffer.
pub(crate) trait Chunk: Send + 'static {
    fn len(&self) -> usize;
    fn get(&self, index: usize) -> SupplyTx;
}

/// A supply that a thread fills. The thread ends when the supply is dropped.
pub(crate) struct Ahead<C> {
    chunks: Receiver<C>,
    current: Option<C>,
    at: usize,
}

impl<C: Chunk> Ahead<C> {
    /// Starts the thread. `make` is called again and again; when it returns nothing the supply
    /// has ended.
    pub(crate) fn start(
        name: &str,
        mut make: impl FnMut() -> Option<C> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, chunks): (Sender<C>, Receiver<C>) = crossbeam_channel::bounded(SEGMENTS_AHEAD);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(chunk) = make() {
                    if sender.send(chunk).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            chunks,
            current: None,
            at: 0,
        })
    }

    /// Waits for the first chunk, so that a run does not begin with an empty supply.
    pub(crate) fn warm(mut self) -> Self {
        self.current = self.chunks.recv().ok();
        self
    }
}

impl<C: Chunk> Supply for Ahead<C> {
    fn next(&mut self) -> Option<SupplyTx> {
        loop {
            if let Some(chunk) = &self.current {
                if self.at < chunk.len() {
                    self.at += 1;
                    return Some(chunk.get(self.at - 1));
                }
                self.current = None;
            }
            self.at = 0;
            match self.chunks.try_recv() {
                Ok(chunk) => self.current = Some(chunk),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            }
        }
    }
}

/// Lowers the priority of this thread. Failing is harmless: then it competes like any other.
fn be_nice() {
    let thread = rustix::thread::gettid();
    let _ = rustix::process::setpriority_process(Some(thread), SIGNER_NICENESS);
}
