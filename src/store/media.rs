//! SKELETON (api room).

use std::io;
use std::path::{Path, PathBuf};

use crate::model::FileInput;

#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[derive(Clone)]
pub struct MediaStore {}

pub async fn unchanged(_file: &FileInput) -> io::Result<bool> {
    unimplemented!()
}

impl MediaStore {
    pub fn new(_state_dir: &Path, _roots: Vec<PathBuf>, _max_bytes: u64) -> io::Result<Self> {
        Ok(Self {})
    }
    pub async fn resolve(&self, _name: &str) -> Result<FileInput, MediaError> {
        unimplemented!()
    }
}
