//! What keeps the house clean while nobody looks.
//!
//! Each part is a loop of its own, spawned by the daemon; it reads and writes through the store's operations
//! and decides nothing about what runs. Invariant: whatever a part does is done in small steps, so that
//! the writer's thread is never held for long.

pub mod retention;
