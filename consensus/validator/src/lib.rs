//! The validator: composition of network, consensus, execution and storage
