//! SHA-3, FALCON keys, signing, and batched verification
