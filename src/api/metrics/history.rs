//! `GET /api/v1/metrics/history`: what one number was; and what the sampler keeps of the numbers.
//!
//! The store rolls up and forgets ([`crate::store::history`]); here a request is read and a step is chosen.
//! Invariant: an answer has no more points than the store gives at once. Times that lie in the future of a sample
//! (when something will go on) and the status of single requests are not kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::series::{Kind, Series, gather};
use crate::api::Context;
use crate::api::body::{self, Reply};
use crate::api::error::{ApiError, Code};
use crate::api::form::Walk;
use crate::api::front::Call;
use crate::api::query::Query;
use crate::model::Timestamp;
use crate::ops::sampler::Numbers;
use crate::store::history::{RESOLUTIONS, Resolution};

const REQUESTS: &str = "http_requests_total";
/// What is shown where nothing is said of the time.
const SPAN: Duration = Duration::from_secs(3_600);

/// By their names, each once.
fn kept(all: &[Series]) -> Vec<(String, f64)> {
    let is_kept = |series: &&Series| {
        let is_time = series.name.contains("timestamp") || series.name.ends_with("_until_seconds");
        series.shown.in_json() && !is_time && series.name != REQUESTS
    };
    let mut numbers: Vec<_> = all.iter().filter(is_kept).map(|series| (series.title(), series.value)).collect();
    let requests = all.iter().filter(|series| series.name == REQUESTS && series.kind == Kind::Counter);
    numbers.push((REQUESTS.to_owned(), requests.map(|series| series.value).sum()));
    numbers
}

#[async_trait]
impl Numbers for Context {
    async fn now(&self) -> Result<Vec<(String, f64)>, String> {
        match gather(self).await {
            Ok(gathered) => Ok(kept(&gathered.series)),
            Err(error) => Err(format!("the numbers could not be read: {}", error.code().name())),
        }
    }
}

/// What is asked for.
#[derive(Debug, PartialEq)]
struct Asked {
    name: String,
    step: Resolution,
    from: Timestamp,
    to: Timestamp,
}

fn parse(query: &Query, known: &[(String, f64)], now: Timestamp, walk: &mut Walk) -> Option<Asked> {
    const NAMES: &str = "the name of a gauge or counter as GET /api/v1/metrics has it (http_requests_total is one sum \
                         here; times are not kept)";
    let steps = RESOLUTIONS.map(|resolution| resolution.step_seconds.to_string()).join(", ");
    let time = "an RFC 3339 time, for example 2026-12-01T09:00:00Z";
    let name =
        query.parsed("name", walk, NAMES, |text| known.iter().any(|(name, _)| name == text).then(|| text.to_owned()));
    if query.get("name").is_none() {
        walk.wrong(Code::InvalidField, "name", format!("Missing: {NAMES}."));
    }
    let step = query.parsed("step", walk, &format!("a step in seconds, one of {steps}"), |text| {
        RESOLUTIONS.into_iter().find(|resolution| resolution.step_seconds.to_string() == text)
    });
    let from = query.parsed("from", walk, time, |text| text.parse().ok());
    let to: Timestamp = query.parsed("to", walk, time, |text| text.parse().ok()).unwrap_or(now);
    let before = |at: Timestamp, span: Duration| {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(at.as_millis().saturating_sub(span_ms))
    };
    let from = from.unwrap_or_else(|| before(to, SPAN));
    if from > to {
        walk.wrong(Code::InvalidField, "from", "Later than `to`; expected a time at or before it.");
    }
    // The finest that goes back so far; else the one that goes back farthest.
    let reaches = |resolution: &Resolution| resolution.oldest(now) <= from;
    let fitting = RESOLUTIONS.into_iter().find(reaches).unwrap_or(RESOLUTIONS[RESOLUTIONS.len() - 1]);
    Some(Asked { name: name?, step: step.unwrap_or(fitting), from, to })
}

pub async fn show(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["name", "from", "to", "step"], &mut walk);
    let known = kept(&gather(&context).await?.series);
    let asked = parse(&query, &known, context.clock.now(), &mut walk);
    walk.finish()?;
    // Without a name there was something wrong.
    let Asked { name, step, from, to } =
        asked.ok_or_else(|| ApiError::internal(Code::Internal, "a wrong query was not told"))?;
    let points = context.store.history(name.clone(), step.step_seconds, from..=to).await?;
    let points: Vec<Value> = points.0.iter().map(|(at, value)| json!([at, value])).collect();
    Ok(body::json(StatusCode::OK, &json!({"name": name, "step_seconds": step.step_seconds, "points": points})))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn asked(query: &str) -> Option<Asked> {
        let mut walk = Walk::default();
        let query = Query::read(&format!("/x?{query}").parse().unwrap(), &["name", "from", "to", "step"], &mut walk);
        let known = [("slots".to_owned(), 1.0), ("items{state=\"queued\"}".to_owned(), 0.0)];
        let asked = parse(&query, &known, NOW, &mut walk);
        walk.is_clean().then(|| asked.unwrap())
    }

    #[test]
    fn the_finest_step_that_reaches_back_is_taken() {
        let step = |query: &str| asked(query).unwrap().step.step_seconds;
        let of_days = |days: u64| Timestamp::from_millis(NOW.as_millis() - days * 86_400_000);
        assert_eq!(step("name=slots"), 60);
        assert_eq!(step(&format!("name=slots&from={}", of_days(2))), 600);
        assert_eq!(step(&format!("name=slots&from={}", of_days(20))), 3_600);
        assert_eq!(step(&format!("name=slots&from={}", of_days(400))), 3_600);
        assert_eq!(step("name=slots&step=600"), 600);
        let labelled = asked("name=items%7Bstate%3D%22queued%22%7D").unwrap();
        assert_eq!((labelled.to, NOW.since(labelled.from)), (NOW, SPAN));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let wrong = [
            "",
            "name=nothing",
            "name=slots&step=61",
            "name=slots&step=060",
            "name=slots&from=yesterday",
            "name=slots&to=1",
            "name=slots&from=2099-01-01T00:00:00Z",
            "nam=slots",
        ];
        for query in wrong {
            assert_eq!(asked(query), None, "{query}");
        }
    }
}
