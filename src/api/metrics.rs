//! Metrics: what the store and the engine know of themselves, as JSON and as Prometheus text.
//!
//! Both are made of one list of series. Invariant: labels are words of the program (states, reasons, kinds of
//! breakers), never ids or names, so that their number is bounded. Counters, histograms and timers of requests
//! and attempts are not gathered yet; those members are there and empty.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::ApiError;
use super::front::Call;
use super::waits::Waits;
use crate::breaker::board::Board;
use crate::breaker::{BreakerState, KINDS};
use crate::model::{ItemState, Job, JobResult, Timestamp, WaitReason};
use crate::ops::backup::{BackupView, Backups};
use crate::ops::maintenance::Maintenance;
use crate::ops::maintenance::plan::JobRow;
use crate::store::StoreStats;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the number may fall.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    /// It begins at zero with the process.
    Counter,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// One number with the words that tell it from its siblings.
struct Series {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: Vec<(&'static str, &'static str)>,
    value: f64,
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Series {
    Series { name, help, kind: Kind::Gauge, labels: Vec::new(), value }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
const fn count(number: u64) -> f64 {
    number as f64
}

async fn gather(context: &Context) -> Result<(Vec<Series>, StoreStats), ApiError> {
    let (stats, waits) = (context.store.stats().await?, Waits::look(context).await?);
    let (view, now) = (context.engine.view(), context.clock.now());
    let oldest = waits.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    let shut = view.breakers.shut_until().is_some();
    let mut series = vec![
        gauge("uptime_seconds", "Time since the daemon started.", context.started.elapsed().as_secs_f64()),
        gauge("active_tasks", "Attempts that run now.", f64::from(view.busy)),
        gauge("slots", "Attempts that may run at a time.", f64::from(view.slots)),
        gauge("tasks", "Tasks in the state file.", count(stats.tasks)),
        gauge("oldest_waiting_seconds", "Age of the item that waits longest.", oldest),
        gauge(
            "paused",
            "1 while nothing is started on a person's word or after a restore.",
            flag(view.pause.is_some()),
        ),
        gauge("provider_down", "1 while no browser can be started.", flag(view.provider_down.is_some() || shut)),
    ];
    for state in ItemState::ALL {
        let items = stats.items_by_state.iter().find(|(other, _)| *other == state).map_or(0, |(_, items)| *items);
        let labels = vec![("state", state.name())];
        series.push(Series { labels, ..gauge("items", "Items by state.", count(items)) });
    }
    // Also those that nobody waits for: a series that comes and goes cannot be watched.
    for reason in WaitReason::ALL {
        let items = waits.by_reason.get(&reason).map_or(0, |wait| wait.items);
        let labels = vec![("wait_reason", reason.name())];
        series.push(Series { labels, ..gauge("items_waiting", "Items that wait, by reason.", count(items)) });
    }
    series.extend(until(&waits));
    series.extend(breakers(&context.breakers, now));
    series.extend(snapshots(&context.backups.as_ref().map(Backups::view).unwrap_or_default()));
    if let Some(jobs) = &context.maintenance {
        series.extend(maintenance(jobs, &jobs.rows().await?));
    }
    Ok((series, stats))
}

/// The time only where there is one.
fn maintenance(jobs: &Maintenance, rows: &[JobRow]) -> Vec<Series> {
    const LAST_GOOD: &str = "When a job last succeeded, in seconds since 1970.";
    let mut series = Vec::new();
    for row in rows {
        if let Some(at) = row.last_success_at {
            let seconds = Duration::from_millis(at.as_millis()).as_secs_f64();
            let labels = vec![("job", row.job.name())];
            let last = gauge("maintenance_last_success_timestamp_seconds", LAST_GOOD, seconds);
            series.push(Series { labels, ..last });
        }
    }
    for job in Job::ALL {
        series.extend(JobResult::ALL.map(|result| Series {
            name: "maintenance_runs_total",
            help: "Runs of jobs since the start, by result.",
            kind: Kind::Counter,
            labels: vec![("job", job.name()), ("result", result.name())],
            value: count(jobs.runs(job, result)),
        }));
    }
    series
}

/// Only for reasons that have a time: zero would be one.
fn until(waits: &Waits) -> impl Iterator<Item = Series> {
    const HELP: &str = "When the first of the items that wait for this reason can go on, in seconds since 1970.";
    waits.by_reason.iter().filter_map(|(reason, wait)| {
        let seconds = Duration::from_millis(wait.until?.as_millis()).as_secs_f64();
        let labels = vec![("wait_reason", reason.name())];
        Some(Series { labels, ..gauge("items_waiting_until_seconds", HELP, seconds) })
    })
}

/// One series a kind, also of breakers that were not used yet. Targets have no names of their own here.
fn breakers(board: &Board, now: Timestamp) -> Vec<Series> {
    let (views, moves) = (board.view(now), board.moves());
    let mut states = Vec::new();
    let mut transitions = Vec::new();
    for kind in KINDS {
        let rank = |state| match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open { .. } => 2.0,
        };
        let ranks = views.iter().filter(|view| view.kind() == kind).map(|view| rank(view.state));
        let help = "0 closed, 1 half open, 2 open; of several breakers the worst.";
        states.push(Series { labels: vec![("name", kind)], ..gauge("breaker_state", help, ranks.fold(0.0, f64::max)) });
        for to in BreakerState::NAMES {
            let moved = moves.iter().find(|moves| moves.kind == kind && moves.to == to);
            transitions.push(Series {
                name: "breaker_transitions_total",
                help: "How often a breaker came into a state.",
                kind: Kind::Counter,
                labels: vec![("name", kind), ("to", to)],
                value: count(moved.map_or(0, |moved| moved.total)),
            });
        }
    }
    states.append(&mut transitions);
    states
}

/// The times only where there is one: zero would be one.
fn snapshots(backups: &BackupView) -> Vec<Series> {
    const LAST_MADE: &str = "When the newest snapshot was made, in seconds since 1970.";
    const LAST_GOOD: &str = "When a snapshot was last found good, in seconds since 1970.";
    let totals = [("success", backups.made), ("failure", backups.failed)].map(|(result, total)| Series {
        name: "snapshots_total",
        help: "Snapshots since the start, by result.",
        kind: Kind::Counter,
        labels: vec![("result", result)],
        value: count(total),
    });
    let seconds = |at: Timestamp| Duration::from_millis(at.as_millis()).as_secs_f64();
    let last = backups.last.as_ref().map(|last| last.created_at);
    let last = last.map(|at| gauge("snapshot_last_success_timestamp_seconds", LAST_MADE, seconds(at)));
    let good = backups.last_verified_at.map(|at| gauge("backup_last_verified_timestamp", LAST_GOOD, seconds(at)));
    totals.into_iter().chain(last).chain(good).collect()
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

pub async fn json(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let (series, stats) = gather(&context).await?;
    let of = |kind| -> Map<String, Value> {
        let of_kind = series.iter().filter(|series| series.kind == kind);
        of_kind.map(|series| (series.title(), json!(series.value))).collect()
    };
    let json = json!({
        "timestamp": context.clock.now(),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "counters": of(Kind::Counter),
        "gauges": of(Kind::Gauge),
        "histograms": {},
        "timers": {},
        "database_pools": {
            "readers": {"min": 0, "max": stats.readers_max, "in_use": stats.readers_in_use},
            "writer": {"queue": stats.writer_queue, "batch_p50": stats.batch_p50, "commit_p99_ms": stats.commit_p99_ms},
        },
    });
    Ok(body::json(StatusCode::OK, &json))
}

impl Series {
    /// `items{state="queued"}`
    fn title(&self) -> String {
        if self.labels.is_empty() {
            return self.name.to_owned();
        }
        let labels: Vec<_> = self.labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        format!("{}{{{}}}", self.name, labels.join(","))
    }
}

fn text(all: &[Series]) -> String {
    let mut text = String::new();
    let mut last = "";
    for series in all {
        if series.name != last {
            let (name, help, kind) = (series.name, series.help, series.kind.name());
            writeln!(text, "# HELP cove_{name} {help}\n# TYPE cove_{name} {kind}").expect("a String takes all");
            last = name;
        }
        writeln!(text, "cove_{} {}", series.title(), series.value).expect("a String takes all");
    }
    text
}

pub async fn prometheus(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let (series, _) = gather(&context).await?;
    let mut response = Response::new(body::full(text(&series)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::waits::Wait;
    use crate::breaker::{BreakerLimits, CDP_ATTACH};

    #[test]
    fn one_head_a_name_and_one_line_a_series() {
        let items =
            |state, value| Series { labels: vec![("state", state)], ..gauge("items", "Items by state.", value) };
        let series = [gauge("slots", "Attempts at a time.", 4.0), items("queued", 3.0), items("failed", 0.0)];
        let expected = "# HELP cove_slots Attempts at a time.\n# TYPE cove_slots gauge\ncove_slots 4\n\
            # HELP cove_items Items by state.\n# TYPE cove_items gauge\n\
            cove_items{state=\"queued\"} 3\ncove_items{state=\"failed\"} 0\n";
        assert_eq!(text(&series), expected);
    }

    #[test]
    fn a_reason_with_a_time_tells_it_in_seconds_and_one_without_is_left_out() {
        let wait = |until| Wait { items: 2, until };
        let by_reason = [
            (WaitReason::NoSlot, wait(None)),
            (WaitReason::OutcomeUnknown, wait(Some(Timestamp::from_millis(1_795_000_000_500)))),
        ];
        let waits = Waits { by_reason: by_reason.into(), oldest: None };
        let text = text(&until(&waits).collect::<Vec<_>>());
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let line = "cove_items_waiting_until_seconds{wait_reason=\"outcome_unknown\"} 1795000000.5";
        assert_eq!(series, [line]);
    }

    #[test]
    fn breakers_have_a_fixed_number_of_series_and_targets_are_one_kind() {
        let board = Board::new(BreakerLimits { failures: 1, open: Duration::from_secs(60), trials: 1 });
        let now = Timestamp::ZERO;
        let fresh = breakers(&board, now);
        assert_eq!(fresh.len(), KINDS.len() * 4);
        assert!(fresh.iter().all(|series| series.value == 0.0));
        board.succeeded("webhook https://a", now);
        board.failed("webhook https://b", now, "gone");
        board.failed("webhook https://c", now, "gone");
        board.failed(CDP_ATTACH, now, "gone");
        let later = Timestamp::from_millis(60_000);
        board.admit(CDP_ATTACH, later).unwrap();
        board.succeeded(CDP_ATTACH, later);
        let text = text(&breakers(&board, Timestamp::from_millis(1_000)));
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), fresh.len(), "{text}");
        for line in [
            "# TYPE cove_breaker_transitions_total counter",
            "cove_breaker_state{name=\"webhook\"} 2",
            "cove_breaker_state{name=\"cdp_attach\"} 0",
            "cove_breaker_transitions_total{name=\"webhook\",to=\"open\"} 2",
            "cove_breaker_transitions_total{name=\"cdp_attach\",to=\"half_open\"} 1",
            "cove_breaker_transitions_total{name=\"cdp_attach\",to=\"closed\"} 1",
            "cove_breaker_transitions_total{name=\"dolphin\",to=\"open\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
