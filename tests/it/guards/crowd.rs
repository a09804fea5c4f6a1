//! H1: a crowd of peers that hold connections open in every way, and an honest one among them.
//!
//! In small here; `cargo bench --bench figures -- crowd` has the whole of it, with its figures.
