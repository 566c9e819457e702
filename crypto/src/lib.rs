//! SHA-3 with domain tags, FALCON keys, signing and batched verification.
//!
//! Usable without the rest of Falconet. The crate opens no socket and starts no thread.
//!
//! * [`hash`]: SHA3-256 digests with domain separation, Merkle trees.
//! * [`keccak`]: the sponge itself (SHA3-256, SHAKE256), one message at a time and many at once.
//! * [`falcon`]: round-3 FALCON in its padded encoding: keys, signing, strict verification.
//! * [`cpu`]: which SIMD features this CPU has.
//! * [`keyfile`]: secret keys on disk.
//!
//! ```
//! use falconet_crypto::falcon::{KeyPair, PreparedKey, Scheme, verify};
//!
//! let pair = KeyPair::from_seed(Scheme::Falcon512, &[7; 32]);
//! let signature = pair.sign(b"pay 5 to carol");
//! let key = PreparedKey::from_public(pair.public());
//! assert!(verify(&key, b"pay 5 to carol", signature.as_bytes()));
//! assert!(!verify(&key, b"pay 500 to carol", signature.as_bytes()));
//! ```

pub mod cpu;
pub mod falcon;
pub mod hash;
pub mod keccak;
pub mod keyfile;

pub use falcon::{KeyPair, PreparedKey, PublicKey, Scheme, Signature, SigningMessage, Verifier};
pub use hash::{Digest, Hasher};
