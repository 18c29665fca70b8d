//! What goes wrong with relays and their leases, and what must hold whatever it is: of each key the
//! first occurrences in Kafka are 1, 2, 3, ..., and nothing is lost.

mod failpoints;
mod leases;
mod letters;
mod storm;
