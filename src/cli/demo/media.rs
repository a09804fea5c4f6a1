//! The demo's video files: one tiny real MP4 from the binary, made a few megabytes long by a `free` box
//! of random bytes at its end. It plays as before, no encoder is needed, and no two files are alike.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cli::practice::base16;

/// 1.5 seconds of H.264, 64 by 64 pixels.
const CLIP: &[u8] = include_bytes!("tiny.mp4");
/// Size and name of a box.
const BOX_HEAD_BYTES: u32 = 8;
const MIB: u32 = 1024 * 1024;

/// A video file as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Video {
    pub path: PathBuf,
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl Video {
    /// The file's name alone.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes a new clip of 2 to 4 MiB.
    pub fn make(path: &Path, random: &mut fastrand::Rng) -> std::io::Result<Self> {
        let padding = random.u32(2 * MIB..4 * MIB);
        let bytes = padded(padding, random);
        std::fs::write(path, &bytes)?;
        let sha256 = base16(&Sha256::digest(&bytes));
        Ok(Self { path: path.to_owned(), bytes: bytes.len() as u64, sha256 })
    }
}

/// The clip and a `free` box whose content is `padding` random bytes.
fn padded(padding: u32, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = CLIP.to_vec();
    bytes.extend_from_slice(&(BOX_HEAD_BYTES + padding).to_be_bytes());
    bytes.extend_from_slice(b"free");
    let begin = bytes.len();
    bytes.resize(begin + padding as usize, 0);
    random.fill(&mut bytes[begin..]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{CLIP, Video, padded};

    /// Names and sizes of the boxes, which must fill the file to its last byte.
    fn boxes(mut bytes: &[u8]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let size = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            found.push((String::from_utf8(bytes[4..8].to_vec()).unwrap(), size));
            bytes = &bytes[size..];
        }
        found
    }

    #[test]
    fn the_clip_stays_whole_and_the_padding_is_a_box_of_its_own() {
        let clip = boxes(CLIP);
        assert!(clip.iter().any(|(name, _)| name == "moov") && clip.iter().any(|(name, _)| name == "mdat"), "{clip:?}");
        let long = padded(1_000, &mut fastrand::Rng::with_seed(1));
        assert_eq!(&long[..CLIP.len()], CLIP);
        assert_eq!(boxes(&long).split_last(), Some((&("free".to_owned(), 1_008), clip.as_slice())));
    }

    #[test]
    fn files_are_a_few_megabytes_and_never_alike() {
        let dir = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(2);
        let mut make = |name: &str| Video::make(&dir.path().join(name), &mut random).unwrap();
        let (one, other) = (make("one.mp4"), make("other.mp4"));
        assert_ne!(one.sha256, other.sha256);
        for video in [one, other] {
            assert_eq!(std::fs::metadata(&video.path).unwrap().len(), video.bytes);
            assert!((2 << 20..(4 << 20) + 16_384).contains(&video.bytes), "{}", video.bytes);
        }
    }
}
