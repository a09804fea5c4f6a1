//! cove: publishing from your own machine, unattended, without an accident.
//!
//! # Code map
//!
//! A module names only modules of a lower rank; equal ranks never name each other.
//! `tests/architecture.rs` reads the sources and fails on a breach.
//!
//! | rank | room | what it owns |
//! |---|---|---|
//! | 0 | [`model`] | pure words: tasks, items, locks, profiles, flows, failures, time |
//! | 1 | [`breaker`] | what keeps failing is left alone for a while; pure, with a board that all rooms share |
//! | 1 | [`config`] | the settings of one process |
//! | 1 | [`meter`] | what the process counts and times of itself; every room that has the store has it |
//! | 1 | [`outbound`] | HTTP clients and the one TLS stack of this process |
//! | 2 | [`store`] | the state file, the ledger, the media folder: the only place that knows redb and bincode |
//! | 2 | [`browser`] | profiles, sessions, replay, evidence: the only place that knows chromiumoxide |
//! | 2 | [`telemetry`] | the log of one process |
//! | 3 | [`engine`] | decides: a pure state machine, and the loop around it |
//! | 4 | [`ops`] | what runs beside the engine: the sender of webhooks, retention, snapshots, the sampler, the guards of disk, memory and processors |
//! | 5 | [`api`] | the only place that knows hyper, save the practice site |
//! | 6 | [`daemon`] | composes, spawns, drains |
//! | 7 | [`cli`] | the command line, the demo, and the demo's practice site, which is a hyper server of its own |
//!
//! # How data flows
//!
//! ```text
//! HTTP --parse--> model --store (intent)--> redb --bell (carries no data)--> engine loop
//! engine loop: Event -> State::apply -> Step{commit, then} -> store (progress) -> act(then)
//! act: attempt -> provider.start -> steps -> evidence -> one end {fence, outcome}, as an Event
//! store (progress and its outbox row, one commit) --bell--> ops::webhooks --https--> the receiver
//! ```
//!
//! # Invariants
//!
//! 1. Every stored field has one writer: the API writes intent, the engine writes progress.
//! 2. Nothing is started before the commit that allows it has returned; the click is no exception.
//! 3. An event with an old fence changes nothing.
//! 4. Boot is recovery, then the ordinary loop. There is no second path.
//! 5. Every index can be rebuilt from its primary table, and a check compares them.
//! 6. Every queue, body, page, file and wait has a bound from the configuration.
//! 7. Time and ids enter as arguments; `engine::state`, `engine::admission` and `breaker` are synchronous and pure.
//! 8. An HTTP handler never waits for a browser to come up. The one exception: the way into a lent session, which is
//!    its WebSocket upgrade, and the `/json/version` that leads clients to it and has to name the browser.
//! 9. Nothing secret has `Debug`, and nothing secret is logged.
//! 10. The store speaks operations, never tables.

pub mod api;
pub mod breaker;
pub mod browser;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod meter;
pub mod model;
pub mod ops;
pub mod outbound;
pub mod store;
pub mod telemetry;
