//! Metrics: what the store, the engine and this process know of themselves, as JSON and as Prometheus text.
//!
//! Both are made of one list of series and one of histograms; the history (`history`) keeps the same numbers.
//! Invariant: labels are words of the program (states, reasons, methods, kinds of breakers), never ids, names or
//! paths, so that their number is bounded. The JSON keeps the names that the original's operators know
//! (`memory_usage_mb`); Prometheus gets base units alone. What is counted is counted in [`crate::meter`].

pub mod history;
mod series;

use std::fmt::Write as _;
use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::ApiError;
use super::front::Call;
use crate::browser::HttpPool;
use crate::meter::{BOUNDS, Counted, Histogram, Timed};
use crate::store::StoreStats;
use series::{Gathered, Kind, Series, gather};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every histogram, its name and what it says.
const HISTOGRAMS: [(Timed, &str, &str); Timed::ALL.len()] = [
    (Timed::HttpRequest, "http_request_duration_seconds", "From a request's head to its answer's."),
    (Timed::Task, "task_duration_seconds", "From a task's acceptance to its end."),
    (Timed::Attempt, "attempt_duration_seconds", "From the claim of an item to the end of the attempt."),
    (Timed::StoreCommit, "store_commit_duration_seconds", "One commit, with its fsync and its ledger lines."),
    (Timed::StoreRead, "store_read_duration_seconds", "One read, with its wait for a reader."),
    (Timed::ProviderStart, "provider_start_duration_seconds", "From asking for a profile's browser to having it."),
    (Timed::Step, "step_duration_seconds", "One step of a replay, with its line in the trace."),
];
/// The original's names for some of them.
const TIMERS: [(Timed, &str); 3] = [
    (Timed::StoreRead, "database_query_seconds"),
    (Timed::HttpRequest, "http_request_seconds"),
    (Timed::Attempt, "task_execution_seconds"),
];

fn summary(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count,
        "sum": histogram.sum,
        "min": histogram.min,
        "max": histogram.max,
        "mean": histogram.mean(),
        "p50": histogram.quantile(0.5),
        "p90": histogram.quantile(0.9),
        "p95": histogram.quantile(0.95),
        "p99": histogram.quantile(0.99),
    })
}

/// What the original kept of its connections; numbers alone. Dolphin is there where it is the provider.
fn pools(stats: &StoreStats, http: Option<HttpPool>) -> Value {
    let mut pools = json!({
        "readers": {"min": 0, "max": stats.readers_max, "in_use": stats.readers_in_use,
            "idle": stats.readers_max.saturating_sub(stats.readers_in_use), "waiting": stats.readers_waiting},
        "writer": {"queue": stats.writer_queue, "batch_p50": stats.batch_p50, "commit_p99_ms": stats.commit_p99_ms},
    });
    if let Some(HttpPool { in_use, idle_max, calls, failures, healthy }) = http {
        pools["dolphin_http"] = json!({"min": 0, "idle_max": idle_max, "in_use": in_use, "calls": calls,
            "failures": failures, "healthy": u8::from(healthy)});
    }
    pools
}

pub async fn json(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let Gathered { series, stats, counted } = gather(&context).await?;
    let of = |kind| -> Map<String, Value> {
        let of_kind = series.iter().filter(|series| series.kind == kind && series.shown.in_json());
        of_kind.map(|series| (series.title(), json!(series.value))).collect()
    };
    let histograms = HISTOGRAMS.iter().map(|(what, name, _)| ((*name).to_owned(), summary(&counted.times(*what))));
    let timers = TIMERS.iter().map(|(what, name)| ((*name).to_owned(), summary(&counted.times(*what))));
    let json = json!({
        "timestamp": context.clock.now(),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "counters": of(Kind::Counter),
        "gauges": of(Kind::Gauge),
        "histograms": histograms.collect::<Map<_, _>>(),
        "timers": timers.collect::<Map<_, _>>(),
        "database_pools": pools(&stats, context.provider.http_pool()),
    });
    Ok(body::json(StatusCode::OK, &json))
}

/// In the exposition format of Prometheus, version 0.0.4.
fn text(all: &[Series], counted: &Counted) -> String {
    let mut text = String::new();
    let mut last = "";
    for series in all.iter().filter(|series| series.shown.in_text()) {
        if series.name != last {
            let (name, help, kind) = (series.name, series.help, series.kind.name());
            head(&mut text, name, help, kind);
            last = name;
        }
        line(&mut text, format_args!("cove_{} {}", series.title(), series.value));
    }
    for (what, name, help) in HISTOGRAMS {
        head(&mut text, name, help, "histogram");
        let histogram = counted.times(what);
        let mut below = 0;
        for (bound, held) in BOUNDS.iter().zip(histogram.buckets) {
            below += held;
            line(&mut text, format_args!("cove_{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
        line(&mut text, format_args!("cove_{name}_bucket{{le=\"+Inf\"}} {}", histogram.count));
        line(&mut text, format_args!("cove_{name}_sum {}", histogram.sum));
        line(&mut text, format_args!("cove_{name}_count {}", histogram.count));
    }
    text
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    line(text, format_args!("# HELP cove_{name} {help}\n# TYPE cove_{name} {kind}"));
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).and_then(|()| text.write_char('\n')).expect("a String takes all");
}

pub async fn prometheus(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let Gathered { series, counted, .. } = gather(&context).await?;
    let mut response = Response::new(body::full(text(&series, &counted)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::series::gauge;
    use super::*;
    use crate::meter::Meter;

    #[test]
    fn one_head_a_name_and_one_line_a_series() {
        let items =
            |state, value| Series { labels: vec![("state", state)], ..gauge("items", "Items by state.", value) };
        let series = [
            gauge("slots", "Attempts at a time.", 4.0),
            gauge("memory_usage_mb", "Not in base units.", 7.0).in_json_alone(),
            items("queued", 3.0),
            items("failed", 0.0),
        ];
        let expected = "# HELP cove_slots Attempts at a time.\n# TYPE cove_slots gauge\ncove_slots 4\n\
            # HELP cove_items Items by state.\n# TYPE cove_items gauge\n\
            cove_items{state=\"queued\"} 3\ncove_items{state=\"failed\"} 0\n";
        let text = text(&series, &Counted::default());
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.matches("# TYPE").count(), 2 + HISTOGRAMS.len());
    }

    #[test]
    fn buckets_count_everything_below_them() {
        let meter = Meter::default();
        for ms in [1, 30, 700_000, 90_000_000] {
            meter.request("GET", 200, Duration::from_millis(ms));
        }
        let text = text(&[], &meter.read());
        for line in [
            "cove_http_request_duration_seconds_bucket{le=\"0.0005\"} 0",
            "cove_http_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "cove_http_request_duration_seconds_bucket{le=\"0.05\"} 2",
            "cove_http_request_duration_seconds_bucket{le=\"86400\"} 3",
            "cove_http_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            "cove_http_request_duration_seconds_count 4",
            "cove_task_duration_seconds_count 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
