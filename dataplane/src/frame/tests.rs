use proptest::prelude::*;

use super::*;

const MAX: u32 = 4096;

fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (kind, payload) in frames {
        wire.extend_from_slice(&header(*kind, payload.len() as u32));
        wire.extend_from_slice(payload);
    }
    wire
}

fn decode_all(decoder: &mut FrameDecoder, chunk: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let (mut chunk, mut copies) = (Bytes::copy_from_slice(chunk), SmallCopies::default());
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame(&mut chunk, &mut copies)? {
        frames.push(frame);
    }
    assert!(chunk.is_empty(), "the decoder left bytes behind");
    Ok(frames)
}

fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let payload = prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..64),
        1 => proptest::collection::vec(any::<u8>(), 0..=MAX as usize),
    ];
    proptest::collection::vec((any::<u8>(), payload), 0..8)
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        frames in frames(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        copy_below in 0usize..300,
        in_pieces: bool,
    ) {
        let wire = encode(&frames);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        at.extend([0, wire.len()]);
        at.sort_unstable();
        let mut decoder = FrameDecoder::new(MAX, copy_below);
        if in_pieces {
            decoder = decoder.in_pieces();
        }
        let mut got = Vec::new();
        for pair in at.windows(2) {
            got.extend(decode_all(&mut decoder, &wire[pair[0]..pair[1]]).unwrap());
        }
        prop_assert!(decoder.is_idle());
        prop_assert_eq!(decoder.finish(), Ok(()));
        for frame in &got {
            prop_assert!(frame.pieces.is_empty() || frame.payload.is_empty());
            prop_assert!(frame.pieces.is_empty() || in_pieces && frame.pieces.len() > 1);
            prop_assert!(frame.pieces.iter().all(|piece| !piece.is_empty()));
            // Two short pieces never follow each other.
            let is_short = |piece: &Bytes| piece.len() < PIECE_BYTES_MIN;
            prop_assert!(!frame.pieces.windows(2).any(|two| two.iter().all(is_short)));
        }
        let got: Vec<(u8, Vec<u8>)> = got
            .into_iter()
            .map(|f| (f.kind, [&[f.payload][..], &f.pieces].concat().concat()))
            .collect();
        prop_assert_eq!(&got, &frames);
        let total: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
        prop_assert!(decoder.take_copied_bytes() <= total as u64, "more than one copy");
    }

    #[test]
    fn every_truncation_is_noticed(frames in frames()) {
        let wire = encode(&frames);
        let mut ends = vec![0];
        for (_, payload) in &frames {
            ends.push(ends.last().unwrap() + HEADER_BYTES + payload.len());
        }
        for cut in 0..wire.len() {
            let mut decoder = FrameDecoder::new(MAX, 0);
            let whole = decode_all(&mut decoder, &wire[..cut]).unwrap();
            let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
            prop_assert_eq!(whole.len(), complete);
            prop_assert_eq!(decoder.finish().is_ok(), ends.contains(&cut));
        }
    }

    #[test]
    fn garbage_never_panics(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = FrameDecoder::new(64, 16);
        let _ = decode_all(&mut decoder, &wire);
    }
}

#[test]
fn a_frame_within_one_chunk_is_not_copied() {
    let payload = vec![7u8; 3000];
    let mut chunk = Bytes::from(encode(&[(20, payload.clone()), (21, payload)]));
    let mut copies = SmallCopies::default();
    let range = chunk.as_ptr_range();
    let mut decoder = FrameDecoder::new(MAX, 2048);
    for kind in [20, 21] {
        let frame = decoder
            .next_frame(&mut chunk, &mut copies)
            .unwrap()
            .unwrap();
        assert_eq!(frame.kind, kind);
        assert!(range.contains(&frame.payload.as_ptr()), "the payload moved");
    }
    assert_eq!(decoder.take_copied_bytes(), 0);
}

#[test]
fn a_frame_over_two_chunks_is_copied_once() {
    let wire = encode(&[(20, vec![7u8; 3000])]);
    let mut decoder = FrameDecoder::new(MAX, 0);
    assert!(decode_all(&mut decoder, &wire[..1000]).unwrap().is_empty());
    assert!(!decoder.is_idle());
    // What is not delivered yet does not count as copied yet, so that the ratio of the two never
    // exceeds one.
    assert_eq!(decoder.take_copied_bytes(), 0);
    let frames = decode_all(&mut decoder, &wire[1000..]).unwrap();
    assert_eq!(frames[0].payload, vec![7u8; 3000]);
    assert_eq!(decoder.take_copied_bytes(), 3000);
}

#[test]
fn pieces_are_slices_and_short_ones_are_joined() {
    let payload: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
    let mut wire = Bytes::from(encode(&[(20, payload.clone())]));
    let range = wire.as_ptr_range();
    let mut decoder = FrameDecoder::new(MAX, 0).in_pieces();
    let mut copies = SmallCopies::default();
    let mut frame = None;
    for len in [HEADER_BYTES + 1000, 1, 1, 998, 1000] {
        let mut piece = wire.split_to(len);
        frame = decoder
            .next_frame(&mut piece, &mut copies)
            .unwrap()
            .or(frame);
    }
    let pieces = frame.expect("all of it came").pieces;
    let lens: Vec<usize> = pieces.iter().map(Bytes::len).collect();
    assert_eq!(lens, [1000, 2, 998, 1000]);
    assert_eq!(pieces.concat(), payload);
    for at in [0, 2, 3] {
        assert!(range.contains(&pieces[at].as_ptr()), "piece {at} moved");
    }
    assert_eq!(decoder.take_copied_bytes(), 2);
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_one_piece() {
    let payload = vec![7u8; 2000];
    let wire = encode(&[(20, payload.clone())]);
    let mut decoder = FrameDecoder::new(MAX, 0).in_pieces();
    let mut frames = Vec::new();
    for byte in wire {
        frames.extend(decode_all(&mut decoder, &[byte]).unwrap());
    }
    assert_eq!((frames.len(), &frames[0].payload[..]), (1, &payload[..]));
    assert!(frames[0].pieces.is_empty());
}

#[test]
fn refused_before_any_payload_is_kept() {
    let refuse = |wire: &[u8]| decode_all(&mut FrameDecoder::new(MAX, 0), wire).unwrap_err();
    let mut wrong_version = header(20, 5);
    wrong_version[0] = 2;
    assert_eq!(refuse(&wrong_version), FrameError::Version(2));
    let mut reserved = header(20, 5);
    reserved[3] = 1;
    assert_eq!(refuse(&reserved), FrameError::Reserved(0x0100));
    assert_eq!(
        refuse(&header(20, MAX + 1)),
        FrameError::TooLong {
            len: MAX + 1,
            max: MAX
        }
    );
    assert_eq!(
        refuse(&header(20, u32::MAX)),
        FrameError::TooLong {
            len: u32::MAX,
            max: MAX
        }
    );
}

#[test]
fn an_empty_payload_is_a_frame() {
    let frames = decode_all(&mut FrameDecoder::new(MAX, 0), &header(20, 0)).unwrap();
    assert_eq!(frames.len(), 1);
    assert!(frames[0].payload.is_empty());
}

/// Changing the layout must be a decision, not an accident.
#[test]
fn the_layout_is_fixed() {
    assert_eq!(header(0x42, 0x0102_0304), [1, 0x42, 0, 0, 4, 3, 2, 1]);
}
