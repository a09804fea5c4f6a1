//! SKELETON of the flow room: the evidence folder of one attempt.

use std::path::{Path, PathBuf};

use super::AttemptName;
use crate::model::ItemId;

/// The folder of one attempt: `<state dir>/evidence/<item>/<fence>`, mode 0700.
pub struct EvidenceFolder {
    pub name: AttemptName,
    pub dir: PathBuf,
}

impl EvidenceFolder {
    /// Makes the folder. `max_bytes` is the budget of the whole attempt.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(state_dir: &Path, item: ItemId, name: AttemptName, max_bytes: u64) -> std::io::Result<Self> {
        let _ = (state_dir, item, name, max_bytes);
        unimplemented!("flow room")
    }
}

/// Where a kept file lies; the API serves it from here.
#[must_use]
pub fn path_of(state_dir: &Path, item: ItemId, file: &crate::model::EvidenceFile) -> PathBuf {
    state_dir.join("evidence").join(item.to_string()).join(file.fence.to_string()).join(&file.file)
}
