//! The machine of the world: memory and processors that run short, and browsers that take too much.
//!
//! What is judged here: nothing is started while the last report says that there is no room; only what may have
//! clicked loses its browser by force, and what is lent is told why.

use cove::engine::event::{AttemptEnd, Event};
use cove::engine::pressure::{Bounds, Machine, Pressure, Weights};
use cove::model::{Failure, FailureCode, Fence};

use super::{Browser, Crash, PROFILES, World, id};

const MIB: u64 = 1024 * 1024;
const BOUNDS: Bounds = Bounds {
    reserve_bytes: 200 * MIB,
    estimate_bytes: 400 * MIB,
    session_limit_bytes: 1_000 * MIB,
    total_limit_bytes: 5_000 * MIB,
    cpu_percent: 80,
    stall_percent: 10,
};
/// Of a browser that takes too much, and of any other.
const HEAVY: u64 = 1_200 * MIB;
const LIGHT: u64 = 300 * MIB;

impl World {
    /// Two reports of a machine that is well or not; the second has a new look at the sessions.
    pub async fn report(&mut self) -> Result<(), Crash> {
        let machine = match self.dice.u8(..6) {
            0 => Machine { available_bytes: Some(599 * MIB), ..Machine::default() },
            1 => Machine { cpu_percent: Some(80.5), ..Machine::default() },
            2 => Machine { stall_percent: Some(10.5), ..Machine::default() },
            3 => Machine::default(),
            _ => Machine {
                available_bytes: Some(self.dice.u64(600..9_000) * MIB),
                cpu_percent: Some(20.0),
                stall_percent: Some(0.0),
            },
        };
        self.no_room = machine.available_bytes == Some(599 * MIB)
            || machine.cpu_percent > Some(80.0)
            || machine.stall_percent > Some(10.0);
        self.tally.held_back += u64::from(self.no_room);
        if self.chance(30) {
            let profile = id(PROFILES[self.dice.usize(..PROFILES.len())]);
            if !self.heavy.remove(&profile) {
                self.heavy.insert(profile);
            }
        }
        self.pressure = Pressure { bounds: BOUNDS, machine, ..self.pressure.clone() };
        self.turn(Event::Pressure(self.pressure.clone())).await?;
        let weight = |browser: &Browser| {
            let bytes = if self.heavy.contains(&browser.profile) { HEAVY } else { LIGHT };
            (browser.profile.clone(), bytes)
        };
        let bytes = self.browsers.values().map(weight).collect();
        self.pressure.sessions = Weights { look: self.pressure.sessions.look + 1, bytes, peak_bytes: 0 };
        self.turn(Event::Pressure(self.pressure.clone())).await
    }

    /// A browser is taken away behind the back of whoever drives it.
    pub fn cut(&mut self, fence: Fence) {
        let browser = self.browsers.get_mut(&fence).unwrap_or_else(|| panic!("{fence} has no browser to end"));
        assert!(self.heavy.contains(&browser.profile), "{browser:?} is ended and is not too large");
        assert!(browser.lent || browser.asked, "{browser:?} could have been asked to end");
        self.tally.ended_for_memory += 1;
        browser.cut = true;
    }

    /// The door of what is not lent is nobody's.
    pub fn shut(&mut self, fence: Fence) {
        let browser = self.browsers.get(&fence);
        assert!(browser.is_some_and(|browser| browser.lent), "{fence} is not lent: {browser:?}");
        self.tally.ended_for_memory += 1;
    }

    /// Its attempt finds its browser lost.
    pub async fn lost(&mut self, fence: Fence) -> Result<(), Crash> {
        let lost = Failure::new(FailureCode::BrowserLost, "made up");
        self.end(fence, AttemptEnd::Unknown(lost), None).await
    }
}
