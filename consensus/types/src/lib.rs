//! The vocabulary of Falconet: identifiers, wire formats, certificates, transactions, genesis
