//! Keys, signatures and schemes as values; the wire rules are in `tests/rules.rs`.

use super::*;
use crate::hash;

#[test]
fn sizes_are_those_of_the_specification() {
    let (a, b) = (Scheme::Falcon512, Scheme::Falcon1024);
    assert_eq!((a.signature_len(), a.public_key_len()), (666, 897));
    assert_eq!((b.signature_len(), b.public_key_len()), (1280, 1793));
}

#[test]
fn scheme_bytes_and_names() {
    for scheme in Scheme::ALL {
        assert_eq!(Scheme::try_from(scheme.as_byte()), Ok(scheme));
        assert_eq!(scheme.to_string().parse(), Ok(scheme));
    }
    assert_eq!(Scheme::try_from(0), Err(UnknownScheme::Byte(0)));
    assert_eq!(Scheme::try_from(3), Err(UnknownScheme::Byte(3)));
    assert!("Falcon512".parse::<Scheme>().is_err());
}

#[test]
fn a_signature_verifies_under_its_key_and_message_only() {
    for scheme in Scheme::ALL {
        let pair = KeyPair::generate(scheme);
        let other = PreparedKey::from_public(KeyPair::generate(scheme).public());
        let key = PreparedKey::from_public(pair.public());
        for message in [&b""[..], b"m", &[7; 3000]] {
            let signature = pair.sign(message);
            assert_eq!(signature.as_bytes().len(), scheme.signature_len());
            assert!(verify(&key, message, signature.as_bytes()));
            assert!(!verify(&key, b"another", signature.as_bytes()));
            assert!(!verify(&other, message, signature.as_bytes()));
        }
    }
}

#[test]
fn a_seed_always_gives_the_same_key_and_signature() {
    for scheme in Scheme::ALL {
        let (a, b) = (
            KeyPair::from_seed(scheme, &[5; 32]),
            KeyPair::from_seed(scheme, &[5; 32]),
        );
        assert_eq!(a.public(), b.public());
        assert_ne!(a.public(), KeyPair::from_seed(scheme, &[6; 32]).public());
        let sign = |pair: &KeyPair, message| pair.sign_deterministic(message, &[1; 32]);
        assert_eq!(sign(&a, b"m"), sign(&b, b"m"));
        assert_ne!(
            sign(&a, b"m").as_bytes()[1..41],
            sign(&a, b"n").as_bytes()[1..41]
        );
        assert_ne!(a.sign(b"m"), a.sign(b"m"), "nonces are fresh");
    }
}

#[test]
fn secrets_are_not_printed() {
    let pair = KeyPair::from_seed(Scheme::Falcon512, &[5; 32]);
    let text = format!("{pair:?}");
    assert!(
        text.starts_with("KeyPair(PublicKey(falcon512, id ") && text.len() < 80,
        "{text}"
    );
}

#[test]
fn a_corrupt_secret_key_is_refused() {
    let secret = KeyPair::from_seed(Scheme::Falcon512, &[5; 32])
        .secret_bytes()
        .to_vec();
    let decode = |bytes: &[u8]| KeyPair::from_secret_bytes(Scheme::Falcon512, bytes).err();
    assert_eq!(decode(&secret), None);
    let expected = secret.len();
    let found = expected - 1;
    let length = SecretKeyError::Length {
        scheme: Scheme::Falcon512,
        expected,
        found,
    };
    assert_eq!(decode(&secret[1..]), Some(length));
    let corrupt = SecretKeyError::Corrupt {
        scheme: Scheme::Falcon512,
    };
    for at in [0, 5, 700, expected - 1] {
        let mut bytes = secret.clone();
        bytes[at] ^= 0x10;
        if let Ok(pair) = KeyPair::from_secret_bytes(Scheme::Falcon512, &bytes) {
            // Another small basis by chance; then it is at least another key.
            assert_ne!(pair.secret_bytes(), secret);
        } else {
            assert_eq!(decode(&bytes), Some(corrupt));
            return;
        }
    }
    panic!("no corruption was noticed");
}

#[test]
fn public_keys_travel_as_bytes_and_as_text() {
    for scheme in Scheme::ALL {
        let key = KeyPair::from_seed(scheme, &[8; 32]).public().clone();
        assert_eq!(PublicKey::from_wire(&key.to_wire()), Ok(key.clone()));
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        assert_eq!(key.id(), hash::hash("falconet/key-id", &[&key.to_wire()]));

        let mut wire = key.to_wire();
        wire[0] = 9;
        assert_eq!(
            PublicKey::from_wire(&wire),
            Err(KeyError::Scheme(UnknownScheme::Byte(9)))
        );
        let text = key.to_string();
        for bad in [
            &text[1..],
            &text[..text.len() - 1],
            "falcon512",
            "",
            "falcon512:",
            ":",
        ] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
    assert_eq!(PublicKey::from_wire(&[]), Err(KeyError::Empty));
}

#[test]
fn signatures_are_checked_for_length_and_header() {
    let scheme = Scheme::Falcon1024;
    let mut bytes = vec![0; 1280];
    assert_eq!(
        Signature::from_bytes(scheme, &bytes),
        Err(SignatureError::Header { scheme, found: 0 })
    );
    bytes[0] = 0x3a;
    assert_eq!(
        Signature::from_bytes(scheme, &bytes)
            .expect("well formed")
            .as_bytes(),
        bytes
    );
    assert_eq!(
        Signature::from_bytes(scheme, &bytes[1..]),
        Err(SignatureError::Length {
            scheme,
            found: 1279
        })
    );
}
