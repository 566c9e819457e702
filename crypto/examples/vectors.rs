//! Writes the crate's own test vectors: `cargo run --example vectors > tests/vectors/falcon.txt`.
//!
//! Honest signatures, and one input for each rule that can only be broken with a forged key. The
//! answers are those of the two other implementations, which must agree.

#[path = "../tests/support/mod.rs"]
mod support;

use falconet_crypto::{KeyPair, Scheme};
use support::encode::{self, BitWriter};
use support::{Case, forge, oracle};

const NONCE: [u8; 40] = [0xa5; 40];
const MESSAGE: &[u8] = b"falconet test vector";

fn main() {
    println!("# FALCON, round 3, padded encoding. Records of four lines; written by the example");
    println!("# `vectors`, answered by pqcrypto-falcon and fn-dsa.");
    for scheme in Scheme::ALL {
        let mut s2 = vec![0; scheme.degree()];
        s2[..4].copy_from_slice(&[3, 2, 0, -1]);
        let norm_s2 = 14;

        for (seed, message) in [(1, &b""[..]), (2, MESSAGE), (3, &[0x77; 200])] {
            let pair = KeyPair::from_seed(scheme, &[seed; 32]);
            let signature = pair
                .sign_deterministic(message, &[0; 32])
                .as_bytes()
                .to_vec();
            let public_key = pair.public().as_bytes().to_vec();
            let case = Case {
                scheme,
                public_key,
                message: message.to_vec(),
                signature,
            };
            print("honest", &case);
        }

        for (over, remark) in [(0, "norm at the bound"), (1, "norm above the bound by one")] {
            let norm = scheme.squared_norm_max() - norm_s2 + over;
            let s1 = forge::with_squared_norm(scheme, norm, &mut fastrand::Rng::with_seed(7));
            print(
                remark,
                &forge::case(scheme, &s1, &s2, MESSAGE, &NONCE).expect("invertible"),
            );
        }

        let mut large = s2.clone();
        large[4..8].copy_from_slice(&[2047, -2047, 2047, -2047]);
        print("four coefficients of 2047", &forged(scheme, &large));
        large[4] = 2048;
        print("a coefficient of 2048", &forged(scheme, &large));

        let mut bits = BitWriter::default();
        for (at, &value) in s2.iter().enumerate() {
            if at == 2 {
                bits.codeword(true, 0, 0)
            } else {
                bits.coefficient(value)
            }
        }
        let signature = encode::signature(scheme, &NONCE, bits).expect("fits");
        print(
            "minus zero",
            &Case {
                signature,
                ..forged(scheme, &s2)
            },
        );

        let mut case = forged(scheme, &s2);
        *case.signature.last_mut().expect("not empty") = 1;
        print("a tail byte", &case);

        let mut case = forged(scheme, &s2);
        case.public_key[1] = 0xff;
        print("a key coefficient above q", &case);
    }
}

fn forged(scheme: Scheme, s2: &[i32]) -> Case {
    forge::case(scheme, &vec![0; scheme.degree()], s2, MESSAGE, &NONCE).expect("invertible")
}

fn print(remark: &str, case: &Case) {
    let valid = oracle::fn_dsa(case);
    assert_eq!(
        valid,
        oracle::pqcrypto(case),
        "the oracles disagree on: {remark}"
    );
    println!(
        "{} {} {remark}",
        case.scheme,
        if valid { "valid" } else { "invalid" }
    );
    for (name, bytes) in [
        ("key", &case.public_key),
        ("message", &case.message),
        ("signature", &case.signature),
    ] {
        print!("{name} ");
        bytes.iter().for_each(|byte| print!("{byte:02x}"));
        println!();
    }
}
