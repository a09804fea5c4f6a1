//! Profiles: made once or listed by their provider, parked when a site asks for a person, let go by that person.
//!
//! A parked profile starts nothing, and its items wait without losing an attempt. Parking comes with the
//! end of the attempt that met the site's question, in the same transaction. Which browser belongs to a
//! profile is not known here.

use std::convert::Infallible;

use redb::{ReadTransaction, ReadableTable};

use super::tables::{PROFILES, Tx};
use super::writer::Ran;
use super::{CreateProfileError, PutProfiles, StoreError, codec};
use crate::model::{HookEvent, Item, Parked, Profile, ProfileEffect, ProfileId, Timestamp};

pub(super) fn create(tx: &mut Tx<'_>, id: &ProfileId, name: &str, now: Timestamp) -> Ran<Profile, CreateProfileError> {
    if tx.profiles.get(id.as_str())?.is_some() {
        return Ok(Err(CreateProfileError::Exists));
    }
    let profile = unused(id.clone(), name.to_owned(), now);
    tx.put_profile(&profile)?;
    Ok(Ok(profile))
}

/// Profiles as their provider lists them: new ones are made, and names follow.
pub(super) fn put_listed(
    tx: &mut Tx<'_>,
    listed: &[(ProfileId, String)],
    now: Timestamp,
) -> Ran<PutProfiles, Infallible> {
    let mut put = PutProfiles::default();
    for (id, name) in listed {
        match tx.profile(id.as_str())? {
            Some(profile) if profile.name == *name => {}
            Some(profile) => {
                tx.put_profile(&Profile { name: name.clone(), ..profile })?;
                put.renamed += 1;
            }
            None => {
                tx.put_profile(&unused(id.clone(), name.clone(), now))?;
                put.added += 1;
            }
        }
    }
    Ok(Ok(put))
}

const fn unused(id: ProfileId, name: String, now: Timestamp) -> Profile {
    Profile { id, name, created_at: now, parked: None, rests_until: None, last_armed_at: None }
}

/// A person has done what the site asked for. None: no such profile; unparking twice is unparking once.
pub(super) fn unpark(tx: &mut Tx<'_>, id: &ProfileId) -> Ran<Option<Profile>, Infallible> {
    let Some(mut profile) = tx.profile(id.as_str())? else { return Ok(Ok(None)) };
    if profile.parked.is_some() || profile.rests_until.is_some() {
        profile.parked = None;
        profile.rests_until = None;
        tx.put_profile(&profile)?;
    }
    Ok(Ok(Some(profile)))
}

pub(super) fn list(txn: &ReadTransaction) -> Result<Vec<Profile>, StoreError> {
    txn.open_table(PROFILES)?.iter()?.map(|row| codec::decode("profiles", row?.1.value())).collect()
}

impl Tx<'_> {
    /// What the end of an attempt of `item` means for its profile.
    pub fn affect_profile(&mut self, item: &Item, effect: &ProfileEffect, now: Timestamp) -> Result<(), StoreError> {
        let Some(mut profile) = self.profile(item.profile.as_str())? else { return Ok(()) };
        match effect {
            ProfileEffect::Park(message) => {
                profile.parked = Some(Parked { since: now, message: message.clone(), item: Some(item.id) });
                self.log(item.task, Some(item.id), "needs_human", message, now)?;
                if let Some(task) = self.task(item.task)? {
                    self.notify(&task, Some(item), HookEvent::NeedsHuman, now)?;
                }
            }
            ProfileEffect::Rest(until) => {
                profile.rests_until = Some(*until);
                self.log(item.task, Some(item.id), "rate_limited", &format!("until {until}"), now)?;
            }
        }
        self.put_profile(&profile)
    }
}
