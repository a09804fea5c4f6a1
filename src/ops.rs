//! What runs beside the engine and decides nothing about items.
//!
//! The daemon spawns each part and ends it; a part shows itself through what the engine and the API read.

pub mod disk;
