//! The log of a task's webhook: what was told, what still waits and why, and the wish to try one again.
//!
//! Handlers of `/tasks/{id}/webhooks`. They read the outbox and the breakers; the one thing that they write
//! is the request for a new try, and the sender hears of it by the store's own bell. Neither the secret nor
//! the address is shown here.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::query::{Listing, Query};
use super::tasks::{find_task, parse_task_id};
use super::{Context, wire};
use crate::model::{Delivery, DeliveryId, DeliveryState, Timestamp, WaitReason};
use crate::ops::webhooks::breaker_name;
use crate::store::{Pause, RetryRefused};

/// What keeps deliveries from being tried, read once a request.
struct Holding {
    restored: bool,
    open: Vec<(String, Timestamp)>,
    now: Timestamp,
}

impl Holding {
    fn look(context: &Context) -> Self {
        let now = context.clock.now();
        let pause = context.engine.view().pause.clone();
        let restored = matches!(pause, Some(Pause::Restored { .. } | Pause::LedgerDamaged { .. }));
        Self { restored, open: context.breakers.open(now), now }
    }

    fn wait(&self, delivery: &Delivery) -> wire::Wait {
        if delivery.state != DeliveryState::Pending {
            return None;
        }
        if self.restored {
            return Some((WaitReason::HeldAfterRestore, None));
        }
        let name = breaker_name(&delivery.target);
        let open = self.open.iter().find(|(open, _)| *open == name);
        if let Some((_, until)) = open.filter(|(_, until)| *until > delivery.next_at) {
            return Some((WaitReason::BreakerOpenUntil, Some(*until)));
        }
        (delivery.next_at > self.now).then_some((WaitReason::RetryBackoff, None))
    }

    fn show(&self, delivery: &Delivery) -> Value {
        wire::delivery(delivery, self.wait(delivery))
    }
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let row = find_task(&context, call.params.get("id")).await?;
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["cursor", "limit"], &mut walk);
    let before = query.cursor(Listing::Deliveries, &mut walk);
    let limit = query.limit(&mut walk);
    walk.finish()?;
    let page = context.store.deliveries(row.task.id, before, limit).await?;
    let holding = Holding::look(&context);
    let deliveries: Vec<Value> = page.rows.iter().map(|delivery| holding.show(delivery)).collect();
    let json = json!({"deliveries": deliveries, "next_cursor": Listing::Deliveries.cursor(page.next)});
    Ok(body::json(StatusCode::OK, &json))
}

/// A delivery that was given up begins again from its first try.
pub async fn retry(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let no_delivery = || ApiError::not_found("The task has no delivery with this id.");
    let task = parse_task_id(call.params.get("id"))?;
    let id: DeliveryId = call.params.get("delivery").parse().map_err(|_| no_delivery())?;
    match context.store.retry_delivery(task, id, context.clock.now()).await {
        Ok(delivery) => Ok(body::json(StatusCode::ACCEPTED, &Holding::look(&context).show(&delivery))),
        Err(RetryRefused::NotFound) => Err(no_delivery()),
        Err(error @ RetryRefused::NotGivenUp(_)) => {
            Err(ApiError::new(Code::DeliveryNotGivenUp, format!("Nothing to try again: {error}.")))
        }
        Err(RetryRefused::Store(error)) => Err(error.into()),
    }
}
