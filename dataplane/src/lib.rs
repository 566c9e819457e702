//! STOQ: the post-quantum QUIC transport of Falconet
