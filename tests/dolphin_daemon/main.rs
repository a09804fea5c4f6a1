//! The daemon and a Dolphin Anty on the same machine: what an operator sees of every bad day it has, and that
//! nothing is left behind by any of them.
//!
//! Dolphin is the simulator in `tests/dolphin`, with real Chromium behind its profiles; the site is the
//! practice site. `faults.rs` goes through the faults one by one, `soak.rs` through a mixture by chance.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../it/description.rs"]
mod description;
#[path = "../it/rig.rs"]
#[allow(dead_code, reason = "the rig is shared with the other tests of the daemon")]
mod rig;

mod faults;
mod rounds;
mod simulator;
mod soak;
