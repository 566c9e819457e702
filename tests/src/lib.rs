//! Deterministic simulator and adversarial tests
