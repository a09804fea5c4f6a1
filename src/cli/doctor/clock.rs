//! The clock: is it sane, is it kept, and does it agree with what the state file last saw?
//!
//! Schedules and "not before" times go by it. Whether it is synchronised is asked of systemd, as the daemon
//! does; where nothing can be told, that is said.

use std::time::Duration;

use super::command;
use super::line::Line;
use crate::model::{Moment, Timestamp};
use crate::store::ClockMark;

/// No cove is older.
const EARLIEST_MS: u64 = 1_767_225_600_000;
/// As the engine: a wall clock that is further from where it should be has jumped.
const MOST_STEP: Duration = Duration::from_secs(600);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// None: nothing here can tell.
pub async fn is_synchronised() -> Option<bool> {
    let said =
        command::output("timedatectl", &["show", "--property=NTPSynchronized", "--value"], ANSWER_WITHIN).await?;
    match said.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// `mark`: of a state file that no daemon holds; a daemon that runs watches its clock itself.
pub fn judge(now: Moment, synchronised: Option<bool>, mark: Option<ClockMark>) -> Line {
    const NAME: &str = "clock";
    let set = "set it, and have it kept: `sudo timedatectl set-ntp true`";
    let wall = now.wall;
    if wall < Timestamp::from_millis(EARLIEST_MS) {
        return Line::error(NAME, format!("it says {wall}, which is before cove was made"), set);
    }
    if let Some(ClockMark { believed, suspect_since: _ }) = mark
        && believed.wall.since(wall) > MOST_STEP
    {
        return Line::error(
            NAME,
            format!("it says {wall}, and the state file was written at {}, which is later", believed.wall),
            set,
        );
    }
    if let Some(ClockMark { believed, suspect_since }) = mark
        && believed.boot_id == now.boot_id
    {
        let expected = believed.wall.plus(now.boot.since(believed.boot));
        if wall.since(expected) > MOST_STEP || suspect_since.is_some_and(|_| synchronised != Some(true)) {
            let found = format!(
                "it says {wall}, and by the machine's uptime it should be {expected}: what comes due by it is held"
            );
            return Line::warning(NAME, found, "correct it, or believe it: `cove resume`");
        }
    }
    match synchronised {
        Some(true) => Line::ok(NAME, format!("{wall}, synchronised")),
        Some(false) => Line::warning(
            NAME,
            format!("{wall}, not synchronised: schedules run as wrong as it goes"),
            "`sudo timedatectl set-ntp true`",
        ),
        None => Line::warning(
            NAME,
            format!("{wall}; whether it is synchronised cannot be told here (timedatectl does not answer)"),
            "see that something keeps it: systemd-timesyncd or chrony, or the host of this container",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;
    use crate::model::{BootId, BootTime};

    fn at(wall_s: u64, boot_s: u64, boot_id: u128) -> Moment {
        let base = Timestamp::from_millis(EARLIEST_MS + 86_400_000);
        Moment {
            wall: base.plus(Duration::from_secs(wall_s)),
            boot: BootTime::from_millis(boot_s * 1_000),
            boot_id: BootId::new(boot_id),
        }
    }

    #[test]
    fn a_clock_is_kept_or_says_what_is_wrong_with_it() {
        let now = at(10_000, 5_000, 1);
        let mark = |believed, suspect: bool| Some(ClockMark { believed, suspect_since: suspect.then_some(now.wall) });
        assert_eq!(judge(now, Some(true), None).status, Status::Ok);
        assert_eq!(judge(now, Some(false), None).status, Status::Warning);
        assert_eq!(judge(now, None, None).status, Status::Warning);
        let old = Moment { wall: Timestamp::ZERO, ..now };
        assert_eq!(judge(old, Some(true), None).status, Status::Error);
        let agreeing = at(9_000, 4_000, 1);
        assert_eq!(judge(now, Some(true), mark(agreeing, false)).status, Status::Ok);
        assert_eq!(judge(now, Some(true), mark(at(11_000, 4_000, 9), false)).status, Status::Error, "back in time");
        assert_eq!(judge(now, Some(true), mark(at(8_000, 4_000, 1), false)).status, Status::Warning, "a jump ahead");
        assert_eq!(judge(now, Some(true), mark(at(8_000, 4_000, 2), false)).status, Status::Ok, "another boot");
        assert_eq!(judge(now, None, mark(agreeing, true)).status, Status::Warning);
        assert_eq!(judge(now, Some(true), mark(agreeing, true)).status, Status::Ok, "the engine asks the same");
    }
}
