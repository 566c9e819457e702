//! SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) of FALCON keys, the form in which raw public
//! keys travel (RFC 7250). One encoding for one key: decoding accepts exactly what encoding
//! yields.

use falconet_crypto::falcon::{PublicKey, Scheme};

/// Everything before the key itself. Lengths and the last arc of the object identifier depend on
/// the scheme: 1.3.9999.3.16 is falconpadded512, 1.3.9999.3.19 falconpadded1024.
const fn prefix(scheme: Scheme) -> [u8; 18] {
    let (key_bytes, arc): (u16, u8) = match scheme {
        Scheme::Falcon512 => (897, 16),
        Scheme::Falcon1024 => (1793, 19),
    };
    let [bits_hi, bits_lo] = (key_bytes + 1).to_be_bytes();
    let [all_hi, all_lo] = (key_bytes + 14).to_be_bytes();
    [
        0x30, 0x82, all_hi, all_lo, // SubjectPublicKeyInfo: SEQUENCE
        0x30, 0x07, // AlgorithmIdentifier: SEQUENCE without parameters
        0x06, 0x05, 0x2b, 0xce, 0x0f, 0x03, arc, // OBJECT IDENTIFIER
        0x03, 0x82, bits_hi, bits_lo, 0x00, // BIT STRING, no unused bits
    ]
}

/// DER of a key.
pub(super) fn encode(key: &PublicKey) -> Vec<u8> {
    [&prefix(key.scheme())[..], key.as_bytes()].concat()
}

/// The key behind DER, `None` for anything but the encoding of a valid FALCON key.
pub(super) fn decode(der: &[u8]) -> Option<PublicKey> {
    [Scheme::Falcon1024, Scheme::Falcon512]
        .into_iter()
        .find_map(|scheme| {
            let key = der.strip_prefix(&prefix(scheme))?;
            PublicKey::from_bytes(scheme, key).ok()
        })
}

#[cfg(test)]
mod tests {
    use falconet_crypto::falcon::KeyPair;
    use rustls::{
        pki_types::{AlgorithmIdentifier, alg_id},
        sign::public_key_to_spki,
    };

    use super::*;

    #[test]
    fn the_encoding_is_plain_der() {
        // The generic encoder of rustls is the reference.
        const PADDED_512: AlgorithmIdentifier =
            AlgorithmIdentifier::from_slice(&[6, 5, 0x2b, 0xce, 0x0f, 3, 16]);
        const PADDED_1024: AlgorithmIdentifier =
            AlgorithmIdentifier::from_slice(&[6, 5, 0x2b, 0xce, 0x0f, 3, 19]);
        assert_ne!(PADDED_512, alg_id::ED25519);
        for (scheme, id) in [
            (Scheme::Falcon512, PADDED_512),
            (Scheme::Falcon1024, PADDED_1024),
        ] {
            let pair = KeyPair::from_seed(scheme, &[1; 32]);
            let der = encode(pair.public());
            let reference = public_key_to_spki(&id, pair.public().as_bytes());
            assert_eq!(der, reference.as_ref());
            assert_eq!(decode(&der).unwrap().id(), pair.public().id());
        }
    }

    #[test]
    fn nothing_else_is_accepted() {
        let pair = KeyPair::from_seed(Scheme::Falcon512, &[2; 32]);
        let der = encode(pair.public());
        for len in 0..der.len() {
            assert!(decode(&der[..len]).is_none(), "truncated to {len}");
        }
        assert!(decode(&[&der[..], &[0]].concat()).is_none());
        for at in 0..18 {
            let mut other = der.clone();
            other[at] ^= 1;
            assert!(decode(&other).is_none(), "byte {at} changed");
        }
    }
}
