//! What a state must be after its disk was hurt: everything that had its answer is there, of what was
//! under way each operation as a whole or not at all, and nothing else. The ledger knows every click that
//! was allowed, and nothing that may have been clicked can be claimed again.

use std::collections::BTreeSet;

use cove::model::{Fence, ItemId, ItemState};
use cove::store::{ItemQuery, Store};
use futures_util::future::join_all;
use serde_json::Value;

use super::disk::{Disk, Image, Name};
use super::work::{Fact, History, Opened};

/// Opens `image`, of a history of which `answered` operations had their answer.
pub async fn judge(image: Image, history: &History, answered: usize) -> Result<(), String> {
    let disk = &Disk::new(image);
    let opened = Opened::over(disk, history.time_of(answered)).map_err(|error| format!("it does not open: {error}"))?;
    let verdict = judge_open(&opened, disk, history, answered).await;
    opened.close().await;
    verdict
}

async fn judge_open(opened: &Opened, disk: &Disk, history: &History, answered: usize) -> Result<(), String> {
    let (store, report) = (&opened.store, &opened.report);
    if report.restored {
        return Err("it is taken for a restored one".to_owned());
    }
    if let Some(damage) = &report.ledger_damage {
        return Err(format!("the ledger is damaged: {damage}"));
    }
    let differences = store.check_consistency().await.map_err(|error| error.to_string())?;
    if !differences.is_empty() {
        return Err(format!("indexes: {differences:#?}"));
    }
    let ledger = Ledger::read(disk)?;
    fits_the_history(opened, &ledger, history, answered).await?;
    for (number, fact) in history.facts.iter().enumerate().take(answered) {
        let Some(fact) = fact else { continue };
        if !ledger.0.contains(fact) {
            return Err(format!("operation {number} had its answer, and the ledger does not know {fact:?}"));
        }
    }
    nothing_twice(store, &ledger).await
}

/// The state is the one after some operation between the last answered and the last under way; or it is
/// that, and what the ledger knows to be published has succeeded since.
async fn fits_the_history(opened: &Opened, ledger: &Ledger, history: &History, answered: usize) -> Result<(), String> {
    let found = opened.dump().await.map_err(|error| error.to_string())?;
    let last = history.last_under_way(answered);
    let possible = &history.dumps[answered..=last];
    if possible.contains(&found) {
        return Ok(());
    }
    let mut ahead = BTreeSet::new();
    for fact in history.facts[answered..last].iter().flatten() {
        if let Fact::Published(item, _) = fact
            && ledger.0.contains(fact)
        {
            ahead.insert(*item);
        }
    }
    let mut own = Vec::new();
    for id in &ahead {
        let item = opened.store.item(*id).await.map_err(|error| error.to_string())?;
        let item = item.ok_or_else(|| format!("{id} was published and is gone"))?;
        if item.state != ItemState::Succeeded {
            return Err(format!("{id} was published and is {}", item.state));
        }
        own.extend([id.to_string(), item.task.to_string()]);
    }
    let rest =
        |dump: &str| -> Vec<String> { dump.lines().filter(|line| !is_about(line, &own)).map(str::to_owned).collect() };
    let found_rest = rest(&found);
    // A first start that was cut off may have spent its epoch.
    if answered == 0 && history.is_new() && rest(&possible[0]) == found_rest {
        return Ok(());
    }
    if !ahead.is_empty() && possible.iter().any(|dump| rest(dump) == found_rest) {
        return Ok(());
    }
    let nearest = &possible[0];
    let only = |one: &str, other: &str, sign: &str| -> String {
        let others: BTreeSet<&str> = other.lines().collect();
        let lines: Vec<_> = one.lines().filter(|line| !others.contains(line)).collect();
        lines.iter().map(|line| ["  ", sign, " ", line, "\n"].concat()).collect()
    };
    Err(format!(
        "it is none of the states after operations {answered} to {last}:\n{}{}",
        only(nearest, &found, "-"),
        only(&found, nearest, "+")
    ))
}

/// Lines that speak of one of these, and the line of the numbers.
fn is_about(line: &str, ids: &[String]) -> bool {
    let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
    line.starts_with("meta ") || ids.iter().any(|id| words().any(|word| word == id))
}

/// Whatever was ever armed or published is out of reach of a claim; and `published` is in the ledger first
/// (fence.md rule 7), so that a restore never takes it back.
async fn nothing_twice(store: &Store, ledger: &Ledger) -> Result<(), String> {
    let items = store.items(ItemQuery { limit: 9_999, ..ItemQuery::default() }).await;
    let items = items.map_err(|error| error.to_string())?.rows;
    for item in items.iter().filter(|item| item.state == ItemState::Succeeded) {
        if !ledger.0.iter().any(|fact| matches!(fact, Fact::Published(id, _) if *id == item.id)) {
            return Err(format!("{} succeeded, and the ledger does not know", item.id));
        }
    }
    let mut touched: Vec<ItemId> = items.iter().filter(|item| item.armed_fence.is_some()).map(|item| item.id).collect();
    for fact in &ledger.0 {
        let (Fact::Armed(id, fence) | Fact::Published(id, fence)) = fact;
        let item = items.iter().find(|item| item.id == *id).ok_or_else(|| format!("{fact:?}, and the item is gone"))?;
        let fits = match fact {
            Fact::Armed(..) => item.armed_fence >= Some(*fence),
            Fact::Published(..) => item.state == ItemState::Succeeded,
        };
        if !fits {
            return Err(format!("{fact:?}, and the item is {} under {:?}", item.state, item.armed_fence));
        }
        touched.push(*id);
    }
    // Every profile is free, in case a lock is all that keeps them apart.
    for held in store.leftovers().await.map_err(|error| error.to_string())? {
        let profile = cove::model::ProfileId::new(&held.lock.key).unwrap();
        store.release(profile, held.lock.fence).await.map_err(|error| error.to_string())?;
    }
    store.resume(true, super::work::BEGIN).await.map_err(|error| error.to_string())?;
    let later = super::work::BEGIN.plus(std::time::Duration::from_hours(10_000));
    while store.promote(later).await.map_err(|error| error.to_string())? {}
    let claims = touched.iter().map(|id| store.claim(*id, super::work::moment(later)));
    for (id, claim) in touched.iter().zip(join_all(claims).await) {
        if claim.map_err(|error| error.to_string())?.is_ok() {
            return Err(format!("{id} may have been clicked and was claimed again"));
        }
    }
    Ok(())
}

/// What stands in the ledger, read without the store.
struct Ledger(Vec<Fact>);

impl Ledger {
    fn read(disk: &Disk) -> Result<Self, String> {
        let image = disk.live();
        let text = std::str::from_utf8(image.file(Name::Ledger)).map_err(|error| error.to_string())?;
        let mut facts = Vec::new();
        for line in text.lines() {
            let (_, json) = line.split_once(' ').ok_or("a line without a checksum")?;
            let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
            match json {
                Value::Array(together) => facts.extend(together.iter().filter_map(fact)),
                one => facts.extend(fact(&one)),
            }
        }
        Ok(Self(facts))
    }
}

fn fact(json: &Value) -> Option<Fact> {
    let item: ItemId = json["item"].as_str()?.parse().ok()?;
    let fence: Fence = json["fence"].as_str()?.parse().ok()?;
    match json["kind"].as_str()? {
        "armed" => Some(Fact::Armed(item, fence)),
        "published" => Some(Fact::Published(item, fence)),
        _ => None,
    }
}
