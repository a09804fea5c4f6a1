//! From schema 1 to 2: leases of locks, kinds of workers, verifies, parked profiles, paused tasks, webhooks.
//!
//! Schema 1 knew none of these, so nothing of them has to be found out: every new field begins empty.

use std::collections::BTreeMap;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{
    BootId, Counts, EvidenceFile, Failure, Fence, HeldFor, InputValue, Intent, Item, ItemId, ItemState, Lock, LockKind,
    LockOwner, OnUnknown, Parked, Place, Profile, ProfileId, Task, TaskId, Timestamp,
};
use crate::store::tables::{self, Bytes, Closed, META, META_KEY, Meta, Tx, create_all};
use crate::store::{Pause, StoreError, codec, locks};

const READY: TableDefinition<(&str, u32, u64), ()> = TableDefinition::new("ready");
const TASK_PROFILES: TableDefinition<(&str, u64), ()> = TableDefinition::new("task_profiles");
const CANCELS: TableDefinition<u64, ()> = TableDefinition::new("cancels");

#[derive(Deserialize)]
struct Meta1 {
    epoch: u64,
    sequence: u64,
    items: [u64; ItemState::ALL.len()],
    pause: Option<Pause>,
}

#[derive(Deserialize)]
struct Task1 {
    id: TaskId,
    flow: String,
    flow_hash: String,
    priority: i32,
    max_attempts: u32,
    spacing_seconds: u32,
    on_unknown: OnUnknown,
    idempotency: Option<String>,
    created_at: Timestamp,
    counts: Counts,
    finished_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Intent1 {
    cancel_requested_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Item1 {
    id: ItemId,
    task: TaskId,
    index: u32,
    profile: ProfileId,
    inputs: BTreeMap<String, InputValue>,
    key: Option<String>,
    priority: i32,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    created_at: Timestamp,
    state: ItemState,
    due_at: Timestamp,
    ready: bool,
    attempts: u32,
    fence: Option<Fence>,
    armed_fence: Option<Fence>,
    armed_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    url: Option<String>,
    result: BTreeMap<String, String>,
    failure: Option<Failure>,
    evidence: Vec<EvidenceFile>,
}

#[derive(Deserialize)]
enum LockKind1 {
    Profile,
}

#[derive(Deserialize)]
enum LockOwner1 {
    Item(ItemId),
    Operator,
}

#[derive(Deserialize)]
struct Lock1 {
    kind: LockKind1,
    key: String,
    owner: LockOwner1,
    fence: Fence,
    acquired_at: Timestamp,
}

#[derive(Deserialize)]
struct Profile1 {
    id: ProfileId,
    name: String,
    created_at: Timestamp,
    parked: Option<String>,
    last_armed_at: Option<Timestamp>,
}

pub(super) fn migrate(txn: &WriteTransaction) -> Result<(), StoreError> {
    let canceling: Vec<u64> =
        txn.open_table(CANCELS)?.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, StoreError>>()?;
    let locks: Vec<Lock1> = named(txn, "locks", tables::LOCKS)?;
    let profiles: Vec<Profile1> = named(txn, "profiles", tables::PROFILES)?;
    let tasks: Vec<Task1> = numbered(txn, "tasks", tables::TASKS)?;
    let intents = intents(txn)?;
    meta(txn)?;
    txn.delete_table(READY)?;
    txn.delete_table(TASK_PROFILES)?;
    txn.delete_table(CANCELS)?;
    create_all(txn)?;
    let mut tx = Tx::open(txn)?;
    for profile in profiles {
        tx.put_profile(&profile.into())?;
    }
    for task in tasks {
        let task = Task::from(task);
        if let Some(finished_at) = task.finished_at {
            tx.finished.insert((finished_at.as_millis(), task.id.raw()), ())?;
        }
        tx.put_task(&task)?;
    }
    for (task, intent) in intents {
        tx.intents.insert(task, codec::encode(&intent)?.as_slice())?;
    }
    for task in canceling {
        tx.settling.insert(task, 0)?;
    }
    for lock in locks {
        locks::put(&mut tx, None, &lock.into())?;
    }
    items(&mut tx)?;
    let Closed { meta, .. } = tx.close();
    Tx::write_meta(txn, &meta)
}

fn named<T: DeserializeOwned, K: redb::Key + 'static>(
    txn: &WriteTransaction,
    name: &'static str,
    table: TableDefinition<K, Bytes>,
) -> Result<Vec<T>, StoreError> {
    txn.open_table(table)?.iter()?.map(|row| codec::decode(name, row?.1.value())).collect()
}

fn numbered<T: DeserializeOwned>(
    txn: &WriteTransaction,
    name: &'static str,
    table: TableDefinition<u64, Bytes>,
) -> Result<Vec<T>, StoreError> {
    named(txn, name, table)
}

fn intents(txn: &WriteTransaction) -> Result<Vec<(u64, Intent)>, StoreError> {
    txn.open_table(tables::INTENTS)?
        .iter()?
        .map(|row| {
            let (task, intent) = row?;
            let Intent1 { cancel_requested_at } = codec::decode("intents", intent.value())?;
            Ok((task.value(), Intent { cancel_requested_at, paused_at: None }))
        })
        .collect()
}

fn meta(txn: &WriteTransaction) -> Result<(), StoreError> {
    let row = txn.open_table(META)?.get(META_KEY)?.map(|row| codec::decode::<Meta1>("meta", row.value()));
    let missing = || StoreError::Corrupt("meta: the row is missing".to_owned());
    let Meta1 { epoch, sequence, items, pause } = row.transpose()?.ok_or_else(missing)?;
    let meta = Meta {
        epoch,
        opens: 0,
        sequence,
        items,
        backing_off: 0,
        held_for_clock: 0,
        pause,
        boot_id: BootId::default(),
        clock: None,
        catch_up: None,
    };
    Tx::write_meta(txn, &meta)
}

/// Every item anew, one at a time, with the indexes that changed.
fn items(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let ids: Vec<u64> = tx.items.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, StoreError>>()?;
    for id in ids {
        let was: Item1 =
            tables::get("items", &tx.items, id)?.ok_or_else(|| StoreError::Corrupt(format!("items: {id} vanished")))?;
        let item = Item::from(was);
        tx.items.insert(id, codec::encode(&item)?.as_slice())?;
        tx.index_state(&item)?;
        let place = (item.profile.as_str(), item.task.raw());
        let others = tx.task_profiles.get(place)?.map_or(0, |row| row.value());
        tx.task_profiles.insert(place, others + 1)?;
    }
    Ok(())
}

impl From<Item1> for Item {
    fn from(was: Item1) -> Self {
        let place = match (was.state.is_waiting(), was.ready) {
            (false, _) => Place::Off,
            (true, true) => Place::Ready,
            (true, false) => Place::Due,
        };
        Self {
            index: was.index,
            inputs: was.inputs,
            key: was.key,
            priority: was.priority,
            not_before: was.not_before,
            not_after: was.not_after,
            state: was.state,
            due_at: was.due_at,
            place,
            held_for: (was.state == ItemState::Held).then_some(HeldFor::Restore),
            attempts: was.attempts,
            fence: was.fence,
            armed_fence: was.armed_fence,
            armed_at: was.armed_at,
            started_at: was.started_at,
            finished_at: was.finished_at,
            url: was.url,
            result: was.result,
            failure: was.failure,
            evidence: was.evidence,
            ..Self::new(was.id, was.task, was.profile, was.created_at)
        }
    }
}

impl From<Task1> for Task {
    fn from(was: Task1) -> Self {
        Self {
            id: was.id,
            flow: was.flow,
            flow_hash: was.flow_hash,
            priority: was.priority,
            max_attempts: was.max_attempts,
            spacing_seconds: was.spacing_seconds,
            on_unknown: was.on_unknown,
            external: None,
            verifiable: false,
            rehearsal: false,
            idempotency: was.idempotency,
            webhook: None,
            created_at: was.created_at,
            counts: was.counts,
            finished_at: was.finished_at,
        }
    }
}

impl From<Lock1> for Lock {
    fn from(was: Lock1) -> Self {
        let kind = match was.kind {
            LockKind1::Profile => LockKind::PROFILE,
        };
        let owner = match was.owner {
            LockOwner1::Item(item) => LockOwner::Item(item),
            LockOwner1::Operator => LockOwner::Operator,
        };
        Self { kind, key: was.key, owner, fence: was.fence, acquired_at: was.acquired_at, lease: None }
    }
}

impl From<Profile1> for Profile {
    fn from(was: Profile1) -> Self {
        let parked = was.parked.map(|message| Parked { since: was.created_at, message, item: None });
        Self {
            id: was.id,
            name: was.name,
            created_at: was.created_at,
            parked,
            rests_until: None,
            last_armed_at: was.last_armed_at,
        }
    }
}
