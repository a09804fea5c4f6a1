//! SKELETON of the browser host room.
