//! SKELETON of the command room: the log of one process.
