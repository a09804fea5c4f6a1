//! SKELETON: composes, spawns, drains.
