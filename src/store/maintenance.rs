//! What is kept of the jobs of the maintenance: one record a job.
//!
//! Called by `ops::maintenance` alone. Nothing follows from these records inside the store. A record of a job that
//! this version does not know is left as it is.

use redb::{ReadTransaction, ReadableTable};

use super::tables::{MAINTENANCE, Tx};
use super::writer::Ran;
use super::{Store, StoreError, codec, sure};
use crate::model::{Job, JobRecord};

fn note(tx: &mut Tx<'_>, job: Job, record: &JobRecord) -> Ran<(), std::convert::Infallible> {
    tx.writes += 1;
    tx.maintenance.insert(job.name(), codec::encode(record)?.as_slice())?;
    Ok(Ok(()))
}

fn list(txn: &ReadTransaction) -> Result<Vec<(Job, JobRecord)>, StoreError> {
    let mut records = Vec::new();
    for row in txn.open_table(MAINTENANCE)?.iter()? {
        let (name, row) = row?;
        if let Some(job) = Job::from_name(name.value()) {
            records.push((job, codec::decode("maintenance", row.value())?));
        }
    }
    Ok(records)
}

/// Maintenance.
impl Store {
    pub async fn note_job(&self, job: Job, record: JobRecord) -> Result<(), StoreError> {
        sure(self.writer.submit(move |tx| note(tx, job, &record)).await)
    }

    /// Of the jobs that have any.
    pub async fn job_records(&self) -> Result<Vec<(Job, JobRecord)>, StoreError> {
        self.read(list).await
    }
}
