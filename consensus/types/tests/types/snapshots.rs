//! What peers send about snapshots: whatever is longer or otherwise ordered than the limits say is
//! refused before anything is kept of it.

use bytes::Bytes;
use falconet_types::snapshot::{
    CHUNK_BYTES_MAX, CHUNK_SIBLINGS_MAX, Chunk, GetChunk, MANIFEST_HEADERS_MAX, Manifest,
    OFFERS_MAX, REGISTRY_BYTES_MAX, SnapshotOffer,
};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height};

fn offer(heights: &[u64]) -> Vec<u8> {
    let offer = SnapshotOffer {
        horizon: Height(1),
        heights: heights.iter().copied().map(Height).collect(),
        manifest: None,
    };
    offer.to_bytes()
}

#[test]
fn offers_are_few_distinct_and_newest_first() {
    let good = [9, 8, 7, 6];
    assert_eq!(good.len(), OFFERS_MAX);
    assert!(SnapshotOffer::from_bytes(&offer(&good)).is_ok());
    assert!(SnapshotOffer::from_bytes(&offer(&[])).is_ok());
    let bad: [&[u64]; 5] = [&[9, 8, 7, 6, 5], &[1, 2], &[2, 2], &[0], &[3, 0]];
    for heights in bad {
        let found = SnapshotOffer::from_bytes(&offer(heights));
        assert!(found.is_err(), "{heights:?}");
    }
    let mut more = offer(&good);
    more.push(0);
    assert!(
        SnapshotOffer::from_bytes(&more).is_err(),
        "and nothing else"
    );
    *more.iter_mut().nth_back(1).unwrap() = 2;
    assert!(SnapshotOffer::from_bytes(&more[..more.len() - 1]).is_err());
}

fn chunk(range: (u16, u16), siblings: (usize, usize), rows: usize) -> Bytes {
    let node = |n: usize| vec![Digest([3; 32]); n];
    let chunk = Chunk {
        height: Height(5),
        first: range.0,
        last: range.1,
        left: node(siblings.0),
        right: node(siblings.1),
        rows: vec![0; rows].into(),
    };
    chunk.to_payload()
}

#[test]
fn parts_have_a_longest_form() {
    let (range, most) = ((3, 9), (CHUNK_SIBLINGS_MAX, CHUNK_SIBLINGS_MAX));
    let good = chunk(range, most, CHUNK_BYTES_MAX);
    assert!(Chunk::parse(&good).is_ok());
    for bad in [
        chunk((9, 3), most, 10),
        chunk(range, (CHUNK_SIBLINGS_MAX + 1, 0), 10),
        chunk(range, (0, CHUNK_SIBLINGS_MAX + 1), 10),
        chunk(range, most, CHUNK_BYTES_MAX + 1),
        good.slice(..good.len() - 1),
        [&good[..], &[0]].concat().into(),
    ] {
        assert!(Chunk::parse(&bad).is_err());
    }
    let request = GetChunk {
        height: Height(5),
        first: 9,
        last: 3,
    };
    assert!(GetChunk::from_bytes(&request.to_bytes()).is_err());
}

/// What comes before the registry in a manifest: version, three digests, two numbers.
const BEFORE_REGISTRY: usize = 1 + 32 + 8 + 32 + 32 + 8;

#[test]
fn manifests_have_a_longest_form_that_is_refused_by_its_counts() {
    let with = |registry: u32, headers: u16| {
        let mut bytes = vec![0; BEFORE_REGISTRY];
        bytes[0] = 1;
        bytes.extend_from_slice(&registry.to_le_bytes());
        bytes.resize(bytes.len() + (registry as usize).min(REGISTRY_BYTES_MAX), 0);
        bytes.extend_from_slice(&headers.to_le_bytes());
        Manifest::from_bytes(&bytes)
            .expect_err("no headers follow")
            .to_string()
    };
    let most = u16::try_from(MANIFEST_HEADERS_MAX).unwrap();
    let longest = u32::try_from(REGISTRY_BYTES_MAX).unwrap();
    // Within the limits it is the headers that lack.
    let lacks = with(longest, most);
    assert_ne!(with(longest + 1, most), lacks);
    assert_ne!(with(u32::MAX, most), lacks);
    assert_ne!(with(longest, most + 1), lacks);
    assert_ne!(with(longest, u16::MAX), lacks);
    assert_ne!(with(longest, 0), lacks);
}
