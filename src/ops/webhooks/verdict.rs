//! What a try means: delivered, to be tried again and when, or given up; and what it says of the target.
//!
//! Pure: time and chance are arguments. A try that fails a day or more after the first one is the last. An
//! answer that blames the request (4xx) or points elsewhere (3xx) is tried again all the same, since
//! receivers are mended, but says that the target works; only 410 is final. A target that asks for time
//! (`Retry-After` with 429 or 503) gets it for all that waits for it, within bounds.

use std::time::Duration;

use super::post::Reply;
use crate::model::{Delivery, Timestamp};
use crate::store::TryEnd;

/// The wait after a failed try: a random part of base × 2^n, up to the longest.
const WAIT_BASE: Duration = Duration::from_secs(5);
const WAIT_LONGEST: Duration = Duration::from_secs(60 * 60);
/// So that chance never makes a loop without a wait.
const WAIT_SHORTEST: Duration = Duration::from_secs(1);
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Of the target, for its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Works,
    Fails,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub end: TryEnd,
    /// For a person; None: delivered.
    pub error: Option<String>,
    pub health: Health,
    /// The target wants to be left alone until then.
    pub rest_until: Option<Timestamp>,
}

/// `roll` in 0..1 spreads the waits.
pub fn judge(reply: &Reply, delivery: &Delivery, now: Timestamp, roll: f64) -> Verdict {
    let (status, retry_after) = match reply {
        Reply::None(why) => {
            let end = again(delivery, now, wait(delivery.attempts, roll));
            return Verdict { end, error: Some(why.clone()), health: Health::Fails, rest_until: None };
        }
        Reply::Answer { status, retry_after } => (*status, retry_after.as_deref()),
    };
    let asked = retry_after.filter(|_| matches!(status, 429 | 503)).and_then(|text| asked_wait(text, now));
    let end = match status {
        200..=299 => TryEnd::Delivered,
        410 => TryEnd::GivenUp,
        _ => again(delivery, now, wait(delivery.attempts, roll).max(asked.unwrap_or_default())),
    };
    let note = match status {
        300..=399 => " (redirects are not followed)",
        410 => " (the receiver wants no more of these)",
        _ => "",
    };
    Verdict {
        end,
        error: (end != TryEnd::Delivered).then(|| format!("the receiver answered {}{note}", named(status))),
        health: if status >= 500 { Health::Fails } else { Health::Works },
        rest_until: asked.map(|wait| now.plus(wait)),
    }
}

fn named(status: u16) -> String {
    let reason = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

fn again(delivery: &Delivery, now: Timestamp, wait: Duration) -> TryEnd {
    let first = delivery.first_tried_at.unwrap_or(now);
    if now.since(first) >= GIVE_UP_AFTER { TryEnd::GivenUp } else { TryEnd::Again { at: now.plus(wait) } }
}

/// Full jitter.
fn wait(attempts: u32, roll: f64) -> Duration {
    let most = WAIT_BASE.saturating_mul(2_u32.saturating_pow(attempts)).min(WAIT_LONGEST);
    most.mul_f64(roll.clamp(0.0, 1.0)).max(WAIT_SHORTEST)
}

/// `Retry-After` in either of its forms, at most as long as the longest wait.
fn asked_wait(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
            Timestamp::from_millis(u64::try_from(date).ok()?).since(now)
        }
    };
    Some(wait.min(WAIT_LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counts, DeliveryId, DeliveryState, Facts, HookEvent, TaskId, delivery::TaskFacts};

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn delivery(attempts: u32, first_tried_at: Option<Timestamp>) -> Delivery {
        let facts = TaskFacts {
            id: TaskId::new(1),
            flow: "f".to_owned(),
            counts: Counts::default(),
            created_at: NOW,
            finished_at: None,
        };
        Delivery {
            id: DeliveryId::new(2),
            task: TaskId::new(1),
            item: None,
            event: HookEvent::TaskFinished,
            created_at: NOW,
            target: "https://host".to_owned(),
            facts: Facts::Task(facts),
            state: DeliveryState::Pending,
            attempts,
            next_at: NOW,
            first_tried_at,
            ended_at: None,
            last: None,
        }
    }

    fn judged(status: u16, retry_after: Option<&str>) -> Verdict {
        let reply = Reply::Answer { status, retry_after: retry_after.map(str::to_owned) };
        judge(&reply, &delivery(0, None), NOW, 1.0)
    }

    fn after(seconds: u64) -> TryEnd {
        TryEnd::Again { at: NOW.plus(Duration::from_secs(seconds)) }
    }

    #[test]
    fn an_answer_says_whether_it_was_delivered_and_whether_the_target_works() {
        for status in [200, 201, 204, 299] {
            let verdict = judged(status, None);
            assert_eq!((verdict.end, verdict.error, verdict.health), (TryEnd::Delivered, None, Health::Works));
        }
        for (status, end, health, text) in [
            (302, after(5), Health::Works, "302 Found (redirects are not followed)"),
            (400, after(5), Health::Works, "400 Bad Request"),
            (401, after(5), Health::Works, "401 Unauthorized"),
            (410, TryEnd::GivenUp, Health::Works, "410 Gone (the receiver wants no more of these)"),
            (429, after(5), Health::Works, "429 Too Many Requests"),
            (500, after(5), Health::Fails, "500 Internal Server Error"),
            (503, after(5), Health::Fails, "503 Service Unavailable"),
            (599, after(5), Health::Fails, "599"),
        ] {
            let verdict = judged(status, None);
            assert_eq!((verdict.end, verdict.health), (end, health), "{status}");
            assert_eq!(verdict.error.unwrap(), format!("the receiver answered {text}"));
            assert_eq!(verdict.rest_until, None);
        }
        let silent = judge(&Reply::None("no answer within 10 s".to_owned()), &delivery(0, None), NOW, 1.0);
        assert_eq!((silent.end, silent.health), (after(5), Health::Fails));
        assert_eq!(silent.error.as_deref(), Some("no answer within 10 s"));
    }

    #[test]
    fn a_target_that_asks_for_time_gets_it_within_bounds() {
        for (text, seconds) in [("0", 5), ("3", 5), ("120", 120), ("999999999", 3_600), (" 60 ", 60)] {
            for status in [429, 503] {
                assert_eq!(judged(status, Some(text)).end, after(seconds), "{text}");
            }
        }
        assert_eq!(judged(429, Some("120")).rest_until, Some(NOW.plus(Duration::from_secs(120))));
        let date = "Wed, 18 Nov 2026 11:08:50 GMT";
        let at: Timestamp = "2026-11-18T11:08:50Z".parse().unwrap();
        assert!(at > NOW && at.since(NOW) < Duration::from_secs(3_600), "{}", at.since(NOW).as_secs());
        assert_eq!(judged(503, Some(date)).end, TryEnd::Again { at });
        for (status, text) in [(500, "120"), (429, "soon"), (429, "-1"), (429, "Wed, 18 Nov 1926 11:08:50 GMT")] {
            assert_eq!(judged(status, Some(text)).end, after(5), "{status} {text}");
        }
        assert_eq!(judged(200, Some("120")).rest_until, None);
    }

    #[test]
    fn waits_double_up_to_an_hour_and_chance_takes_any_part() {
        let waits: Vec<_> = (0..12).map(|attempts| wait(attempts, 1.0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
        assert_eq!(wait(u32::MAX, 0.5).as_secs(), 1_800);
        assert_eq!(wait(9, 0.0), WAIT_SHORTEST);
    }

    #[test]
    fn a_try_that_fails_a_day_after_the_first_is_the_last() {
        let day = Duration::from_secs(24 * 60 * 60);
        let first = NOW;
        let reply = Reply::Answer { status: 500, retry_after: None };
        let end = |now| judge(&reply, &delivery(9, Some(first)), now, 0.0).end;
        let almost = first.plus(day.saturating_sub(Duration::from_millis(1)));
        assert_eq!(end(almost), TryEnd::Again { at: almost.plus(WAIT_SHORTEST) });
        assert_eq!(end(first.plus(day)), TryEnd::GivenUp);
        let delivered = Reply::Answer { status: 200, retry_after: None };
        let late = judge(&delivered, &delivery(9, Some(first)), first.plus(day * 9), 0.0);
        assert_eq!(late.end, TryEnd::Delivered);
    }
}
