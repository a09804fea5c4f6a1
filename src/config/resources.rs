//! What may be taken of the machine: the section `[resources]`.
//!
//! Read by the engine's admission, by the watch over the machine and by the disk guard. Zero switches a limit off,
//! so that a machine whose numbers mean nothing (a test's, a container's) can do without it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// With less than this free where the state directory is, nothing new is started or accepted. In MiB.
    pub disk_reserve_mb: u64,
    /// Of the memory that is available, in MiB: no session is started from it.
    pub memory_reserve_mb: u64,
    /// What a session is taken to need, in MiB, until it has been measured; 0: memory is not looked at before a start.
    pub session_estimate_mb: u64,
    /// Of one session's process tree, in MiB; 0: none.
    pub session_limit_mb: u64,
    /// Of all sessions together, in MiB; 0: none.
    pub total_limit_mb: u64,
    /// Of all processors, whoever uses them; 0 or 100: they are not looked at before a start.
    pub cpu_threshold_percent: u64,
    /// Of the time, how long nothing on the machine got on for want of memory; 0: not looked at.
    pub memory_stall_percent: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            disk_reserve_mb: 256,
            memory_reserve_mb: 256,
            session_estimate_mb: 512,
            session_limit_mb: 2_048,
            total_limit_mb: 0,
            cpu_threshold_percent: 80,
            memory_stall_percent: 10,
        }
    }
}
