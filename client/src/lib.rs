//! Client of a Falconet validator over STOQ
