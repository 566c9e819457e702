//! The snapshot that is being fetched, and which of its parts were asked of whom.

use falconet_ledger::snapshot::BUCKET_COUNT;
use falconet_types::snapshot::{CHUNK_BYTES_TARGET, Manifest};
use falconet_types::{Digest, Height, ValidatorIndex};

use crate::limits::REQUEST_BUCKETS_MAX;
use crate::ranges::Ranges;

/// What a peer was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub peer: ValidatorIndex,
    pub first: u16,
    pub last: u16,
    pub sent_us: u64,
}

/// The snapshot, and what is still missing.
#[derive(Debug)]
pub(crate) struct Target {
    pub height: Height,
    pub tree_root: Digest,
    /// Buckets in one request.
    pub width: u64,
    pub missing: Ranges,
    /// In the order in which they were sent. Two may be for the same buckets (rule Z5).
    pub requests: Vec<Request>,
    pub bytes: u64,
    pub complete: bool,
    /// Since when peers of less than weight F1 offer it, and others another one.
    pub doubted_since_us: Option<u64>,
}

impl Target {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let width = BUCKET_COUNT as u64 * CHUNK_BYTES_TARGET as u64 / manifest.rows_bytes.max(1);
        // An application without accounts has no rows to fetch.
        let missing = if manifest.tree_root == Digest::ZERO {
            Ranges::default()
        } else {
            Ranges::all()
        };
        Self {
            height: manifest.height(),
            tree_root: manifest.tree_root,
            width: width.clamp(1, REQUEST_BUCKETS_MAX),
            missing,
            requests: Vec::new(),
            bytes: 0,
            complete: false,
            doubted_since_us: None,
        }
    }

    /// A whole answer to a request had so many bytes. How many buckets make a part was computed from
    /// a length that nobody proves: whoever overstates it would have each bucket asked for by itself.
    pub(crate) fn adapt_width(&mut self, rows: usize) {
        if rows < CHUNK_BYTES_TARGET / 2 {
            self.width = (self.width * 2).min(REQUEST_BUCKETS_MAX);
        }
    }

    /// One request of each part that is asked for.
    pub(crate) fn asked_once(&self) -> impl Iterator<Item = &Request> {
        let requests = self.requests.iter().enumerate();
        let once = requests.filter(|(i, r)| self.requests[..*i].iter().all(|b| b.first != r.first));
        once.map(|(_, request)| request)
    }

    /// Takes back requests; what nobody else is asked for is missing again.
    pub(crate) fn drop_requests(&mut self, keep: impl Fn(&Request) -> bool) {
        let (kept, dropped) = self.requests.iter().partition::<Vec<_>, _>(|r| keep(r));
        self.requests = kept;
        for request in dropped {
            if self.requests.iter().all(|r| r.first != request.first) {
                self.missing.give_back(request.first, request.last);
            }
        }
    }
}
