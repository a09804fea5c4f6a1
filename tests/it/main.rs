//! cove from outside: a real daemon, a real state file, real Chromium, the practice site.
//!
//! One binary. Every test has its own daemon on port 0 in its own folder, and ends what it started.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boot;
mod borrowers;
mod breakers;
mod claims;
mod command_line;
mod described;
mod description;
mod disk;
mod doctor;
mod events;
mod fence;
mod guards;
mod http;
mod kept;
mod kill;
mod leak;
mod lock_history;
mod locks;
mod maintenance;
mod metrics;
mod nginx;
mod publish;
mod queue;
mod refusals;
mod refusals_queue;
mod resources;
mod rig;
mod sessions;
mod snapshots;
mod studio;
mod systemd;
mod tokens;
mod waits;
mod webhooks;
mod websocket;
mod worker;
