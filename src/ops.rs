//! What runs beside the engine and decides nothing about items.
//!
//! The daemon spawns each part and ends it; a part speaks to the store and to the outside, and shows itself
//! through handles that the API reads. Whatever a part does is done in small steps, so that the writer's
//! thread is never held for long.

pub mod announce;
pub mod backup;
pub mod disk;
pub mod maintenance;
pub mod resources;
pub mod retention;
pub mod roster;
pub mod sampler;
pub mod webhooks;
