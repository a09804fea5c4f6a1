//! SKELETON
use super::{Flow, Problem};

pub(super) fn parse(_json: &[u8]) -> Result<(Flow, Vec<Problem>), Vec<Problem>> {
    unimplemented!()
}
