//! Other implementations, narrowed to the rules that all of them must agree on.

use falconet_crypto::Scheme;
use pqcrypto_traits::sign::{DetachedSignature as _, PublicKey as _};

use super::Case;

/// What pqcrypto-falcon (PQClean) says. It also accepts unpadded signatures, which are refused
/// here before it is asked.
pub fn pqcrypto(case: &Case) -> bool {
    if case.signature.len() != case.scheme.signature_len()
        || case.signature[0] != case.scheme.signature_header()
    {
        return false;
    }
    macro_rules! ask {
        ($module:ident) => {{
            use pqcrypto_falcon::$module::*;
            match (
                PublicKey::from_bytes(&case.public_key),
                DetachedSignature::from_bytes(&case.signature),
            ) {
                (Ok(key), Ok(signature)) => {
                    verify_detached_signature(&signature, &case.message, &key).is_ok()
                }
                _ => false,
            }
        }};
    }
    match case.scheme {
        Scheme::Falcon512 => ask!(falconpadded512),
        Scheme::Falcon1024 => ask!(falconpadded1024),
    }
}

/// What fn-dsa 0.3 says in its round-3 mode.
pub fn fn_dsa(case: &Case) -> bool {
    use fn_dsa::VerifyingKey as _;
    // A key of the other degree would be accepted otherwise.
    if case.public_key.first() != Some(&case.scheme.public_key_header()) {
        return false;
    }
    fn_dsa::VerifyingKeyStandard::decode(&case.public_key).is_some_and(|key| {
        key.verify(
            &case.signature,
            &fn_dsa::DOMAIN_NONE,
            &fn_dsa::HASH_ID_ORIGINAL_FALCON,
            &case.message,
        )
    })
}
