//! The command line. Placeholder in this branch: the command room owns this file.

pub mod demo;
pub mod practice;
pub mod remote;
