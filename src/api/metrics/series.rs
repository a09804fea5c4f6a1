//! The numbers of now, one [`Series`] each: read where they are true, when somebody asks.
//!
//! Called by the handlers of the metrics and, once a minute, for their history. Invariant: series of one name
//! stand together, since Prometheus wants one head for them.

use std::path::Path;
use std::time::Duration;

use crate::api::error::ApiError;
use crate::api::usage::{self, Own};
use crate::api::waits::Waits;
use crate::api::{Context, off_runtime};
use crate::breaker::board::Board;
use crate::breaker::{BreakerState, KINDS};
use crate::config::ProviderKind;
use crate::engine::{StrainView, View};
use crate::meter::Counted;
use crate::model::{ItemState, Job, JobResult, TaskState, Timestamp, WaitReason};
use crate::ops::backup::{BackupView, Backups};
use crate::ops::maintenance::Maintenance;
use crate::ops::maintenance::plan::JobRow;
use crate::store::{LEDGER_FILE, STATE_FILE, StoreStats, Waiting};

/// Whether the number may fall.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// It begins at zero with the process.
    Counter,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// The JSON has units that people read, Prometheus base units.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Both,
    Json,
    Text,
}

impl Shown {
    pub fn in_json(self) -> bool {
        self != Self::Text
    }

    pub fn in_text(self) -> bool {
        self != Self::Json
    }
}

/// One number with the words that tell it from its siblings.
pub struct Series {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: Vec<(&'static str, &'static str)>,
    /// Whole numbers from 100 to 999 as text; the one label that is no word.
    pub status: Option<u16>,
    pub value: f64,
    pub shown: Shown,
}

pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Series {
    Series { name, help, kind: Kind::Gauge, labels: Vec::new(), status: None, value, shown: Shown::Both }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Series {
    Series { kind: Kind::Counter, ..gauge(name, help, count(value)) }
}

impl Series {
    pub fn in_json_alone(self) -> Self {
        Self { shown: Shown::Json, ..self }
    }

    fn in_text_alone(self) -> Self {
        Self { shown: Shown::Text, ..self }
    }

    fn with(mut self, label: &'static str, word: &'static str) -> Self {
        self.labels.push((label, word));
        self
    }

    /// `items{state="queued"}`
    pub fn title(&self) -> String {
        let mut labels: Vec<_> = self.labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        labels.extend(self.status.map(|status| format!("status=\"{status}\"")));
        if labels.is_empty() { self.name.to_owned() } else { format!("{}{{{}}}", self.name, labels.join(",")) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
const fn count(number: u64) -> f64 {
    number as f64
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

/// Everything that the metrics show.
pub struct Gathered {
    pub series: Vec<Series>,
    pub stats: StoreStats,
    pub counted: Counted,
}

pub async fn gather(context: &Context) -> Result<Gathered, ApiError> {
    let now = context.clock.now();
    let (stats, waits) = (context.store.stats().await?, Waits::look(context).await?);
    let waiting = context.store.waiting(now).await?;
    let (own, cpu_percent) = usage::own(context).await?;
    let folder = context.state_dir.clone();
    let disk = off_runtime(move || Disk::look(&folder)).await?;
    let (view, counted) = (context.engine.view(), context.store.meter().read());
    let oldest = waits.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    let uptime = context.started.elapsed().as_secs_f64();
    let mut series = vec![
        gauge("uptime_seconds", "Time since the daemon started.", uptime),
        gauge("oldest_waiting_seconds", "Age of the item that waits longest.", oldest),
        gauge("tasks", "Tasks in the state file.", count(stats.tasks)),
    ];
    series.extend(engine(&view));
    series.extend(process(&own, cpu_percent));
    series.extend(disk.series());
    series.extend(strain(&view.strain, context.config.browser.provider));
    series.extend(items(&stats, &waits, &waiting));
    series.extend(until(&waits));
    series.extend(breakers(&context.breakers, now));
    series.extend(snapshots(&context.backups.as_ref().map(Backups::view).unwrap_or_default()));
    if let Some(jobs) = &context.maintenance {
        series.extend(maintenance(jobs, &jobs.rows().await?));
    }
    series.extend(counters(&counted));
    Ok(Gathered { series, stats, counted })
}

fn engine(view: &View) -> [Series; 6] {
    const PAUSED: &str = "1 while nothing is started on a person's word or after a restore.";
    const SUSPECT: &str = "1 while the wall clock is not believed.";
    let down = view.provider_down.is_some() || view.breakers.shut_until().is_some();
    [
        gauge("active_tasks", "Attempts that run now.", f64::from(view.busy)),
        gauge("slots", "Attempts that may run at a time.", f64::from(view.slots)),
        gauge("paused", PAUSED, flag(view.pause.is_some())),
        gauge("draining", "1 while the daemon stops.", flag(view.draining)),
        gauge("provider_down", "1 while no browser can be started.", flag(down)),
        gauge("clock_suspect", SUSPECT, flag(view.clock_suspect)),
    ]
}

fn process(own: &Own, cpu_percent: Option<f64>) -> Vec<Series> {
    const CPU: &str = "Of one processor, since the last look.";
    let threads = u64::try_from(own.threads).unwrap_or(u64::MAX);
    let files = u64::try_from(own.fds).unwrap_or(u64::MAX);
    let cpu = cpu_percent.map(|percent| gauge("cpu_usage_percent", CPU, percent).in_json_alone());
    let memory_mb = usage::megabytes(own.memory_bytes);
    let mut series = vec![
        gauge("memory_usage_mb", "The daemon's own memory.", memory_mb).in_json_alone(),
        gauge("memory_usage_bytes", "The daemon's own memory.", count(own.memory_bytes)).in_text_alone(),
        gauge("threads", "The daemon's threads.", count(threads)),
        gauge("open_files", "The daemon's file descriptors.", count(files)),
        Series {
            kind: Kind::Counter,
            ..gauge("cpu_seconds_total", "The daemon's own processor time.", own.cpu_seconds)
        },
    ];
    series.extend(cpu);
    series
}

/// The machine and the sessions, as the watch last saw them. Estimate and peak are told by the kind of browsers.
fn strain(strain: &StrainView, provider: ProviderKind) -> Vec<Series> {
    const ESTIMATE: &str = "What a session is taken to need before it is measured.";
    const PEAK: &str = "The most that one session took since the start.";
    let of_kind = |name, help, bytes| gauge(name, help, count(bytes)).with("provider", provider.name());
    let machine = &strain.machine;
    let part = |name, help, percent: Option<f64>| Some(gauge(name, help, percent? / 100.0));
    let told = [
        machine.available_bytes.map(|bytes| {
            gauge("machine_memory_available_bytes", "What sessions may still get of the memory.", count(bytes))
        }),
        part("machine_cpu_ratio", "Use of all processors over some ten seconds, by whomever.", machine.cpu_percent),
        part("machine_memory_stall_ratio", "How long nothing got on for want of memory.", machine.stall_percent),
    ];
    let mut series = vec![
        of_kind("session_memory_estimate_bytes", ESTIMATE, strain.bounds.estimate_bytes),
        of_kind("session_peak_memory_bytes", PEAK, strain.peak_bytes),
        gauge("sessions_memory_bytes", "What all sessions take.", count(strain.sessions_bytes)),
    ];
    series.extend(told.into_iter().flatten());
    series
}

/// What the state takes, and what is left for it; None: it cannot be told.
#[expect(clippy::struct_field_names, reason = "a unit belongs to each")]
struct Disk {
    state_bytes: Option<u64>,
    ledger_bytes: Option<u64>,
    free_bytes: Option<u64>,
}

impl Disk {
    fn look(folder: &Path) -> Self {
        let bytes = |name| folder.join(name).metadata().ok().map(|file| file.len());
        let free = rustix::fs::statvfs(folder).ok();
        let free_bytes = free.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { state_bytes: bytes(STATE_FILE), ledger_bytes: bytes(LEDGER_FILE), free_bytes }
    }

    fn series(&self) -> impl Iterator<Item = Series> {
        let all = [
            ("state_file_bytes", "Size of the state file.", self.state_bytes),
            ("ledger_file_bytes", "Size of the publish ledger.", self.ledger_bytes),
            ("disk_free_bytes", "Free where the state directory lies.", self.free_bytes),
        ];
        all.into_iter().filter_map(|(name, help, bytes)| Some(gauge(name, help, count(bytes?))))
    }
}

/// The state that an item is in while it waits for this reason; those of a paused task may be in two.
const fn state_of(reason: WaitReason) -> ItemState {
    match reason {
        WaitReason::RetryBackoff => ItemState::RetryWait,
        WaitReason::HeldAfterRestore | WaitReason::ClockSuspect => ItemState::Held,
        WaitReason::OutcomeUnknown => ItemState::OutcomeUnknown,
        _ => ItemState::Queued,
    }
}

fn items(stats: &StoreStats, waits: &Waits, waiting: &Waiting) -> Vec<Series> {
    const DEPTH: &str = "Items that wait, by state and reason.";
    let of = |state| stats.items_by_state.iter().find(|(other, _)| *other == state).map_or(0, |(_, items)| *items);
    let waits_for = |reason| waits.by_reason.get(&reason).map_or(0, |wait| wait.items);
    let mut series: Vec<_> = ItemState::ALL
        .into_iter()
        .map(|state| gauge("items", "Items by state.", count(of(state))).with("state", state.name()))
        .collect();
    // Also those that nobody waits for: a series that comes and goes cannot be watched.
    let waiting_series = |reason: WaitReason| {
        let items = count(waits_for(reason));
        gauge("items_waiting", "Items that wait, by reason.", items).with("wait_reason", reason.name())
    };
    series.extend(WaitReason::ALL.into_iter().map(waiting_series));
    // The two looks are a moment apart: never below zero.
    let paused_retries =
        of(ItemState::RetryWait).saturating_sub(waiting.backing_off + waiting.overdue_retries).min(waiting.paused);
    let depth = |state: ItemState, reason: WaitReason, items: u64| {
        gauge("queue_depth", DEPTH, count(items)).with("state", state.name()).with("wait_reason", reason.name())
    };
    for reason in WaitReason::ALL {
        let elsewhere = if reason == WaitReason::Paused { paused_retries } else { 0 };
        series.push(depth(state_of(reason), reason, waits_for(reason).saturating_sub(elsewhere)));
    }
    series.push(depth(ItemState::RetryWait, WaitReason::Paused, paused_retries));
    series
}

/// What was counted since the start; every word of a label is there from the first moment.
fn counters(counted: &Counted) -> Vec<Series> {
    const OUTCOMES: [ItemState; 4] =
        [ItemState::Succeeded, ItemState::Failed, ItemState::Canceled, ItemState::OutcomeUnknown];
    const REQUESTS: &str = "Requests since the start, by method and status.";
    let of = |state: &ItemState| counted.items.get(state).copied().unwrap_or_default();
    let mut series: Vec<_> = counted
        .requests
        .iter()
        .map(|((method, status), requests)| Series {
            status: Some(*status),
            ..counter("http_requests_total", REQUESTS, *requests).with("method", method)
        })
        .collect();
    series.push(counter("tasks_started_total", "Tasks that were accepted since the start.", counted.tasks_started));
    for state in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
        let ended = counted.tasks_completed.get(&state).copied().unwrap_or_default();
        series.push(
            counter("tasks_completed_total", "Tasks that ended, by their state.", ended).with("state", state.name()),
        );
    }
    for state in OUTCOMES {
        let help = "How often an item came to this outcome.";
        series.push(counter("items_completed_total", help, of(&state)).with("outcome", state.name()));
    }
    series.push(counter("attempts_started_total", "Attempts that began.", counted.attempts_started));
    for state in ItemState::ALL.into_iter().filter(|state| *state != ItemState::Running) {
        let ended = counted.attempts_ended.get(&state).copied().unwrap_or_default();
        let help = "Attempts that ended, by the state of their item afterwards.";
        series.push(counter("attempts_ended_total", help, ended).with("state", state.name()));
    }
    series.push(counter(
        "retries_total",
        "How often an item was put off to be tried again.",
        of(&ItemState::RetryWait),
    ));
    series.push(counter(
        "claims_completed_unarmed_total",
        "Completions of outside workers that had never armed: no fence guarded their click.",
        counted.claims_completed_unarmed,
    ));
    for result in ["delivered", "again", "given_up"] {
        let tries = counted.deliveries.get(result).copied().unwrap_or_default();
        let help = "Tries to deliver to a webhook, by result.";
        series.push(counter("webhook_deliveries_total", help, tries).with("result", result));
    }
    series
}

/// Only for reasons that have a time: zero would be one.
fn until(waits: &Waits) -> impl Iterator<Item = Series> {
    const HELP: &str = "When the first of the items that wait for this reason can go on, in seconds since 1970.";
    waits.by_reason.iter().filter_map(|(reason, wait)| {
        let seconds = Duration::from_millis(wait.until?.as_millis()).as_secs_f64();
        Some(gauge("items_waiting_until_seconds", HELP, seconds).with("wait_reason", reason.name()))
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
        states.push(gauge("breaker_state", help, ranks.fold(0.0, f64::max)).with("name", kind));
        for to in BreakerState::NAMES {
            let moved = moves.iter().find(|moves| moves.kind == kind && moves.to == to);
            let (help, moved) = ("How often a breaker came into a state.", moved.map_or(0, |moved| moved.total));
            transitions.push(counter("breaker_transitions_total", help, moved).with("name", kind).with("to", to));
        }
    }
    states.append(&mut transitions);
    states
}

/// The times only where there is one: zero would be one.
/// The time only where there is one.
fn maintenance(jobs: &Maintenance, rows: &[JobRow]) -> Vec<Series> {
    const LAST_GOOD: &str = "When a job last succeeded, in seconds since 1970.";
    const RUNS: &str = "Runs of jobs since the start, by result.";
    let mut series = Vec::new();
    for row in rows {
        if let Some(at) = row.last_success_at {
            let seconds = Duration::from_millis(at.as_millis()).as_secs_f64();
            let last = gauge("maintenance_last_success_timestamp_seconds", LAST_GOOD, seconds);
            series.push(last.with("job", row.job.name()));
        }
    }
    for job in Job::ALL {
        let of = |result: JobResult| {
            let runs = counter("maintenance_runs_total", RUNS, jobs.runs(job, result));
            runs.with("job", job.name()).with("result", result.name())
        };
        series.extend(JobResult::ALL.map(of));
    }
    series
}

fn snapshots(backups: &BackupView) -> Vec<Series> {
    const LAST_MADE: &str = "When the newest snapshot was made, in seconds since 1970.";
    const LAST_GOOD: &str = "When a snapshot was last found good, in seconds since 1970.";
    const TOTAL: &str = "Snapshots since the start, by result.";
    let totals = [("success", backups.made), ("failure", backups.failed)];
    let totals = totals.map(|(result, total)| counter("snapshots_total", TOTAL, total).with("result", result));
    let seconds = |at: Timestamp| Duration::from_millis(at.as_millis()).as_secs_f64();
    let last = backups.last.as_ref().map(|last| last.created_at);
    let last = last.map(|at| gauge("snapshot_last_success_timestamp_seconds", LAST_MADE, seconds(at)));
    let good = backups.last_verified_at.map(|at| gauge("backup_last_verified_timestamp", LAST_GOOD, seconds(at)));
    totals.into_iter().chain(last).chain(good).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::metrics::text;
    use crate::api::waits::Wait;
    use crate::breaker::{BreakerLimits, CDP_ATTACH};

    #[test]
    fn a_reason_with_a_time_tells_it_in_seconds_and_one_without_is_left_out() {
        let wait = |until| Wait { items: 2, until };
        let by_reason = [
            (WaitReason::NoSlot, wait(None)),
            (WaitReason::OutcomeUnknown, wait(Some(Timestamp::from_millis(1_795_000_000_500)))),
        ];
        let waits = Waits { by_reason: by_reason.into(), oldest: None };
        let text = text(&until(&waits).collect::<Vec<_>>(), &Counted::default());
        let of_reasons = |line: &&str| line.starts_with("cove_items_waiting");
        let series: Vec<_> = text.lines().filter(of_reasons).collect();
        let line = "cove_items_waiting_until_seconds{wait_reason=\"outcome_unknown\"} 1795000000.5";
        assert_eq!(series, [line]);
    }

    #[test]
    fn the_depths_add_up_to_what_waits() {
        let wait = |items| Wait { items, until: None };
        let by_reason =
            [(WaitReason::NoSlot, wait(4)), (WaitReason::Paused, wait(3)), (WaitReason::RetryBackoff, wait(2))];
        let waits = Waits { by_reason: by_reason.into(), oldest: None };
        let items_by_state = vec![(ItemState::Queued, 6), (ItemState::RetryWait, 3), (ItemState::Failed, 9)];
        let stats = StoreStats { items_by_state, ..StoreStats::default() };
        let waiting = Waiting { paused: 3, backing_off: 2, ..Waiting::default() };
        let all = items(&stats, &waits, &waiting);
        let depth = |title: &str| all.iter().find(|series| series.title() == title).unwrap().value.to_string();
        assert_eq!(depth("queue_depth{state=\"queued\",wait_reason=\"no_slot\"}"), "4");
        assert_eq!(depth("queue_depth{state=\"queued\",wait_reason=\"paused\"}"), "2");
        assert_eq!(depth("queue_depth{state=\"retry_wait\",wait_reason=\"paused\"}"), "1");
        assert_eq!(depth("queue_depth{state=\"retry_wait\",wait_reason=\"retry_backoff\"}"), "2");
        let sum: f64 = all.iter().filter(|series| series.name == "queue_depth").map(|series| series.value).sum();
        assert_eq!(sum.to_string(), "9");
    }

    #[test]
    fn estimate_and_peak_are_told_by_the_kind_of_browser_and_what_the_machine_does_not_tell_is_left_out() {
        let mut view = StrainView { peak_bytes: 7, sessions_bytes: 5, ..StrainView::default() };
        view.bounds.estimate_bytes = 9;
        view.machine.cpu_percent = Some(50.0);
        let text = text(&strain(&view, ProviderKind::Dolphin), &Counted::default());
        for line in [
            "cove_session_memory_estimate_bytes{provider=\"dolphin\"} 9",
            "cove_session_peak_memory_bytes{provider=\"dolphin\"} 7",
            "cove_sessions_memory_bytes 5",
            "cove_machine_cpu_ratio 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("cove_machine_memory"), "{text}");
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
        let text = text(&breakers(&board, Timestamp::from_millis(1_000)), &Counted::default());
        assert_eq!(text.lines().filter(|line| line.starts_with("cove_breaker")).count(), fresh.len(), "{text}");
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
