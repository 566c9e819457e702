//! How many transactions fit one frame.

use bytes::Bytes;
use falconet_types::message::SUBMIT_TXS_MAX;

use crate::ClientError;

/// Longest payload of a frame on the client channel, bytes: the limit that validators set
/// (`Limits::client_frame_bytes_max` of the data plane).
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Bytes of a submission before its transactions: tag and count.
const SUBMISSION_HEAD_LEN: usize = 8 + 2;
/// Bytes before each transaction: its length.
const TX_PREFIX_LEN: usize = 2;

/// Splits transactions into pieces that each fit one submission frame, in order. A transaction
/// that is too long for any frame stands alone in its piece, and submitting it fails.
pub fn frames(txs: &[Bytes]) -> impl Iterator<Item = &[Bytes]> {
    let mut rest = txs;
    std::iter::from_fn(move || {
        let mut filling = Filling::default();
        let count = rest.iter().take_while(|tx| filling.add(tx.len())).count();
        // At least one, so that the iteration ends.
        let (frame, tail) = rest.split_at(count.max(1).min(rest.len()));
        rest = tail;
        (!frame.is_empty()).then_some(frame)
    })
}

/// How full a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    txs: usize,
    bytes: usize,
}

impl Default for Filling {
    fn default() -> Self {
        Self {
            txs: 0,
            bytes: SUBMISSION_HEAD_LEN,
        }
    }
}

impl Filling {
    /// Adds a transaction of `len` bytes if it still fits, and says whether it did.
    pub fn add(&mut self, len: usize) -> bool {
        let bytes = self.bytes.saturating_add(TX_PREFIX_LEN).saturating_add(len);
        let fits = self.txs < SUBMIT_TXS_MAX && bytes <= FRAME_BYTES_MAX;
        if fits {
            *self = Self {
                txs: self.txs + 1,
                bytes,
            };
        }
        fits
    }
}

/// Refuses what no frame can carry.
pub(crate) fn check(txs: &[Bytes]) -> Result<(), ClientError> {
    if txs.is_empty() {
        return Err(ClientError::Empty);
    }
    let mut filling = Filling::default();
    let length_fits = |tx: &Bytes| u16::try_from(tx.len()).is_ok();
    if txs
        .iter()
        .all(|tx| length_fits(tx) && filling.add(tx.len()))
    {
        return Ok(());
    }
    let payload: usize = txs.iter().map(|tx| TX_PREFIX_LEN + tx.len()).sum();
    Err(ClientError::FrameTooLarge {
        count: txs.len(),
        bytes: SUBMISSION_HEAD_LEN + payload,
    })
}

#[cfg(test)]
mod tests {
    use falconet_types::message::ClientMessage;

    use super::*;

    fn txs(count: usize, len: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; len]); count]
    }

    #[test]
    fn the_limit_is_the_data_planes() {
        let limits = falconet_dataplane::Limits::default();
        assert_eq!(limits.client_frame_bytes_max as usize, FRAME_BYTES_MAX);
    }

    #[test]
    fn frames_hold_everything_in_order_and_fit() {
        for (count, len) in [
            (0, 1),
            (1, 1412),
            (185, 1412),
            (400, 1412),
            (3000, 5),
            (2, 65_535),
        ] {
            let txs = txs(count, len);
            let pieces: Vec<&[Bytes]> = frames(&txs).collect();
            assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), count);
            for piece in pieces {
                check(piece).unwrap();
                let frame = ClientMessage::Submit {
                    tag: 0,
                    txs: piece.to_vec(),
                };
                assert!(frame.payload().len() <= FRAME_BYTES_MAX);
            }
        }
        assert_eq!(frames(&txs(1024, 5)).count(), 1);
        assert_eq!(frames(&txs(1025, 5)).count(), 2);
    }

    #[test]
    fn what_fits_no_frame_is_refused() {
        assert!(matches!(check(&[]), Err(ClientError::Empty)));
        assert!(matches!(
            check(&txs(1, 65_536)),
            Err(ClientError::FrameTooLarge { .. })
        ));
        assert!(matches!(
            check(&txs(1025, 1)),
            Err(ClientError::FrameTooLarge { .. })
        ));
        assert!(matches!(
            check(&txs(5, 60_000)),
            Err(ClientError::FrameTooLarge { .. })
        ));
        let huge = txs(2, FRAME_BYTES_MAX);
        assert_eq!(frames(&huge).count(), 2, "the iteration ends");
    }
}
