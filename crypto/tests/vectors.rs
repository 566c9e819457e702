//! Known answers: the official round-3 vectors where they are present, and our own.

mod support;

use std::path::Path;

use falconet_crypto::Scheme;
use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, Verifier};
use support::Case;

/// Verifies all cases as one batch, on every backend.
fn verdicts(cases: &[Case]) -> Vec<bool> {
    let jobs: Vec<Job<'_>> = cases
        .iter()
        .map(|case| Job {
            key: Key::Encoded {
                scheme: case.scheme,
                bytes: &case.public_key,
            },
            message: &case.message,
            signature: &case.signature,
        })
        .collect();
    let mut answers: Vec<Vec<bool>> = Backend::available()
        .map(|backend| {
            let mut valid = Bitmap::new();
            Verifier::with_backend(backend).verify_batch(&jobs, &mut valid);
            valid.iter().collect()
        })
        .collect();
    let first = answers.swap_remove(0);
    assert!(
        answers.iter().all(|other| *other == first),
        "the backends disagree"
    );
    first
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// The cases of a NIST response file, re-encoded as padded detached signatures.
///
/// `sm` is length (2 bytes) ‖ nonce ‖ message ‖ 0x2n ‖ compressed s2; the detached form has header
/// 0x3n, then the nonce, then the compressed s2, then zeros. `None` for a signature that is longer
/// than the padded length.
fn official(scheme: Scheme, text: &str) -> Vec<Option<Case>> {
    let (mut public_key, mut message) = (vec![], vec![]);
    let mut cases = vec![];
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("pk = ") {
            public_key = unhex(value);
        } else if let Some(value) = line.strip_prefix("msg = ") {
            message = unhex(value);
        } else if let Some(value) = line.strip_prefix("sm = ") {
            let sm = unhex(value);
            let (nonce, rest) = sm[2..].split_at(40);
            let (signed, encoded) = rest.split_at(message.len());
            assert_eq!(signed, message);
            assert_eq!(encoded.len(), usize::from(sm[0]) << 8 | usize::from(sm[1]));
            assert_eq!(encoded[0] + 0x10, scheme.signature_header());
            let mut signature = vec![scheme.signature_header()];
            signature.extend_from_slice(nonce);
            signature.extend_from_slice(&encoded[1..]);
            cases.push((signature.len() <= scheme.signature_len()).then(|| {
                signature.resize(scheme.signature_len(), 0);
                Case {
                    scheme,
                    public_key: public_key.clone(),
                    message: message.clone(),
                    signature,
                }
            }));
        }
    }
    cases
}

#[test]
fn the_official_round_3_vectors_verify() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/falcon");
    for scheme in Scheme::ALL {
        let path = directory.join(format!("falcon{}-KAT.rsp", scheme.degree()));
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!(
                "skipped: {} is absent (the official vectors of NIST round 3)",
                path.display()
            );
            continue;
        };
        let vectors = official(scheme, &text);
        assert_eq!(vectors.len(), 100);
        let cases: Vec<Case> = vectors.into_iter().flatten().collect();
        println!("{scheme}: {} of 100 fit the padded encoding", cases.len());
        assert!(cases.len() >= 90, "only {} fit", cases.len());
        assert!(verdicts(&cases).iter().all(|&valid| valid));
        for mut case in cases {
            case.message[0] ^= 1;
            assert_eq!(verdicts(&[case]), [false]);
        }
    }
}

/// Our own vectors: `scheme valid|invalid remark`, then key, message and signature on a line each.
#[test]
fn our_own_vectors_hold() {
    let text = include_str!("vectors/falcon.txt");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let (mut cases, mut expected) = (vec![], vec![]);
    for record in lines.chunks(4) {
        let mut words = record[0].split(' ');
        let scheme: Scheme = words.next().expect("scheme").parse().expect("known scheme");
        expected.push(words.next() == Some("valid"));
        let field = |line: &str, name: &str| unhex(line.strip_prefix(name).expect(name).trim());
        cases.push(Case {
            scheme,
            public_key: field(record[1], "key"),
            message: field(record[2], "message"),
            signature: field(record[3], "signature"),
        });
    }
    assert_eq!(cases.len(), 20);
    assert_eq!(verdicts(&cases), expected);
}
