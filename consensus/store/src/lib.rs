//! Durable storage: segment log, state, recovery
