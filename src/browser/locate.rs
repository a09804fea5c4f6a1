//! SKELETON of the flow room.
