//! Metrics: what the store and the engine know of themselves, as JSON and as Prometheus text.
//!
//! Both are made of one list of gauges. Invariant: labels are words of the program (states, reasons), never
//! ids or names, so that their number is bounded. Counters, histograms and timers of requests and attempts
//! are not gathered yet; their members are there and empty.

use std::fmt::Write as _;
use std::sync::Arc;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::ApiError;
use super::front::Call;
use super::waits::Waits;
use crate::model::ItemState;
use crate::store::StoreStats;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One number with the words that tell it from its siblings.
struct Gauge {
    name: &'static str,
    help: &'static str,
    label: Option<(&'static str, &'static str)>,
    value: f64,
}

const fn gauge(name: &'static str, help: &'static str, value: f64) -> Gauge {
    Gauge { name, help, label: None, value }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
const fn count(number: u64) -> f64 {
    number as f64
}

async fn gather(context: &Context) -> Result<(Vec<Gauge>, StoreStats), ApiError> {
    let (stats, waits) = (context.store.stats().await?, Waits::look(context).await?);
    let (view, now) = (context.engine.view(), context.clock.now());
    let oldest = waits.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
    let mut gauges = vec![
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
        gauge("provider_down", "1 while no browser can be started.", flag(view.provider_down.is_some())),
    ];
    for state in ItemState::ALL {
        let items = stats.items_by_state.iter().find(|(other, _)| *other == state).map_or(0, |(_, items)| *items);
        let label = Some(("state", state.name()));
        gauges.push(Gauge { name: "items", help: "Items by state.", label, value: count(items) });
    }
    for (reason, wait) in &waits.by_reason {
        let label = Some(("wait_reason", reason.name()));
        gauges.push(Gauge {
            name: "items_waiting",
            help: "Items that wait, by reason.",
            label,
            value: count(wait.items),
        });
    }
    Ok((gauges, stats))
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

pub async fn json(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let (gauges, stats) = gather(&context).await?;
    let gauges: Map<String, Value> = gauges.iter().map(|gauge| (gauge.series(), json!(gauge.value))).collect();
    let json = json!({
        "timestamp": context.clock.now(),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "counters": {},
        "gauges": gauges,
        "histograms": {},
        "timers": {},
        "database_pools": {
            "readers": {"min": 0, "max": stats.readers_max, "in_use": stats.readers_in_use},
            "writer": {"queue": stats.writer_queue, "batch_p50": stats.batch_p50, "commit_p99_ms": stats.commit_p99_ms},
        },
    });
    Ok(body::json(StatusCode::OK, &json))
}

impl Gauge {
    /// `items{state="queued"}`
    fn series(&self) -> String {
        match self.label {
            Some((label, value)) => format!("{}{{{label}=\"{value}\"}}", self.name),
            None => self.name.to_owned(),
        }
    }
}

fn text(gauges: &[Gauge]) -> String {
    let mut text = String::new();
    let mut last = "";
    for gauge in gauges {
        if gauge.name != last {
            let (name, help) = (gauge.name, gauge.help);
            writeln!(text, "# HELP cove_{name} {help}\n# TYPE cove_{name} gauge").expect("a String takes all");
            last = name;
        }
        writeln!(text, "cove_{} {}", gauge.series(), gauge.value).expect("a String takes all");
    }
    text
}

pub async fn prometheus(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let (gauges, _) = gather(&context).await?;
    let mut response = Response::new(body::full(text(&gauges)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_head_a_name_and_one_line_a_series() {
        let label = |state| Some(("state", state));
        let gauges = [
            gauge("slots", "Attempts at a time.", 4.0),
            Gauge { name: "items", help: "Items by state.", label: label("queued"), value: 3.0 },
            Gauge { name: "items", help: "Items by state.", label: label("failed"), value: 0.0 },
        ];
        let expected = "# HELP cove_slots Attempts at a time.\n# TYPE cove_slots gauge\ncove_slots 4\n\
            # HELP cove_items Items by state.\n# TYPE cove_items gauge\n\
            cove_items{state=\"queued\"} 3\ncove_items{state=\"failed\"} 0\n";
        assert_eq!(text(&gauges), expected);
    }
}
