//! Accepting a bulk upload: everything is checked, then everything is written, in one transaction.
//!
//! A refusal leaves nothing behind. Identity is fence.md rule 2: keys are daemon-wide, an
//! `Idempotency-Key` gives the same task again, and items under one get `<that key>#<index>`.

use redb::{ReadTransaction, ReadableTable};
use sha2::{Digest, Sha256};

use super::super::tables::{
    Bytes, FlowRow, Hash, IDEMPOTENCY, IdempotencyRow, NO_TASK, PRUNED, PrunedRow, TASKS, Tx, get, get_named,
};
use super::super::writer::Ran;
use super::super::{EnqueueError, Enqueued, Idempotency, NewItem, NewTask, PossibleDuplicate, StoreError, codec};
use super::{hex, key_hash};
use crate::meter::Mark;
use crate::model::{Counts, Item, ItemId, ItemState, Place, Task, TaskState, Timestamp};

pub(in crate::store) fn enqueue(tx: &mut Tx<'_>, new: &NewTask, now: Timestamp) -> Ran<Enqueued, EnqueueError> {
    let idempotency = new.idempotency.as_ref().map(idempotency_hash);
    if let (Some(hash), Some(given)) = (&idempotency, &new.idempotency)
        && let Some(answer) = came_before(&tx.idempotency, &tx.tasks, &tx.pruned, hash, given)?
    {
        return Ok(answer);
    }
    if let Err(refusal) = check(tx, new)? {
        return Ok(Err(refusal));
    }
    let task = insert_task(tx, new, idempotency, now)?;
    let mut warnings = Vec::new();
    for (index, item) in (0..).zip(&new.items) {
        if let Some(older_item) = insert_item(tx, new, &task, index, item, now)? {
            warnings.push(PossibleDuplicate { index, older_item });
        }
    }
    tx.marks.push(Mark::TaskAccepted);
    tx.log(task.id, None, "accepted", &format!("{} items", new.items.len()), now)?;
    let (state, items) = (Some(TaskState::Queued), task.counts.total());
    Ok(Ok(Enqueued { task: task.id, state, items, replayed: false, pruned: false, warnings }))
}

fn idempotency_hash(given: &Idempotency) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((given.scope.len() as u64).to_le_bytes());
    hasher.update(given.scope.as_bytes());
    hasher.update(given.key.as_bytes());
    hasher.finalize().into()
}

/// The same answer in a read, before a request is checked.
pub(in crate::store) fn find_replay(
    txn: &ReadTransaction,
    given: &Idempotency,
) -> Result<Option<Result<Enqueued, EnqueueError>>, StoreError> {
    let hash = idempotency_hash(given);
    let (idempotency, tasks) = (txn.open_table(IDEMPOTENCY)?, txn.open_table(TASKS)?);
    came_before(&idempotency, &tasks, &txn.open_table(PRUNED)?, &hash, given)
}

/// The answer to a request whose Idempotency-Key is known: the same task, or a conflict.
fn came_before(
    idempotency: &impl ReadableTable<Hash, Bytes>,
    tasks: &impl ReadableTable<u64, Bytes>,
    pruned: &impl ReadableTable<u64, Bytes>,
    hash: &[u8; 32],
    given: &Idempotency,
) -> Result<Option<Result<Enqueued, EnqueueError>>, StoreError> {
    let row = idempotency.get(hash)?.map(|row| codec::decode::<IdempotencyRow>("idempotency", row.value()));
    let Some(row) = row.transpose()? else { return Ok(None) };
    if row.task == NO_TASK {
        return Ok(Some(Err(EnqueueError::KnownToTheLedgerAlone)));
    }
    if row.body_hash != given.body_hash {
        return Ok(Some(Err(EnqueueError::IdempotencyConflict { task: row.task })));
    }
    // A task that is gone was finished and pruned: what it made is not made again. While it goes, its counters do.
    let before = get::<PrunedRow>("pruned", pruned, row.task.raw())?;
    let counts = get::<Task>("tasks", tasks, row.task.raw())?.map(|task| task.counts);
    let is_pruned = before.is_some() || counts.is_none();
    Ok(Some(Ok(Enqueued {
        task: row.task,
        state: before.map(|before| before.state).or_else(|| counts.map(|counts| counts.state())),
        items: before.map(|before| before.items).or_else(|| counts.map(|counts| counts.total())).unwrap_or_default(),
        replayed: true,
        pruned: is_pruned,
        warnings: Vec::new(),
    })))
}

fn check(tx: &Tx<'_>, new: &NewTask) -> Ran<(), EnqueueError> {
    let Some(flow) = get_named::<FlowRow>("flows", &tx.flows, &new.flow)? else {
        return Ok(Err(EnqueueError::UnknownFlow));
    };
    if flow.hash != new.flow_hash {
        return Ok(Err(EnqueueError::FlowChanged));
    }
    for (index, item) in (0..).zip(&new.items) {
        if tx.profiles.get(item.profile.as_str())?.is_none() {
            return Ok(Err(EnqueueError::UnknownProfile { index }));
        }
        if let Some(key) = effective_key(new, index, item)
            && let Some(holder) = tx.keys.get(&key_hash(&key))?
        {
            return Ok(Err(EnqueueError::KeyTaken { index, item: ItemId::new(holder.value()) }));
        }
    }
    Ok(Ok(()))
}

/// A rehearsal publishes nothing: it takes no key.
fn effective_key(new: &NewTask, index: u32, item: &NewItem) -> Option<String> {
    if new.rehearsal {
        return None;
    }
    item.key.clone().or_else(|| new.idempotency.as_ref().map(|given| format!("{}#{index}", given.key)))
}

fn insert_task(
    tx: &mut Tx<'_>,
    new: &NewTask,
    idempotency: Option<[u8; 32]>,
    now: Timestamp,
) -> Result<Task, StoreError> {
    let mut counts = Counts::default();
    new.items.iter().for_each(|_| counts.add(ItemState::Queued));
    let task = Task {
        id: tx.next_task(),
        flow: new.flow.clone(),
        flow_hash: new.flow_hash.clone(),
        priority: new.priority,
        max_attempts: new.max_attempts,
        spacing_seconds: new.spacing_seconds,
        on_unknown: new.on_unknown,
        external: new.external.clone(),
        verifiable: new.verifiable,
        rehearsal: new.rehearsal,
        idempotency: idempotency.as_ref().map(|hash| hex(hash)),
        webhook: new.webhook.clone(),
        created_at: now,
        counts,
        finished_at: None,
    };
    tx.put_task(&task)?;
    tx.task_states.insert((counts.state() as u8, task.id.raw()), ())?;
    tx.task_flows.insert((task.flow.as_str(), task.id.raw()), ())?;
    tx.open_flows.insert((task.flow.as_str(), task.id.raw()), ())?;
    if let (Some(hash), Some(given)) = (&idempotency, &new.idempotency) {
        let row = IdempotencyRow { task: task.id, body_hash: given.body_hash, at: now };
        tx.idempotency.insert(hash, codec::encode(&row)?.as_slice())?;
    }
    Ok(task)
}

/// Answers with an older item of the same (flow, profile, media), where there is one that waits, runs or may
/// have published, and no key says that the new one is another thing.
fn insert_item(
    tx: &mut Tx<'_>,
    new: &NewTask,
    task: &Task,
    index: u32,
    asked: &NewItem,
    now: Timestamp,
) -> Result<Option<ItemId>, StoreError> {
    let due_at = asked.not_before.unwrap_or(Timestamp::ZERO);
    let item = Item {
        index,
        inputs: asked.inputs.clone(),
        key: effective_key(new, index, asked),
        priority: new.priority,
        not_before: asked.not_before,
        not_after: asked.not_after,
        due_at,
        place: if due_at <= now && !tx.is_due_by_suspect_clock(due_at) { Place::Ready } else { Place::Due },
        external: task.external.clone(),
        ..Item::new(tx.next_item(), task.id, asked.profile.clone(), now)
    };
    tx.insert_item(&item)?;
    let place = (item.profile.as_str(), task.id.raw());
    let others = tx.task_profiles.get(place)?.map_or(0, |row| row.value());
    tx.task_profiles.insert(place, others + 1)?;
    if let Some(key) = &item.key {
        tx.keys.insert(&key_hash(key), item.id.raw())?;
    }
    // A rehearsal publishes nothing that could be published again.
    let Some(likeness) = (!task.rehearsal).then(|| likeness(&task.flow, &item)).flatten() else {
        return Ok(None);
    };
    let older = tx.duplicates.get(&likeness)?.map(|row| ItemId::new(row.value()));
    let row = older.map(|older| tx.item(older)).transpose()?.flatten();
    let published = |item: &Item| item.state == ItemState::Succeeded || item.may_have_published();
    let ended = |item: &Item| item.state.is_terminal() && !published(item);
    // One that went out is a better warning than one that may not.
    if !row.as_ref().is_some_and(published) {
        tx.duplicates.insert(&likeness, item.id.raw())?;
    }
    Ok(older.filter(|_| asked.key.is_none() && !row.as_ref().is_some_and(ended)))
}

/// SHA-256 of (flow, profile, media); None without media.
pub(in crate::store) fn likeness(flow: &str, item: &Item) -> Option<[u8; 32]> {
    let mut files: Vec<&str> =
        item.inputs.values().filter_map(|input| input.as_file()).map(|file| file.sha256.as_str()).collect();
    if files.is_empty() {
        return None;
    }
    files.sort_unstable();
    let mut hasher = Sha256::new();
    for part in [flow, item.profile.as_str()].into_iter().chain(files) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    Some(hasher.finalize().into())
}
