//! The deterministic ledger
