//! What the watch over the machine says: whether more may start, and what becomes of a session that takes too much.
//!
//! A session is too large when two measurements in a row, both begun after its start, are above its limit. Before
//! its commit point its attempt is asked to end, and fails counted; a click that may have happened is never
//! cut by a word, so there its browser is ended, as if it had been lost, and the outcome is unknown (fence.md
//! rule 8). Between the two nothing is done: arming is answered within a moment. A window that a person has open
//! is the person's own, and is left alone.

use super::{Owner, Phase, State};
use crate::engine::StrainView;
use crate::engine::event::{Act, AttemptEnd, Step};
use crate::engine::pressure::{self, Load, Pressure, Shortage};
use crate::model::{Failure, FailureCode, Fence};

const MIB: u64 = 1024 * 1024;
/// Reports of the machine, a few seconds apart, after which they show what a start took.
const SHOWS_AFTER_REPORTS: u32 = 5;

/// What the reports have said of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Weighed {
    reports: u32,
    /// Measurements of the sessions. The first may have begun before this one was started.
    looks: u32,
    /// It was too large in the last one.
    heavy: bool,
    /// It was ended for that.
    pub ended_for: Option<Failure>,
}

/// The last report, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Strain {
    pressure: Pressure,
    pub shortage: Option<Shortage>,
}

impl State {
    pub(super) fn pressed(&mut self, pressure: Pressure) -> Step {
        let is_new_look = pressure.sessions.look != self.strain.pressure.sessions.look;
        self.strain.pressure = pressure;
        let Pressure { bounds, sessions, .. } = &self.strain.pressure;
        let limit = Some(bounds.session_limit_bytes).filter(|limit| *limit > 0);
        let mut too_large = Vec::new();
        for (fence, running) in &mut self.running {
            let weighed = &mut running.weighed;
            weighed.reports = weighed.reports.saturating_add(1);
            if !is_new_look {
                continue;
            }
            weighed.looks = weighed.looks.saturating_add(1);
            let bytes = sessions.bytes.get(&running.profile).copied().unwrap_or(0);
            let over = limit.filter(|limit| weighed.looks > 1 && bytes > *limit);
            if let Some(limit) = over.filter(|_| weighed.heavy) {
                too_large.push((*fence, bytes, limit));
            }
            weighed.heavy = over.is_some();
        }
        let mut step = Step::default();
        for (fence, bytes, limit) in too_large {
            step = step.and(self.end_for_memory(fence, bytes, limit));
        }
        step
    }

    fn end_for_memory(&mut self, fence: Fence, bytes: u64, limit: u64) -> Step {
        let Some(running) = self.running.get_mut(&fence) else { return Step::default() };
        let told = format!(
            "its browser took {} MiB, more than the {} MiB of one session ([resources] session_limit_mb)",
            bytes / MIB,
            limit / MIB
        );
        let mut step = Step::default();
        match (&mut running.owner, running.phase) {
            (Owner::Operator(_) | Owner::Leftover, _) | (_, Phase::Arming | Phase::Ending | Phase::Closing) => {
                return step;
            }
            (Owner::Lent(loan), phase) => {
                // What is armed is a worker's, and its browser is lost to it as any other is.
                loan.ending |= phase == Phase::Unarmed;
                step.then.push(Act::ShutDoor { fence, why: told.clone() });
            }
            (Owner::Item { .. } | Owner::Verify { .. }, _) => {}
        }
        running.weighed.ended_for = Some(Failure::new(FailureCode::MemoryLimit, told));
        step.then.push(match running.phase {
            Phase::Armed => Act::EndBrowser { fence, profile: running.profile.clone() },
            _ => Act::Interrupt { fence },
        });
        // Whatever does not end is asked again after two more looks.
        running.weighed.heavy = false;
        step
    }

    /// The shortage as it is now. True: it is over.
    pub(super) fn weigh(&mut self) -> bool {
        let was = self.strain.shortage.as_ref().map(|shortage| shortage.of);
        self.strain.shortage = pressure::shortage(&self.strain.pressure, &self.load(), was);
        was.is_some() && self.strain.shortage.is_none()
    }

    /// How many more sessions may start by it.
    pub(super) fn room_for_sessions(&self) -> u32 {
        if self.strain.shortage.is_some() { 0 } else { pressure::room(&self.strain.pressure, &self.load()) }
    }

    fn load(&self) -> Load {
        let Pressure { bounds, sessions, .. } = &self.strain.pressure;
        let mut load = Load::default();
        for running in self.running.values().filter(|running| running.browser && running.phase != Phase::Closing) {
            let measured = sessions.bytes.get(&running.profile).copied();
            let unseen = running.weighed.reports < SHOWS_AFTER_REPORTS;
            load.unseen += u64::from(unseen);
            let least = if unseen { bounds.estimate_bytes } else { 0 };
            load.sessions_bytes += measured.map_or(bounds.estimate_bytes, |bytes| bytes.max(least));
        }
        load
    }

    pub(super) fn strain_view(&self) -> StrainView {
        let Strain { pressure, shortage } = &self.strain;
        StrainView {
            shortage: shortage.clone(),
            bounds: pressure.bounds,
            machine: pressure.machine,
            sessions_bytes: pressure.sessions.bytes.values().sum(),
            peak_bytes: pressure.sessions.peak_bytes,
        }
    }
}

/// The end of an attempt whose browser was ended for its size: what it met is that, unless it came to an end of its
/// own.
pub(super) fn because_of_memory(end: AttemptEnd, ended_for: Option<Failure>) -> AttemptEnd {
    let Some(failure) = ended_for else { return end };
    match end {
        AttemptEnd::Unarmed(met) if matches!(met.code, FailureCode::Canceled | FailureCode::BrowserLost) => {
            AttemptEnd::Unarmed(failure)
        }
        AttemptEnd::Unknown(met) if matches!(met.code, FailureCode::LostAfterCommit | FailureCode::BrowserLost) => {
            AttemptEnd::Unknown(Failure::new(failure.code, format!("{}; {}", failure.detail, met.detail)))
        }
        end => end,
    }
}
