//! The endpoint under a virtual network.
