//! The tables of the state file, and the one write transaction that has them all open.
//!
//! Called by the store's operations alone. Keys grow (ids and event numbers come from one sequence), so
//! that a million rows stay cheap; the exceptions are hashes. An index holds nothing that its primary
//! table does not say: `check.rs` looks at each. One list at the end of this file says which tables there
//! are; whoever goes through all of them does so by [`each_table`]. Which operation may write what is not
//! decided here.

use redb::{Key, ReadableTable, Table, TableDefinition, Value, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ledger::Line;
use super::{News, StoreError, codec};
use crate::meter::Mark;
use crate::model::id::SEQUENCE_BITS;
use crate::model::{BootId, BootTime, Fence, ItemId, ItemState, Moment, TaskId, TaskState, Timestamp};

pub(super) type Bytes = &'static [u8];
pub(super) type Hash = &'static [u8; 32];

/// Fixed for ever: any version can read which schema a file has.
pub(super) const SCHEMA: TableDefinition<&str, u32> = TableDefinition::new("schema");
pub(super) const META: TableDefinition<&str, Bytes> = TableDefinition::new("meta");

pub(super) const TASKS: TableDefinition<u64, Bytes> = TableDefinition::new("tasks");
/// What a person asked of a task afterwards.
pub(super) const INTENTS: TableDefinition<u64, Bytes> = TableDefinition::new("intents");
/// Tasks whose intent the engine has not carried out on every item yet → the item to go on from.
pub(super) const SETTLING: TableDefinition<u64, u64> = TableDefinition::new("settling");
/// Index: (state, task).
pub(super) const TASK_STATES: TableDefinition<(u8, u64), ()> = TableDefinition::new("task_states");
/// Index: (flow name, task).
pub(super) const TASK_FLOWS: TableDefinition<(&str, u64), ()> = TableDefinition::new("task_flows");
/// Index: (flow name, task) of tasks that are not terminal.
pub(super) const OPEN_FLOWS: TableDefinition<(&str, u64), ()> = TableDefinition::new("open_flows");
/// Index: (profile, task) → how many items.
pub(super) const TASK_PROFILES: TableDefinition<(&str, u64), u32> = TableDefinition::new("task_profiles");

pub(super) const ITEMS: TableDefinition<u64, Bytes> = TableDefinition::new("items");
/// Index: (task, item).
pub(super) const TASK_ITEMS: TableDefinition<(u64, u64), ()> = TableDefinition::new("task_items");
/// Index: (state, item).
pub(super) const ITEM_STATES: TableDefinition<(u8, u64), ()> = TableDefinition::new("item_states");
/// Index: (profile, item).
pub(super) const ITEM_PROFILES: TableDefinition<(&str, u64), ()> = TableDefinition::new("item_profiles");
/// Index: finished tasks, (finished in milliseconds, task).
pub(super) const FINISHED: TableDefinition<(u64, u64), ()> = TableDefinition::new("finished");
/// Index: items in [`Place::Ready`](crate::model::Place), (lane, profile, rank of the priority, item). The
/// lane is the kind of outside worker, empty for cove itself.
pub(super) const READY: TableDefinition<(&str, &str, u32, u64), ()> = TableDefinition::new("ready");
/// Index: how many of these a (lane, profile) has, and the first of them (rank, item): who looks for work reads
/// one short table, however long the queues are.
pub(super) const READY_HEADS: TableDefinition<(&str, &str), (u64, u32, u64)> = TableDefinition::new("ready_heads");
/// Index: items in `Place::Due`, (due in milliseconds, item).
pub(super) const DUE: TableDefinition<(u64, u64), ()> = TableDefinition::new("due");
/// Index: items that wait and have a `not_after`, (that in milliseconds, item).
pub(super) const NOT_AFTER: TableDefinition<(u64, u64), ()> = TableDefinition::new("not_after");
/// Index: items in `Place::Paused`.
pub(super) const PAUSED: TableDefinition<u64, ()> = TableDefinition::new("paused");
/// Index: items with a verify to come, (due in milliseconds, item).
pub(super) const VERIFY_DUE: TableDefinition<(u64, u64), ()> = TableDefinition::new("verify_due");

/// SHA-256 of an item's key → the item that holds it.
pub(super) const KEYS: TableDefinition<Hash, u64> = TableDefinition::new("keys");
/// SHA-256 of (scope, Idempotency-Key) → what it made.
pub(super) const IDEMPOTENCY: TableDefinition<Hash, Bytes> = TableDefinition::new("idempotency");
/// Task of an Idempotency-Key that was pruned, or is being pruned → what it was. A file from before this table gets
/// it at its next open, empty.
pub(super) const PRUNED: TableDefinition<u64, Bytes> = TableDefinition::new("pruned");
/// Items whose unknown outcome was settled as published. A file from before this table gets it at its next open, empty.
pub(super) const SETTLED_PUBLISHED: TableDefinition<u64, ()> = TableDefinition::new("settled_published");
/// SHA-256 of (flow, profile, media) → an item that was made of them: one that may have published, else the
/// newest.
pub(super) const DUPLICATES: TableDefinition<Hash, u64> = TableDefinition::new("duplicates");

/// (task, number) → a line of its log.
pub(super) const EVENTS: TableDefinition<(u64, u64), Bytes> = TableDefinition::new("events");
/// What is told to webhooks, and how far it has come.
pub(super) const DELIVERIES: TableDefinition<u64, Bytes> = TableDefinition::new("deliveries");
/// Index: deliveries that wait, (target, due in milliseconds, delivery).
pub(super) const DELIVERIES_DUE: TableDefinition<(&str, u64, u64), ()> = TableDefinition::new("deliveries_due");
/// Index: deliveries that ended, (when in milliseconds, delivery).
pub(super) const DELIVERIES_ENDED: TableDefinition<(u64, u64), ()> = TableDefinition::new("deliveries_ended");
/// Index: (task, delivery).
pub(super) const TASK_DELIVERIES: TableDefinition<(u64, u64), ()> = TableDefinition::new("task_deliveries");
/// (kind, key) → lock.
pub(super) const LOCKS: TableDefinition<(&str, &str), Bytes> = TableDefinition::new("locks");
/// Index: (kind, end of the lease in milliseconds of this boot, key) of locks with a lease.
pub(super) const LOCK_EXPIRY: TableDefinition<(&str, u64, &str), ()> = TableDefinition::new("lock_expiry");
/// Index: (owner's text, kind, key).
pub(super) const LOCK_OWNERS: TableDefinition<(&str, &str, &str), ()> = TableDefinition::new("lock_owners");
/// SHA-256 of a token's text → what is kept of it.
pub(super) const TOKENS: TableDefinition<Hash, Bytes> = TableDefinition::new("tokens");
/// Name of a job → what is kept of it.
pub(super) const MAINTENANCE: TableDefinition<&str, Bytes> = TableDefinition::new("maintenance");
pub(super) const PROFILES: TableDefinition<&str, Bytes> = TableDefinition::new("profiles");
pub(super) const FLOWS: TableDefinition<&str, Bytes> = TableDefinition::new("flows");
/// Content hash → recording, as it was put.
pub(super) const RECORDINGS: TableDefinition<&str, Bytes> = TableDefinition::new("recordings");
/// (step in seconds, begin of the step in milliseconds) → the numbers of that time. A file from before this table
/// gets it at its next open, empty.
pub(super) const HISTORY: TableDefinition<(u32, u64), Bytes> = TableDefinition::new("history");

/// What the store knows of itself; one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Of every id made now (fence.md rule 1).
    pub epoch: u64,
    /// How often this state was opened; the ledger counts, too (fence.md rule 17).
    pub opens: u64,
    /// The last one given out in this epoch.
    pub sequence: u64,
    /// Items in each state, so that nobody has to count them.
    pub items: [u64; ItemState::ALL.len()],
    /// Items in `Place::Due` after a failed attempt; the others there are scheduled.
    pub backing_off: u64,
    /// Items held for the clock.
    pub held_for_clock: u64,
    /// Why nothing is claimed, while nothing is.
    pub pause: Option<super::Pause>,
    /// The boot that the leases of all locks run in (fence.md rule 20).
    pub boot_id: BootId,
    /// When the daemon last looked at the clock, and whether it believed it.
    pub clock: Option<super::ClockMark>,
    /// What came due while the daemon was down is being spread over the time to come.
    pub catch_up: Option<CatchUp>,
}

/// How far a backlog is spread (fence.md rule 24).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CatchUp {
    pub since: Timestamp,
    pub interval_ms: u64,
    /// The item to go on from, and how many came before it.
    pub next: u64,
    pub counted: u64,
}

pub(super) const META_KEY: &str = "state";

/// Something that is done with every table.
pub(super) trait ForEachTable {
    type Error;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Self::Error>;
}

/// The task of an Idempotency-Key that only the ledger knows. No task has this number.
pub(super) const NO_TASK: TaskId = TaskId::new(0);

/// What an Idempotency-Key made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdempotencyRow {
    pub task: TaskId,
    pub body_hash: [u8; 32],
    pub at: Timestamp,
}

/// What a task was whose Idempotency-Key outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PrunedRow {
    pub state: TaskState,
    pub items: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FlowRow {
    pub hash: String,
    pub bytes: u64,
    pub updated_at: Timestamp,
}

macro_rules! transaction {
    ($($field:ident: $table:ident<$key:ty, $value:ty>;)+) => {
        /// One write transaction with every table open.
        pub(super) struct Tx<'txn> {
            $(pub $field: Table<'txn, $key, $value>,)+
            pub meta: Meta,
            /// Lines that must be durable before the commit (`published`), and after it (`armed`).
            pub ledger_before: Vec<Line>,
            pub ledger_after: Vec<Line>,
            /// A damaged ledger is to be followed by another, before the commit.
            pub ledger_anew: Option<Timestamp>,
            /// What happens is no news: webhooks are not told.
            pub silent: bool,
            /// The sender of webhooks has something to look at after the commit.
            pub wakes_sender: bool,
            /// Lines of logs, for the feed.
            pub told: Vec<News>,
            /// What is counted after the commit.
            pub marks: Vec<Mark>,
            /// Counts writes, so that a refused operation can be shown to have left nothing behind.
            pub writes: u64,
            /// The latest time that an operation has decided by.
            pub latest: BootTime,
        }

        impl<'txn> Tx<'txn> {
            pub fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
                let meta_table = txn.open_table(META)?;
                let meta = meta_table
                    .get(META_KEY)?
                    .map(|row| codec::decode::<Meta>("meta", row.value()))
                    .transpose()?
                    .ok_or_else(|| StoreError::Corrupt("meta: the row is missing".to_owned()))?;
                drop(meta_table);
                Ok(Self {
                    $($field: txn.open_table($table)?,)+
                    meta,
                    ledger_before: Vec::new(),
                    ledger_after: Vec::new(),
                    ledger_anew: None,
                    silent: false,
                    wakes_sender: false,
                    told: Vec::new(),
                    marks: Vec::new(),
                    writes: 0,
                    latest: BootTime::default(),
                })
            }
        }

        /// Makes every table, so that a reader never meets a missing one.
        pub(super) fn create_all(txn: &WriteTransaction) -> Result<(), StoreError> {
            txn.open_table(SCHEMA)?;
            txn.open_table(META)?;
            $(txn.open_table($table)?;)+
            Ok(())
        }

        /// Every table of the file, `schema` and `meta` first.
        pub(super) fn each_table<F: ForEachTable>(visitor: &mut F) -> Result<(), F::Error> {
            visitor.visit(SCHEMA)?;
            visitor.visit(META)?;
            $(visitor.visit($table)?;)+
            Ok(())
        }
    };
}

transaction! {
    tasks: TASKS<u64, Bytes>;
    intents: INTENTS<u64, Bytes>;
    settling: SETTLING<u64, u64>;
    task_states: TASK_STATES<(u8, u64), ()>;
    task_flows: TASK_FLOWS<(&'static str, u64), ()>;
    open_flows: OPEN_FLOWS<(&'static str, u64), ()>;
    task_profiles: TASK_PROFILES<(&'static str, u64), u32>;
    items: ITEMS<u64, Bytes>;
    task_items: TASK_ITEMS<(u64, u64), ()>;
    item_states: ITEM_STATES<(u8, u64), ()>;
    item_profiles: ITEM_PROFILES<(&'static str, u64), ()>;
    finished: FINISHED<(u64, u64), ()>;
    ready: READY<(&'static str, &'static str, u32, u64), ()>;
    ready_heads: READY_HEADS<(&'static str, &'static str), (u64, u32, u64)>;
    due: DUE<(u64, u64), ()>;
    not_after: NOT_AFTER<(u64, u64), ()>;
    paused: PAUSED<u64, ()>;
    verify_due: VERIFY_DUE<(u64, u64), ()>;
    keys: KEYS<Hash, u64>;
    idempotency: IDEMPOTENCY<Hash, Bytes>;
    pruned: PRUNED<u64, Bytes>;
    settled_published: SETTLED_PUBLISHED<u64, ()>;
    duplicates: DUPLICATES<Hash, u64>;
    events: EVENTS<(u64, u64), Bytes>;
    deliveries: DELIVERIES<u64, Bytes>;
    deliveries_due: DELIVERIES_DUE<(&'static str, u64, u64), ()>;
    deliveries_ended: DELIVERIES_ENDED<(u64, u64), ()>;
    task_deliveries: TASK_DELIVERIES<(u64, u64), ()>;
    locks: LOCKS<(&'static str, &'static str), Bytes>;
    lock_expiry: LOCK_EXPIRY<(&'static str, u64, &'static str), ()>;
    lock_owners: LOCK_OWNERS<(&'static str, &'static str, &'static str), ()>;
    tokens: TOKENS<Hash, Bytes>;
    maintenance: MAINTENANCE<&'static str, Bytes>;
    profiles: PROFILES<&'static str, Bytes>;
    flows: FLOWS<&'static str, Bytes>;
    recordings: RECORDINGS<&'static str, Bytes>;
    history: HISTORY<(u32, u64), Bytes>;
}

/// What an operation's tables leave behind.
pub(super) struct Closed {
    pub meta: Meta,
    pub ledger_before: Vec<Line>,
    pub ledger_after: Vec<Line>,
    pub ledger_anew: Option<Timestamp>,
    pub wakes_sender: bool,
    pub told: Vec<News>,
    pub marks: Vec<Mark>,
    pub writes: u64,
    pub latest: BootTime,
}

impl Tx<'_> {
    /// The caller's time, moved on to the latest that was decided by. Callers read the clock and then wait
    /// for their turn, which may overtake: a lease that was over for one must not be alive for the next.
    pub fn in_order(&mut self, now: Moment) -> Moment {
        self.latest = self.latest.max(now.boot);
        Moment { boot: self.latest, ..now }
    }

    /// The next number of the one sequence that ids, fences and log lines share.
    pub fn next_number(&mut self) -> u64 {
        self.meta.sequence += 1;
        assert!(self.meta.sequence < 1 << SEQUENCE_BITS, "an epoch's 2^40 ids are used up");
        self.meta.epoch << SEQUENCE_BITS | self.meta.sequence
    }

    pub fn next_task(&mut self) -> TaskId {
        TaskId::new(self.next_number())
    }

    pub fn next_item(&mut self) -> ItemId {
        ItemId::new(self.next_number())
    }

    pub fn next_fence(&mut self) -> Fence {
        Fence::new(self.next_number())
    }

    /// Closes the tables, so that the transaction can end; what is left is what the end needs.
    pub fn close(self) -> Closed {
        let Self { meta, ledger_before, ledger_after, ledger_anew, wakes_sender, told, marks, writes, latest, .. } =
            self;
        Closed { meta, ledger_before, ledger_after, ledger_anew, wakes_sender, told, marks, writes, latest }
    }

    /// Writes what changed of `meta`; called once, right before the commit.
    pub fn write_meta(txn: &WriteTransaction, meta: &Meta) -> Result<(), StoreError> {
        txn.open_table(META)?.insert(META_KEY, codec::encode(meta)?.as_slice())?;
        Ok(())
    }
}

/// Reads one record of a table whose key is a number.
pub(super) fn get<T: DeserializeOwned>(
    name: &'static str,
    table: &impl ReadableTable<u64, Bytes>,
    key: u64,
) -> Result<Option<T>, StoreError> {
    table.get(key)?.map(|row| codec::decode(name, row.value())).transpose()
}

/// Reads one record of a table whose key is text.
pub(super) fn get_named<T: DeserializeOwned>(
    name: &'static str,
    table: &impl ReadableTable<&'static str, Bytes>,
    key: &str,
) -> Result<Option<T>, StoreError> {
    table.get(key)?.map(|row| codec::decode(name, row.value())).transpose()
}
