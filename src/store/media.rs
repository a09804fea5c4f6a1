//! SKELETON (api room): the media folder, `<state dir>/media/<first two hex digits>/<sha256>`.
//!
//! Streams a body to disk, hashed on the way, deduplicated and bounded, fsync + rename; resolves a
//! file input of a request to a [`FileInput`]; looks at a file again before start and when arming.
