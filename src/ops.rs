//! What runs beside the engine and decides nothing about items.
//!
//! The daemon spawns each part and ends it; a part speaks to the store and to the outside, and shows itself
//! through handles that the API reads. Only [`webhooks`] is built yet; resources, health, maintenance and
//! snapshots have their room here.

pub mod webhooks;
