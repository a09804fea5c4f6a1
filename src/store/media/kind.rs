//! What a media file is, by its first bytes: sites look at a file's name, and uploaded bytes have none.
//!
//! Only kinds that are published; anything else keeps its hash as its whole name.

/// Bytes that are enough to tell.
pub const HEAD_BYTES: usize = 16;

/// Every ending that [`of`] answers.
pub const ENDINGS: &[&str] = &["mp4", "mov", "webm", "jpg", "png", "gif", "webp", "mp3", "wav", "pdf"];

/// The usual ending of a file that begins so.
#[must_use]
pub fn of(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..offset + bytes.len()) == Some(bytes);
    if at(4, b"ftyp") {
        return Some(if at(8, b"qt  ") { "mov" } else { "mp4" });
    }
    if at(0, b"RIFF") {
        return match head.get(8..12)? {
            b"WEBP" => Some("webp"),
            b"WAVE" => Some("wav"),
            _ => None,
        };
    }
    let table: [(&[u8], &str); 7] = [
        (b"\x1a\x45\xdf\xa3", "webm"),
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF8", "gif"),
        (b"ID3", "mp3"),
        (b"\xff\xfb", "mp3"),
        (b"%PDF-", "pdf"),
    ];
    table.into_iter().find(|(magic, _)| at(0, magic)).map(|(_, ending)| ending)
}

#[cfg(test)]
mod tests {
    use super::{ENDINGS, of};

    #[test]
    fn the_first_bytes_tell() {
        assert_eq!(of(include_bytes!("../../cli/demo/tiny.mp4")), Some("mp4"));
        assert_eq!(of(b"\0\0\0\x14ftypqt  "), Some("mov"));
        assert_eq!(of(b"\x89PNG\r\n\x1a\n\0"), Some("png"));
        assert_eq!(of(b"RIFF\0\0\0\0WEBPVP8 "), Some("webp"));
        for unknown in [b"".as_slice(), b"ft", b"hello", b"RIFF"] {
            assert_eq!(of(unknown), None);
        }
        assert!(ENDINGS.contains(&"jpg"));
    }
}
