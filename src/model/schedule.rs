//! When something is to be done: a cron expression, read on the clock of a time zone.
//!
//! Named by the configuration, which refuses what is none, and by the maintenance. The only file that knows
//! croner. Pure: time enters as an argument. Where clocks are put forward, a time that is left out is made up for
//! right after; where they are put back, a schedule of a fixed hour comes once and one that goes by intervals goes
//! on through both hours. Not here: who runs what, and what was missed.

use std::cmp::Ordering;
use std::fmt;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, ZonedDateTime};

use super::Timestamp;

/// What an expression may be, for messages.
pub const ALLOWED_SCHEDULES: &str = "a cron expression of five fields that some day fits, such as \"*/15 * * * *\" or \
                                     \"0 3 * * *\" (minute, hour, day of month, month, day of week), or \"off\"";
/// What a time zone may be.
pub const ALLOWED_TIME_ZONES: &str = "a name of the time zone database, such as Europe/Berlin or UTC, or empty text \
                                      for the system's";
/// The word for none; so is empty text.
const OFF: &str = "off";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is {ALLOWED_SCHEDULES}")]
pub struct NotASchedule;

/// A cron expression that some day fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

impl Schedule {
    /// None: it is switched off.
    pub fn parse(text: &str) -> Result<Option<Self>, NotASchedule> {
        let text = text.trim();
        if text.is_empty() || text == OFF {
            return Ok(None);
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|_| NotASchedule)?;
        let schedule = Self { text: text.to_owned(), cron };
        match schedule.next(Timestamp::ZERO, &Zone::utc()) {
            Some(_) => Ok(Some(schedule)),
            None => Err(NotASchedule),
        }
    }

    /// The first time after `after`; None: none that this calendar has.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &Zone) -> Option<Timestamp> {
        // To the second: cron knows nothing smaller.
        let second = i64::try_from(after.as_millis() / 1_000).ok()?;
        let from = jiff::Timestamp::from_second(second).ok()?.to_zoned_datetime(zone.0.clone());
        let Local(found) = self.cron.find_next_occurrence(&Local(from), false).ok()?;
        u64::try_from(found.timestamp().as_millisecond()).ok().map(Timestamp::from_millis)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    #[must_use]
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// By its name. None: nobody knows it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// The system's; UTC where that cannot be told.
    #[must_use]
    pub fn system() -> Self {
        TimeZone::try_system().map_or_else(|_| Self::utc(), Self)
    }

    /// Empty where it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or_default()
    }
}

/// Teaches croner jiff's times.
#[derive(Clone)]
struct Local(ZonedDateTime);

fn small<N: TryFrom<u32>>(number: u32) -> Result<N, CronError> {
    N::try_from(number).map_err(|_| CronError::InvalidDate)
}

fn datetime(civil: CivilDateTime) -> Result<DateTime, CronError> {
    let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
    let (month, day) = (small(civil.month())?, small(civil.day())?);
    let (hour, minute, second) = (small(civil.hour())?, small(civil.minute())?, small(civil.second())?);
    DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| CronError::InvalidDate)
}

/// jiff's parts are never negative, save the year.
fn part(number: i8) -> u32 {
    u32::from(number.unsigned_abs())
}

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let local = self.0.datetime();
        let date = CivilDate::from_parts_unchecked(i32::from(local.year()), part(local.month()), part(local.day()));
        let time = CivilTime::from_parts_unchecked(part(local.hour()), part(local.minute()), part(local.second()));
        CivilDateTime::new(date, time)
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(part(self.0.weekday().to_sunday_zero_offset()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let invalid = |_| CronError::InvalidTime;
        let found = self.0.time_zone().to_ambiguous_zoned_datetime(datetime(civil)?);
        Ok(match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(Self(found.unambiguous().map_err(invalid)?)),
            AmbiguousOffset::Fold { .. } => {
                let earlier = found.clone().earlier().map_err(invalid)?;
                Resolution::Ambiguous(Self(earlier), Self(found.later().map_err(invalid)?))
            }
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::{Schedule, Zone};
    use crate::model::Timestamp;

    /// All times from one to another.
    fn all(schedule: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let (schedule, zone) = (Schedule::parse(schedule).unwrap().unwrap(), Zone::named(zone).unwrap());
        let (mut now, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
        let mut times = Vec::new();
        while let Some(next) = schedule.next(now, &zone).filter(|next| *next <= to) {
            times.push(next.to_string());
            now = next;
        }
        times
    }

    #[test]
    fn what_is_no_schedule_is_refused_and_off_is_none() {
        for off in ["", " ", "off"] {
            assert_eq!(Schedule::parse(off), Ok(None));
        }
        for good in ["*/15 * * * *", "0 3 * * *", "0 3 * * MON-FRI", "0 0 1 1,7 *", "0 0 29 2 *"] {
            assert_eq!(Schedule::parse(good).unwrap().unwrap().to_string(), good);
        }
        for bad in ["soon", "* * * *", "* * * * * *", "60 * * * *", "0 24 * * *", "0 0 30 2 *", "0 0 * * * 2030"] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
        assert!(Zone::named("Mars/Olympus").is_none());
    }

    #[test]
    fn an_hour_is_that_of_the_time_zone() {
        let berlin = all("0 3 * * *", "Europe/Berlin", "2026-11-30T00:00:00Z", "2026-12-01T23:00:00Z");
        assert_eq!(berlin, ["2026-11-30T02:00:00.000Z", "2026-12-01T02:00:00.000Z"]);
        let utc = all("30 3 * * *", "UTC", "2026-11-30T03:30:00.900Z", "2026-12-01T23:00:00Z");
        assert_eq!(utc, ["2026-12-01T03:30:00.000Z"]);
    }

    #[test]
    fn a_fixed_hour_comes_once_a_day_also_when_it_is_left_out_or_comes_twice() {
        // Clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2026-10-25.
        let forward = all("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(forward.len(), 2, "{forward:?}");
        assert_eq!(forward[0], "2026-03-29T01:00:00.000Z", "as soon as there is a time again");
        let back = all("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(back, ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]);
    }

    #[test]
    fn intervals_go_on_through_the_hours_that_are_left_out_or_come_twice() {
        let forward = all("*/15 * * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        assert_eq!(forward.len(), 23 * 4);
        let back = all("*/15 * * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        assert_eq!(back.len(), 25 * 4);
    }
}
