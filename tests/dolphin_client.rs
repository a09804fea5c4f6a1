//! The provider of Dolphin Anty against its simulator: every row of the error table, every fault, bad peers.
//!
//! Section numbers are those of the reference of the Local API; the simulator's README says what it makes up.
//! Each case asserts the answer's code, how often was called, and that no browser is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "dolphin_client/errors.rs"]
mod errors;
#[path = "dolphin_client/fake.rs"]
mod fake;
#[path = "dolphin_client/foreign.rs"]
mod foreign;
#[path = "dolphin_client/lists.rs"]
mod lists;
#[path = "dolphin_client/ordinary.rs"]
mod ordinary;
#[path = "dolphin_client/peers.rs"]
mod peers;
#[path = "dolphin_client/remains.rs"]
mod remains;
#[path = "dolphin_client/rig.rs"]
mod rig;
#[path = "dolphin_client/stops.rs"]
mod stops;
