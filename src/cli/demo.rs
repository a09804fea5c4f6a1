//! Demo (to be written).
