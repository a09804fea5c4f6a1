//! Whether there is room for one more session: what was measured, what the settings allow, and what follows.
//!
//! `ops::resources` measures and says so with every look; the state machine asks, and says what it has started
//! itself ([`Load`]), since a browser takes its memory only some seconds after its start. Pure. Invariants: what
//! was not measured, or has no bound, holds nothing back; once something holds back, it lets go at a lower bound
//! than it began, so that a number that trembles around one bound does not open and shut the door each time.
//! Deliberately not here: what becomes of a session that is too large, which is `state::strain`'s.

use std::collections::BTreeMap;

use crate::config;
use crate::model::{ProfileId, WaitReason};

const MIB: u64 = 1024 * 1024;
/// Of the estimate: how much more than enough memory lets go again.
const MEMORY_MARGIN_PART: u64 = 4;
/// Of its bound, in eighths: where the processors let go again.
const CPU_LETS_GO_EIGHTHS: f64 = 7.0;
/// Of its bound: where a machine that stalled lets go again.
const STALL_LETS_GO: f64 = 0.5;

/// What the settings allow; zero is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub reserve_bytes: u64,
    /// Of a session that was not measured yet.
    pub estimate_bytes: u64,
    pub session_limit_bytes: u64,
    pub total_limit_bytes: u64,
    pub cpu_percent: u8,
    pub stall_percent: u8,
}

impl From<&config::Resources> for Bounds {
    fn from(config: &config::Resources) -> Self {
        let bytes = |mb: u64| mb.saturating_mul(MIB);
        let percent = |percent: u64| u8::try_from(percent).unwrap_or(100);
        Self {
            reserve_bytes: bytes(config.memory_reserve_mb),
            estimate_bytes: bytes(config.session_estimate_mb),
            session_limit_bytes: bytes(config.session_limit_mb),
            total_limit_bytes: bytes(config.total_limit_mb),
            cpu_percent: percent(config.cpu_threshold_percent),
            stall_percent: percent(config.memory_stall_percent),
        }
    }
}

/// The machine at one moment. None: it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// What programs can still get without swapping, also by the limits of the control groups.
    pub available_bytes: Option<u64>,
    /// Of all processors, over some ten seconds.
    pub cpu_percent: Option<f64>,
    /// Of the last ten seconds, how long nothing got on for want of memory.
    pub stall_percent: Option<f64>,
}

/// What the sessions take, each with its whole process tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Counts the looks, so that an old one is not taken for two.
    pub look: u64,
    pub bytes: BTreeMap<ProfileId, u64>,
    /// The most that one session took since the daemon started.
    pub peak_bytes: u64,
}

/// One report of the watch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    pub bounds: Bounds,
    pub machine: Machine,
    pub sessions: Weights,
}

/// What cove has started, as far as memory goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Started so lately that no measurement of the machine shows them.
    pub unseen: u64,
    /// All sessions, those that were not measured by their estimate.
    pub sessions_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    Memory,
    Cpu,
}

impl Scarce {
    #[must_use]
    pub const fn reason(self) -> WaitReason {
        match self {
            Self::Memory => WaitReason::NoMemory,
            Self::Cpu => WaitReason::NoCpu,
        }
    }
}

/// Why no session is started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub of: Scarce,
    /// For a person, with the numbers.
    pub why: String,
}

const fn mib(bytes: u64) -> u64 {
    bytes / MIB
}

/// Why not one more session fits. `was`: what was short the last time.
#[must_use]
pub fn shortage(pressure: &Pressure, load: &Load, was: Option<Scarce>) -> Option<Shortage> {
    let Pressure { bounds, machine, .. } = pressure;
    let memory = |why| Shortage { of: Scarce::Memory, why };
    let stands = was == Some(Scarce::Memory);
    let margin = if stands { bounds.estimate_bytes / MEMORY_MARGIN_PART } else { 0 };
    let available = || little_available(pressure, load, margin);
    let total = || over_the_total(bounds, load);
    let stall = || stalls(bounds, machine, stands);
    let cpu = || busy(bounds, machine, was == Some(Scarce::Cpu)).map(|why| Shortage { of: Scarce::Cpu, why });
    available().or_else(total).or_else(stall).map(memory).or_else(cpu)
}

/// How many more sessions fit into the memory, at once.
#[must_use]
pub fn room(pressure: &Pressure, load: &Load) -> u32 {
    let Pressure { bounds, machine, .. } = pressure;
    let estimate = bounds.estimate_bytes;
    let fit = |bytes: u64| bytes.checked_div(estimate).unwrap_or(u64::MAX);
    let available = match machine.available_bytes {
        Some(available) => fit(available.saturating_sub(bounds.reserve_bytes)).saturating_sub(load.unseen),
        None => u64::MAX,
    };
    let total = match bounds.total_limit_bytes {
        0 => u64::MAX,
        total => fit(total.saturating_sub(load.sessions_bytes)),
    };
    u32::try_from(available.min(total)).unwrap_or(u32::MAX)
}

fn little_available(pressure: &Pressure, load: &Load, margin: u64) -> Option<String> {
    let Bounds { reserve_bytes, estimate_bytes, .. } = pressure.bounds;
    let available = pressure.machine.available_bytes.filter(|_| estimate_bytes > 0)?;
    let wanted = estimate_bytes.saturating_mul(load.unseen + 1).saturating_add(margin);
    (available.saturating_sub(reserve_bytes) < wanted).then(|| {
        let (available, reserve, estimate) = (mib(available), mib(reserve_bytes), mib(estimate_bytes));
        let margin = match mib(margin) {
            0 => String::new(),
            margin => format!(" and {margin} more before anything goes on"),
        };
        let starting = match load.unseen {
            0 => String::new(),
            unseen => format!(", as each of the {unseen} that have just started"),
        };
        format!(
            "{available} MiB of memory are available, of which {reserve} stay in reserve; \
             a session is taken to need {estimate}{starting}{margin}"
        )
    })
}

/// While nothing of ours runs there is nothing to wait for: one session always fits. Without a margin: whatever starts
/// fills the total by its estimate at once, and where the total is that of so many sessions, as many are to run.
fn over_the_total(bounds: &Bounds, load: &Load) -> Option<String> {
    let (total, used) = (bounds.total_limit_bytes, load.sessions_bytes);
    let wanted = used.saturating_add(bounds.estimate_bytes);
    (total > 0 && used > 0 && wanted > total).then(|| {
        let (used, total, estimate) = (mib(used), mib(total), mib(bounds.estimate_bytes));
        format!(
            "the sessions take {used} MiB of the {total} that all may ([resources] total_limit_mb); \
             one more is taken to need {estimate}"
        )
    })
}

fn stalls(bounds: &Bounds, machine: &Machine, stands: bool) -> Option<String> {
    let stall = machine.stall_percent.filter(|_| bounds.stall_percent > 0)?;
    let bound = f64::from(bounds.stall_percent) * if stands { STALL_LETS_GO } else { 1.0 };
    (stall > bound).then(|| format!("the machine stood still for want of memory for {stall:.0} % of the last 10 s"))
}

fn busy(bounds: &Bounds, machine: &Machine, stands: bool) -> Option<String> {
    let cpu = machine.cpu_percent.filter(|_| bounds.cpu_percent > 0)?;
    let threshold = f64::from(bounds.cpu_percent);
    let bound = if stands { threshold * CPU_LETS_GO_EIGHTHS / 8.0 } else { threshold };
    (cpu > bound).then(|| {
        format!(
            "the processors of the machine are {cpu:.0} % in use, by whomever; the threshold is {threshold} % \
             ([resources] cpu_threshold_percent)"
        )
    })
}

#[cfg(test)]
mod tests;
