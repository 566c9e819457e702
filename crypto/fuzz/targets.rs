//! What the fuzz targets do with an input. `tests/fuzz.rs` runs the same functions without a
//! fuzzer.

use std::cell::RefCell;

use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, PreparedKey, Verifier};
use falconet_crypto::keccak::{Engine, Sha3_256};
use falconet_crypto::{Digest, KeyPair, PublicKey, Scheme, Signature};

/// A key for which signatures are decoded.
fn fixed_key(scheme: Scheme) -> PreparedKey {
    thread_local! {
        static KEYS: [PreparedKey; 2] = Scheme::ALL.map(|scheme| {
            PreparedKey::from_public(KeyPair::from_seed(scheme, &[1; 32]).public())
        });
    }
    KEYS.with(|keys| keys[scheme.as_byte() as usize - 1].clone())
}

/// The answers of every backend must be the same.
fn agree(jobs: &[Job<'_>]) -> Bitmap {
    thread_local! {
        static VERIFIERS: RefCell<Vec<Verifier>> =
            RefCell::new(Backend::available().map(Verifier::with_backend).collect());
    }
    VERIFIERS.with_borrow_mut(|verifiers| {
        let mut answers = verifiers.iter_mut().map(|verifier| {
            let mut valid = Bitmap::new();
            verifier.verify_batch(jobs, &mut valid);
            valid
        });
        let first = answers.next().expect("a backend");
        assert!(answers.all(|other| other == first), "the backends disagree");
        first
    })
}

/// Scheme byte ‖ signature: decoding, on all backends, alone and among others.
pub fn signature(data: &[u8]) {
    let Some((&byte, bytes)) = data.split_first() else {
        return;
    };
    let Ok(scheme) = Scheme::try_from(byte) else {
        return;
    };
    let key = fixed_key(scheme);
    // Any bytes after the header, at the right length.
    let mut padded = bytes.to_vec();
    padded.resize(scheme.signature_len(), 0);
    padded[0] = scheme.signature_header();
    let job = |signature| Job {
        key: Key::Prepared(&key),
        message: b"message",
        signature,
    };
    let alone = agree(&[job(bytes), job(&padded)]);
    let among = agree(&[
        job(&padded),
        job(&[]),
        job(&padded),
        job(bytes),
        job(&padded),
    ]);
    assert_eq!(alone.get(1), among.get(4));
    assert_eq!(alone.get(0), among.get(3));
    if alone.get(0) {
        assert!(Signature::from_bytes(scheme, bytes).is_ok());
    }
}

/// Scheme byte ‖ public key: decoding, on all backends.
pub fn public_key(data: &[u8]) {
    let decoded = PublicKey::from_wire(data);
    if let Ok(key) = &decoded {
        assert_eq!(key.to_wire(), data, "one encoding for one key");
    }
    let Some((&byte, bytes)) = data.split_first() else {
        return;
    };
    let Ok(scheme) = Scheme::try_from(byte) else {
        return;
    };
    let mut keys =
        Backend::available().map(|backend| PreparedKey::with_backend(backend, scheme, bytes));
    let first = keys.next().expect("a backend");
    assert!(keys.all(|key| key == first), "the backends disagree");
    assert_eq!(first.is_ok(), decoded.is_ok());
    let mut signature = vec![0xff; scheme.signature_len()];
    signature[0] = scheme.signature_header();
    agree(&[Job {
        key: Key::Encoded { scheme, bytes },
        message: b"",
        signature: &signature,
    }]);
}

/// Texts of keys and digests.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text, "one text for one key");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_lowercase());
    }
}

/// Pieces of the input hashed together and one by one.
pub fn hashes(data: &[u8]) {
    let Some((&len, rest)) = data.split_first() else {
        return;
    };
    let pieces: Vec<&[u8]> = rest.chunks(usize::from(len).max(1)).take(100).collect();
    for engine in Engine::available() {
        let mut out = vec![[0; 32]; pieces.len()];
        engine.sha3_256_many(&[len], &pieces, &mut out);
        for (piece, digest) in pieces.iter().zip(out) {
            let mut one = Sha3_256::new();
            one.update(&[len]);
            one.update(piece);
            assert_eq!(one.finish(), digest, "{engine:?}");
        }
    }
}
