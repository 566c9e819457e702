//! Every rule of the wire format, each with an input that breaks only this rule.
//!
//! The inputs are forged (see `support::forge`), so the same bytes would verify if the rule were
//! not there; and the two other implementations are asked about each of them.

mod support;

use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, KeyError, PreparedKey, Verifier};
use falconet_crypto::{PublicKey, Scheme};
use fastrand::Rng;
use support::encode::{self, BitWriter};
use support::{Case, forge, oracle};

const NONCE: [u8; 40] = [0x5a; 40];
const MESSAGE: &[u8] = b"one rule at a time";

/// The answer, which must be the same for every backend and every form of the key.
fn verdict(case: &Case) -> bool {
    let encoded = Job {
        key: Key::Encoded {
            scheme: case.scheme,
            bytes: &case.public_key,
        },
        message: &case.message,
        signature: &case.signature,
    };
    let prepared = PreparedKey::from_bytes(case.scheme, &case.public_key).ok();
    let mut answers = vec![];
    for backend in Backend::available() {
        let mut verifier = Verifier::with_backend(backend);
        let mut valid = Bitmap::new();
        verifier.verify_batch(&[encoded], &mut valid);
        answers.push(valid.get(0));
        if let Some(key) = &prepared {
            verifier.verify_batch(
                &[Job {
                    key: Key::Prepared(key),
                    ..encoded
                }],
                &mut valid,
            );
            answers.push(valid.get(0));
        }
    }
    assert!(
        answers.iter().all(|&answer| answer == answers[0]),
        "the code paths disagree"
    );
    answers[0]
}

fn assert_accepted(case: &Case) {
    assert!(verdict(case), "ours");
    assert!(oracle::pqcrypto(case), "pqcrypto-falcon");
    assert!(oracle::fn_dsa(case), "fn-dsa");
}

fn assert_refused(case: &Case) {
    assert!(!verdict(case), "ours");
    assert!(!oracle::pqcrypto(case), "pqcrypto-falcon");
    assert!(!oracle::fn_dsa(case), "fn-dsa");
}

/// s2 = 3 + 2 x + …: small, invertible, with a negative coefficient and a zero.
fn small_s2(scheme: Scheme) -> Vec<i32> {
    let mut s2 = vec![0; scheme.degree()];
    s2[..4].copy_from_slice(&[3, 2, 0, -1]);
    s2
}

/// `s2` with its coefficient 4 varied (in the same number of bits) until it has an inverse.
fn invertible(scheme: Scheme, mut s2: Vec<i32>) -> Vec<i32> {
    let c = vec![0; scheme.degree()];
    let found = (1..128).find(|&value| {
        s2[4] = value;
        forge::key_for(scheme, &c, &zeros(scheme), &s2).is_some()
    });
    assert!(found.is_some(), "about one in ten has no inverse");
    s2
}

fn zeros(scheme: Scheme) -> Vec<i32> {
    vec![0; scheme.degree()]
}

fn valid_case(scheme: Scheme) -> Case {
    forge::case(scheme, &zeros(scheme), &small_s2(scheme), MESSAGE, &NONCE).expect("invertible")
}

/// The case whose signature holds `bits`, under a key for which `s2` would verify.
fn case_with_bits(scheme: Scheme, s2: &[i32], bits: BitWriter) -> Case {
    let signature = encode::signature(scheme, &NONCE, bits).expect("fits");
    let c = forge::hash_to_point(scheme, &NONCE, MESSAGE);
    let public_key = forge::key_for(scheme, &c, &zeros(scheme), s2).expect("invertible");
    Case {
        scheme,
        public_key,
        message: MESSAGE.to_vec(),
        signature,
    }
}

fn bits_of(s2: &[i32]) -> BitWriter {
    let mut bits = BitWriter::default();
    s2.iter().for_each(|&value| bits.coefficient(value));
    bits
}

#[test]
fn a_forged_case_is_accepted_by_everyone() {
    for scheme in Scheme::ALL {
        assert_accepted(&valid_case(scheme));
    }
}

#[test]
fn another_message_nonce_or_key_is_refused() {
    for scheme in Scheme::ALL {
        let good = valid_case(scheme);
        let mut case = good.clone();
        case.message[0] ^= 1;
        assert_refused(&case);
        let mut case = good.clone();
        case.signature[1] ^= 1;
        assert_refused(&case);
        let c = forge::hash_to_point(scheme, &NONCE, b"another message");
        let other = forge::key_for(scheme, &c, &zeros(scheme), &small_s2(scheme));
        assert_refused(&Case {
            public_key: other.expect("invertible"),
            ..good
        });
    }
}

#[test]
fn any_other_length_is_refused() {
    for scheme in Scheme::ALL {
        let good = valid_case(scheme);
        for len in [0, 1, 40, 41, 42, scheme.signature_len() - 1] {
            let mut case = good.clone();
            case.signature.truncate(len);
            assert_refused(&case);
        }
        let mut case = good.clone();
        case.signature.push(0);
        assert_refused(&case);
        // Without the padding: what the variable-length encoding of round 3 allows.
        let mut case = good;
        while case.signature.last() == Some(&0) {
            case.signature.pop();
        }
        assert_refused(&case);
    }
}

#[test]
fn any_other_header_is_refused() {
    for scheme in Scheme::ALL {
        let good = valid_case(scheme);
        for header in (0..=255).filter(|&header| header != scheme.signature_header()) {
            let mut case = good.clone();
            case.signature[0] = header;
            assert_refused(&case);
        }
    }
}

#[test]
fn minus_zero_is_refused() {
    for scheme in Scheme::ALL {
        let s2 = small_s2(scheme);
        // First, in the middle, in the last window.
        for position in [2, scheme.degree() / 2, scheme.degree() - 1] {
            let mut bits = BitWriter::default();
            for (at, &value) in s2.iter().enumerate() {
                if at == position {
                    bits.codeword(true, 0, 0)
                } else {
                    bits.coefficient(value)
                }
            }
            assert_eq!(s2[position], 0);
            assert_refused(&case_with_bits(scheme, &s2, bits));
        }
    }
}

#[test]
fn a_coefficient_of_2047_is_accepted_and_2048_refused() {
    for scheme in Scheme::ALL {
        for position in [0, 1, 2, 3, 200, scheme.degree() - 1] {
            for sign in [1, -1] {
                let mut s2 = small_s2(scheme);
                s2[position] = 2047 * sign;
                let mut s2 = invertible(scheme, s2);
                assert_accepted(&case_with_bits(scheme, &s2, bits_of(&s2)));
                for magnitude in [2048, 2049, 2175, 2176, 4095] {
                    s2[position] = magnitude * sign;
                    let s2 = invertible(scheme, s2.clone());
                    assert_refused(&case_with_bits(scheme, &s2, bits_of(&s2)));
                }
            }
        }
    }
}

#[test]
fn an_endless_unary_part_is_refused() {
    for scheme in Scheme::ALL {
        let degree = scheme.degree();
        for position in [0, 5, degree - 4, degree - 1] {
            for zeros in [16, 17, 48, 57, 64, 65, 128, 200] {
                let s2 = small_s2(scheme);
                let mut bits = BitWriter::default();
                for (at, &value) in s2.iter().enumerate() {
                    if at == position {
                        bits.codeword(false, 1, zeros)
                    } else {
                        bits.coefficient(value)
                    }
                }
                if let Some(signature) = encode::signature(scheme, &NONCE, bits) {
                    assert_refused(&Case {
                        signature,
                        ..valid_case(scheme)
                    });
                }
            }
        }
        // Nothing but zeros after the nonce: the first unary part never ends.
        let mut case = valid_case(scheme);
        case.signature[41..].fill(0);
        assert_refused(&case);
    }
}

#[test]
fn a_polynomial_cut_short_is_refused() {
    for scheme in Scheme::ALL {
        for missing in 1..9 {
            let s2 = small_s2(scheme);
            let bits = bits_of(&s2[..scheme.degree() - missing]);
            assert_refused(&case_with_bits(scheme, &s2, bits));
        }
    }
}

/// Coefficients whose encoding fills `bits` bits.
fn s2_of_length(scheme: Scheme, bits: usize) -> Vec<i32> {
    let mut s2 = small_s2(scheme);
    let mut longer = bits - bits_of(&s2).len();
    for value in s2.iter_mut().rev() {
        let zeros = longer.min(2);
        *value += 128 * zeros as i32;
        longer -= zeros;
    }
    let s2 = invertible(scheme, s2);
    assert_eq!(bits_of(&s2).len(), bits);
    s2
}

#[test]
fn a_polynomial_up_to_the_last_bit_is_accepted_and_one_bit_more_refused() {
    for scheme in Scheme::ALL {
        let room = 8 * (scheme.signature_len() - 41);
        let s2 = s2_of_length(scheme, room);
        assert_accepted(&case_with_bits(scheme, &s2, bits_of(&s2)));

        // The last one-bit falls off the end.
        let s2 = s2_of_length(scheme, room + 1);
        let mut bytes = vec![scheme.signature_header()];
        bytes.extend_from_slice(&NONCE);
        bytes.extend(bits_of(&s2).into_bytes());
        bytes.truncate(scheme.signature_len());
        let c = forge::hash_to_point(scheme, &NONCE, MESSAGE);
        let public_key = forge::key_for(scheme, &c, &zeros(scheme), &s2).expect("invertible");
        assert_refused(&Case {
            scheme,
            public_key,
            message: MESSAGE.to_vec(),
            signature: bytes,
        });
    }
}

#[test]
fn a_padding_bit_that_is_set_is_refused() {
    for scheme in Scheme::ALL {
        for extra in 0..8 {
            let s2 = s2_of_length(scheme, bits_of(&small_s2(scheme)).len() + extra);
            let used = bits_of(&s2).len();
            let good = case_with_bits(scheme, &s2, bits_of(&s2));
            assert_accepted(&good);
            for bit in used..used.next_multiple_of(8) {
                let mut case = good.clone();
                case.signature[41 + bit / 8] |= 0x80 >> (bit % 8);
                assert_refused(&case);
            }
        }
    }
}

#[test]
fn a_tail_byte_that_is_not_zero_is_refused() {
    for scheme in Scheme::ALL {
        let good = valid_case(scheme);
        let end = 41 + bits_of(&small_s2(scheme)).len().div_ceil(8);
        for at in end..scheme.signature_len() {
            let mut case = good.clone();
            case.signature[at] = 1 << (at % 8);
            assert_refused(&case);
        }
    }
}

#[test]
fn the_norm_bound_is_accepted_and_the_next_norm_refused() {
    let mut random = Rng::with_seed(1);
    for scheme in Scheme::ALL {
        for spread in [1, 60, 200] {
            let s2 = (0..scheme.degree())
                .map(|_| random.usize(..2 * spread + 1) as i32 - spread as i32)
                .collect();
            let s2 = invertible(scheme, s2);
            let norm_s2: u64 = s2.iter().map(|&x| (x * x) as u64).sum();
            let rest = scheme.squared_norm_max() - norm_s2;
            let mut forge_with = |norm: u64| {
                let s1 = forge::with_squared_norm(scheme, norm, &mut random);
                forge::case(scheme, &s1, &s2, MESSAGE, &NONCE).expect("invertible")
            };
            assert_accepted(&forge_with(rest));
            assert_refused(&forge_with(rest + 1));
        }
    }
}

#[test]
fn the_norm_of_s2_alone_can_exceed_the_bound() {
    for scheme in Scheme::ALL {
        // 17 (9) coefficients of 2047 exceed the bound with s1 = 0.
        let over = (scheme.squared_norm_max() / (2047 * 2047)) as usize;
        for count in [over, over + 1] {
            let mut s2 = small_s2(scheme);
            s2[5..5 + count].fill(2047);
            let s2 = invertible(scheme, s2);
            let case = case_with_bits(scheme, &s2, bits_of(&s2));
            if count == over {
                assert_accepted(&case)
            } else {
                assert_refused(&case)
            }
        }
    }
}

#[test]
fn a_norm_that_would_wrap_32_bits_is_refused() {
    for scheme in Scheme::ALL {
        let s1 = vec![6144; scheme.degree()];
        let case =
            forge::case(scheme, &s1, &small_s2(scheme), MESSAGE, &NONCE).expect("invertible");
        assert_refused(&case);
        // A norm of 2^32 exactly: zero if it wrapped.
        let norm = (1 << 32)
            - small_s2(scheme)
                .iter()
                .map(|&x| (x * x) as u64)
                .sum::<u64>();
        let s1 = forge::with_squared_norm(scheme, norm, &mut Rng::with_seed(2));
        let case =
            forge::case(scheme, &s1, &small_s2(scheme), MESSAGE, &NONCE).expect("invertible");
        assert_refused(&case);
    }
}

#[test]
fn key_coefficients_of_q_and_above_are_refused() {
    for scheme in Scheme::ALL {
        for position in [0, 1, 31, 32, 500, scheme.degree() - 1] {
            for value in [12_289, 12_290, 16_383] {
                let mut h = vec![0; scheme.degree()];
                h[position] = value;
                let bytes = encode::public_key(scheme, &h);
                let error = KeyError::Coefficient { scheme };
                assert_eq!(PublicKey::from_bytes(scheme, &bytes), Err(error));
                assert!(PreparedKey::from_bytes(scheme, &bytes).is_err());
                assert_refused(&Case {
                    public_key: bytes,
                    ..valid_case(scheme)
                });

                h[position] = 12_288;
                assert!(PublicKey::from_bytes(scheme, &encode::public_key(scheme, &h)).is_ok());
            }
        }
        // A key that would verify: h[i] + q encodes the same residue where it fits 14 bits.
        let good = valid_case(scheme);
        for position in 0..8 {
            let mut h: Vec<u32> = decode_key(&good.public_key);
            if h[position] + 12_289 < 16_384 {
                h[position] += 12_289;
                assert_refused(&Case {
                    public_key: encode::public_key(scheme, &h),
                    ..good.clone()
                });
            }
        }
    }
}

fn decode_key(bytes: &[u8]) -> Vec<u32> {
    let bit = |at: usize| u32::from(bytes[1 + at / 8] >> (7 - at % 8) & 1);
    (0..(bytes.len() - 1) * 8 / 14)
        .map(|i| (0..14).fold(0, |value, k| value << 1 | bit(14 * i + k)))
        .collect()
}

#[test]
fn key_length_and_header_are_exact() {
    for scheme in Scheme::ALL {
        let good = valid_case(scheme);
        for len in [0, 1, scheme.public_key_len() - 1] {
            let cut = &good.public_key[..len];
            assert_eq!(
                PublicKey::from_bytes(scheme, cut),
                Err(KeyError::Length { scheme, found: len })
            );
            assert_refused(&Case {
                public_key: cut.to_vec(),
                ..good.clone()
            });
        }
        let mut longer = good.public_key.clone();
        longer.push(0);
        assert!(PublicKey::from_bytes(scheme, &longer).is_err());
        assert_refused(&Case {
            public_key: longer,
            ..good.clone()
        });
        for header in (0..=255).filter(|&header| header != scheme.public_key_header()) {
            let mut case = good.clone();
            case.public_key[0] = header;
            assert_refused(&case);
        }
    }
}

#[test]
fn a_signature_of_the_other_scheme_is_refused() {
    let (a, b) = (
        valid_case(Scheme::Falcon512),
        valid_case(Scheme::Falcon1024),
    );
    assert!(!verdict(&Case {
        signature: b.signature.clone(),
        ..a.clone()
    }));
    assert!(!verdict(&Case {
        signature: a.signature,
        ..b
    }));
}
