//! SKELETON of the flow room: the replay itself.

use super::{CommitGate, Replay, Replayed, Session};

pub async fn run(_session: &Session, _replay: Replay<'_>, _gate: &dyn CommitGate) -> Replayed {
    unimplemented!("flow room")
}
