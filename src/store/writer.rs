//! The writer: one named thread that commits whatever waits together.
//!
//! Every caller is answered after the fsync of the transaction that holds its operation. The order
//! around the ledger is the fence's (fence.md rules 5 and 7): `published` lines are durable before the
//! commit, `armed` lines after it, both before anyone is answered. An operation that is refused must
//! have written nothing; one that has anyway is thrown out and the others are run again without it. A
//! failed write or fsync is final: nothing more is acknowledged, and the daemon stops.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::StoreError;
use super::feed::Feed;
use super::ledger::{Ledger, Line, Position};
use super::tables::{Closed, Tx};
use crate::meter::{Meter, Timed};
use crate::model::BootTime;

/// Operations that wait; a caller beyond waits for room.
const QUEUE: usize = 1_024;
/// Operations in one transaction.
const BATCH: usize = 256;
/// How long a batch waits for callers that are on their way: this part of the last commit's time, and at
/// most so long. On a disk that is quicker than this there is nothing to gain: the callers' own work goes
/// on beside a commit, and a wait would only come on top.
const LINGER_FROM: Duration = Duration::from_millis(1);
const LINGER_PART: u32 = 4;
const LINGER_MOST: Duration = Duration::from_millis(1);
const LINGER_STEP: Duration = Duration::from_micros(50);
/// Commits that the figures in [`WriterStats`] look back on.
const WINDOW: usize = 256;

/// What an operation says inside the transaction: done, refused (and nothing written), or the file failed.
pub(super) type Ran<T, R> = Result<Result<T, R>, StoreError>;

trait Operation: Send {
    /// Runs, or runs again in a fresh transaction. False: refused.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<bool, StoreError>;
    /// Answers the caller after the commit, or with the error that prevented it.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<F, T, R> {
    work: F,
    outcome: Option<Result<T, R>>,
    reply: oneshot::Sender<Result<Result<T, R>, StoreError>>,
}

impl<F, T, R> Operation for Call<F, T, R>
where
    F: FnMut(&mut Tx<'_>) -> Ran<T, R> + Send,
    T: Send,
    R: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let outcome = (self.work)(tx)?;
        let accepted = outcome.is_ok();
        self.outcome = Some(outcome);
        Ok(accepted)
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => Ok(outcome),
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(error), _) => Err(error),
        };
        // The caller may have gone away; what it asked for is committed all the same.
        drop(self.reply.send(answer));
    }
}

/// Figures of the last commits.
#[derive(Default)]
pub(super) struct WriterStats {
    commits: Vec<(Duration, u32)>,
    next: usize,
}

impl WriterStats {
    fn add(&mut self, took: Duration, operations: u32) {
        if self.commits.len() < WINDOW {
            self.commits.push((took, operations));
        } else {
            self.commits[self.next] = (took, operations);
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// 99th percentile of the time of a commit, ledger included.
    pub fn commit_p99(&self) -> Duration {
        let mut times: Vec<_> = self.commits.iter().map(|(took, _)| *took).collect();
        times.sort_unstable();
        times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Median of the operations in one commit.
    pub fn batch_p50(&self) -> u32 {
        let mut sizes: Vec<_> = self.commits.iter().map(|(_, operations)| *operations).collect();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied().unwrap_or_default()
    }
}

/// The callers' side.
#[derive(Clone)]
pub(super) struct WriterHandle {
    queue: mpsc::Sender<Box<dyn Operation>>,
    stats: Arc<Mutex<WriterStats>>,
    failed: watch::Receiver<Option<StoreError>>,
    /// Rung after a commit that leaves the sender of webhooks something to do.
    outbox: Arc<Notify>,
    /// Where the ledger ended after the last commit.
    ledger: Arc<Mutex<Position>>,
}

impl WriterHandle {
    /// Hands an operation to the writer and waits for its commit. `work` may run more than once, each
    /// time in a fresh transaction; it checks everything before its first write.
    pub async fn submit<T, R>(&self, work: impl FnMut(&mut Tx<'_>) -> Ran<T, R> + Send + 'static) -> Ran<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { work, outcome: None, reply });
        if self.queue.send(call).await.is_err() {
            return Err(self.why_closed());
        }
        let mut failed = self.failed.clone();
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(self.why_closed())),
            // What came into the queue while the writer left it is never looked at: it must not wait for ever.
            _ = failed.wait_for(Option::is_some) => Err(self.why_closed()),
        }
    }

    fn why_closed(&self) -> StoreError {
        self.failed.borrow().clone().unwrap_or(StoreError::Closed)
    }

    /// Turns to the reason when the file or the ledger has failed; the daemon stops then.
    pub fn failed(&self) -> watch::Receiver<Option<StoreError>> {
        self.failed.clone()
    }

    /// Everything of the ledger up to here is durable; more may be on its way.
    pub fn ledger_position(&self) -> Position {
        *self.ledger.lock().expect("the writer does not panic while it holds the position")
    }

    pub fn outbox(&self) -> &Notify {
        &self.outbox
    }

    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    pub fn figures(&self) -> (Duration, u32) {
        let stats = self.stats.lock().expect("the writer does not panic while it holds the figures");
        (stats.commit_p99(), stats.batch_p50())
    }
}

/// Starts the thread. It ends, and closes the file, when the last handle is gone.
pub(super) fn start(
    db: Arc<Database>,
    ledger: Ledger,
    feed: Feed,
    meter: Meter,
) -> (WriterHandle, std::thread::JoinHandle<()>) {
    let (queue, inbox) = mpsc::channel(QUEUE);
    let (failing, failed) = watch::channel(None);
    let stats = Arc::new(Mutex::new(WriterStats::default()));
    let outbox = Arc::new(Notify::new());
    let latest = BootTime::default();
    let position = Arc::new(Mutex::new(ledger.position()));
    let (stats_too, outbox_too, position_too) = (stats.clone(), outbox.clone(), position.clone());
    let mut writer = Writer {
        db,
        ledger,
        position: position_too,
        latest,
        stats: stats_too,
        failing,
        outbox: outbox_too,
        feed,
        meter,
    };
    let thread = std::thread::Builder::new()
        .name("cove-store-writer".to_owned())
        .spawn(move || writer.run(inbox))
        .expect("a thread can be started at boot");
    (WriterHandle { queue, stats, failed, outbox, ledger: position }, thread)
}

fn fill(batch: &mut Vec<Box<dyn Operation>>, inbox: &mut mpsc::Receiver<Box<dyn Operation>>) {
    while batch.len() < BATCH {
        match inbox.try_recv() {
            Ok(next) => batch.push(next),
            Err(_) => return,
        }
    }
}

/// Who is likely to come at any moment. While one commit runs, the others wait; answered, its callers come
/// back right after the next has begun without them, and so on for ever: two half batches, two waits for
/// the disk. Waiting a moment makes one of them. A lone caller never waits: nobody waited beside it.
#[derive(Default)]
struct Expected {
    operations: usize,
    linger: Duration,
}

impl Expected {
    fn after(answered: usize, waiting: usize, took: Duration) -> Self {
        let worth_it = waiting > 0 && took >= LINGER_FROM;
        let operations = if worth_it { (answered + waiting).min(BATCH) } else { 0 };
        Self { operations, linger: (took / LINGER_PART).min(LINGER_MOST) }
    }

    fn gather(&self, batch: &mut Vec<Box<dyn Operation>>, inbox: &mut mpsc::Receiver<Box<dyn Operation>>) {
        let began = Instant::now();
        while batch.len() < self.operations && began.elapsed() + LINGER_STEP <= self.linger {
            // The writer's thread is its own: nothing else waits on it.
            std::thread::park_timeout(LINGER_STEP);
            fill(batch, inbox);
        }
    }
}

struct Writer {
    db: Arc<Database>,
    ledger: Ledger,
    /// Told after each commit.
    position: Arc<Mutex<Position>>,
    /// Carried from one transaction to the next: see [`Tx::in_order`].
    latest: BootTime,
    stats: Arc<Mutex<WriterStats>>,
    failing: watch::Sender<Option<StoreError>>,
    outbox: Arc<Notify>,
    feed: Feed,
    meter: Meter,
}

impl Writer {
    fn run(&mut self, mut inbox: mpsc::Receiver<Box<dyn Operation>>) {
        let mut expected = Expected::default();
        while let Some(first) = inbox.blocking_recv() {
            let mut batch = vec![first];
            fill(&mut batch, &mut inbox);
            expected.gather(&mut batch, &mut inbox);
            let (operations, began) = (batch.len(), Instant::now());
            let committed = catch_unwind(AssertUnwindSafe(|| self.commit(&mut batch)));
            let panicked = |_| Err(StoreError::Corrupt("the writer ended in a panic".to_owned()));
            if let Err(error) = committed.unwrap_or_else(panicked) {
                tracing::error!(%error, "nothing more is acknowledged: the daemon has to stop");
                self.failing.send_replace(Some(error.clone()));
                for operation in batch {
                    operation.answer(Err(error.clone()));
                }
                return;
            }
            // Before anyone is answered: a caller that is back at once has not been waiting.
            expected = Expected::after(operations, inbox.len(), began.elapsed());
            for operation in batch {
                operation.answer(Ok(()));
            }
        }
    }

    /// Runs one batch. What is left in it afterwards shares its fate; what was refused has its answer.
    fn commit(&mut self, batch: &mut Vec<Box<dyn Operation>>) -> Result<(), StoreError> {
        let started = Instant::now();
        // Refused, but it had written: out with it, and once more without it.
        while let Some(dirty) = self.try_commit(batch)? {
            batch.remove(dirty).answer(Ok(()));
        }
        let operations = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let took = started.elapsed();
        self.stats.lock().expect("readers of the figures do not panic").add(took, operations);
        self.meter.time(Timed::StoreCommit, took);
        Ok(())
    }

    /// One transaction. `Some(n)`: operation n was refused after it had written; nothing is committed.
    fn try_commit(&mut self, batch: &mut [Box<dyn Operation>]) -> Result<Option<usize>, StoreError> {
        let mut txn = self.db.begin_write()?;
        // Opening after a crash is instant whatever the size of the file; group commit pays for it.
        txn.set_quick_repair(true);
        let mut tx = Tx::open(&txn)?;
        tx.latest = self.latest;
        let before_meta = tx.meta.clone();
        for (number, operation) in batch.iter_mut().enumerate() {
            let writes = tx.writes;
            if !operation.run(&mut tx)? && tx.writes > writes {
                drop(tx);
                txn.abort()?;
                return Ok(Some(number));
            }
        }
        let Closed { meta, ledger_before, ledger_after, ledger_anew, wakes_sender, told, marks, writes, latest } =
            tx.close();
        self.latest = latest;
        if writes == 0 && ledger_before.is_empty() && ledger_after.is_empty() {
            txn.abort()?;
            return Ok(None);
        }
        if meta != before_meta {
            Tx::write_meta(&txn, &meta)?;
        }
        if let Some(now) = ledger_anew {
            self.ledger.begin_anew(&Line::Epoch { epoch: meta.epoch, opens: meta.opens, at: now }, now)?;
        }
        self.ledger.append(&ledger_before)?;
        txn.commit()?;
        self.ledger.append(&ledger_after)?;
        *self.position.lock().expect("readers of the position do not panic") = self.ledger.position();
        if wakes_sender {
            self.outbox.notify_one();
        }
        self.feed.tell(told);
        self.meter.mark(marks);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::sync::mpsc;

    use super::{BATCH, Expected, LINGER_MOST};

    #[test]
    fn a_batch_waits_for_those_on_their_way_and_not_for_long() {
        let slow = Duration::from_millis(2);
        assert_eq!(Expected::after(1, 0, slow).operations, 0, "a lone caller waits for nobody");
        assert_eq!(Expected::after(7, 9, slow).operations, 16);
        assert_eq!(Expected::after(BATCH, 700, slow).operations, BATCH);
        assert_eq!(Expected::after(7, 9, Duration::from_secs(9)).linger, LINGER_MOST);
        let (_callers, mut inbox) = mpsc::channel(1);
        let began = Instant::now();
        Expected::after(7, 9, slow).gather(&mut Vec::new(), &mut inbox);
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(Expected::after(7, 9, Duration::from_micros(700)).operations, 0, "a quick disk");
    }
}
