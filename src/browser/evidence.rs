//! The evidence of one attempt: a folder, mode 0700, with a byte budget.
//!
//! The replay writes it, the API serves it. `trace.jsonl` has a line a step; `before.png` and `after.png`
//! stand around the commit point; `failure.png` and `failure.txt` show the page at a failure; `console.jsonl`
//! has console errors and failed requests. Values of secret inputs are replaced in everything that is
//! text. What does not fit the budget is dropped and noted; nothing here decides an attempt's outcome,
//! save that a picture before the click which cannot be kept is an error to the caller.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::AttemptName;
use crate::model::{EvidenceFile, ItemId};

/// With less than this free on the disk nothing is kept: what is left is for the ends of attempts.
const LEAST_FREE_BYTES: u64 = 16 * 1024 * 1024;
/// Shown in place of a secret's value.
const MASK: &str = "***";
/// Shorter values would mask half the page.
const LEAST_SECRET_BYTES: usize = 3;
const TRACE: &str = "trace.jsonl";
/// What a browser escapes in an address that is written as it is.
const IN_PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}').add(b'^');
/// What `encodeURIComponent` escapes.
const IN_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The folder of one attempt: `<state dir>/evidence/<item>/<fence>`.
pub struct EvidenceFolder {
    pub name: AttemptName,
    pub dir: PathBuf,
    max_bytes: u64,
}

impl EvidenceFolder {
    /// Makes the folder. `max_bytes` is the budget of the whole attempt.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(state_dir: &Path, item: ItemId, name: AttemptName, max_bytes: u64) -> io::Result<Self> {
        let dir = state_dir.join("evidence").join(item.to_string()).join(name.fence.to_string());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { name, dir, max_bytes })
    }
}

/// Removes everything that any attempt of the item left.
///
/// # Errors
/// When something is there and cannot be removed.
pub fn remove_all_of(state_dir: &Path, item: ItemId) -> io::Result<()> {
    match std::fs::remove_dir_all(state_dir.join("evidence").join(item.to_string())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a kept file lies; the API serves it from here.
#[must_use]
pub fn path_of(state_dir: &Path, item: ItemId, file: &EvidenceFile) -> PathBuf {
    state_dir.join("evidence").join(item.to_string()).join(file.fence.to_string()).join(&file.file)
}

/// Writes into one folder, within its budget.
pub struct EvidenceWriter<'a> {
    folder: &'a EvidenceFolder,
    /// Before the name of every file.
    prefix: &'static str,
    left_bytes: u64,
    secrets: Vec<String>,
    files: Vec<EvidenceFile>,
    dropped: u32,
}

impl<'a> EvidenceWriter<'a> {
    /// `secrets` are the values that must not be seen.
    pub fn new(folder: &'a EvidenceFolder, secrets: Vec<String>) -> Self {
        let long = secrets.into_iter().filter(|secret| secret.len() >= LEAST_SECRET_BYTES);
        let mut secrets: Vec<_> = long.flat_map(|secret| faces(&secret)).collect();
        // The longest first: of a secret that holds another nothing must be left over.
        secrets.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        secrets.dedup();
        Self { folder, prefix: "", left_bytes: folder.max_bytes, secrets, files: Vec::new(), dropped: 0 }
    }

    /// For what may lie in a folder beside an attempt's own files.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }

    /// What was kept, and how many files were not.
    pub fn finish(self) -> (Vec<EvidenceFile>, u32) {
        (self.files, self.dropped)
    }

    /// `text` without any secret, nor the part of one that a bound left at its end.
    pub fn masked(&self, text: &str) -> String {
        let mut masked = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK));
        for secret in &self.secrets {
            let whole = masked.trim_end_matches('…').len();
            let parts = secret.char_indices().map(|(at, _)| at).filter(|at| *at >= LEAST_SECRET_BYTES).rev();
            if let Some(part) = parts.into_iter().find(|at| masked[..whole].ends_with(&secret[..*at])) {
                masked.replace_range(whole - part..whole, MASK);
            }
        }
        masked
    }

    /// Whether a secret is in `text`.
    pub fn is_secret(&self, text: &str) -> bool {
        self.secrets.iter().any(|secret| text.contains(secret))
    }

    /// The same for every text in `value`: in its JSON a secret may be written with escapes.
    fn masked_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.masked(text).into(),
            Value::Array(list) => list.iter().map(|value| self.masked_value(value)).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), self.masked_value(value))).collect(),
            other => other.clone(),
        }
    }

    /// A picture.
    pub async fn screenshot(&mut self, file: &str, png: &[u8]) -> io::Result<()> {
        self.write(file, "screenshot", png).await
    }

    /// Text of the page.
    pub async fn text(&mut self, file: &str, kind: &str, text: &str) -> io::Result<()> {
        let masked = self.masked(text);
        self.write(file, kind, masked.as_bytes()).await
    }

    /// A file with one JSON value a line.
    pub async fn lines(&mut self, file: &str, kind: &str, lines: &[Value]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&self.masked_value(line).to_string());
            text.push('\n');
        }
        self.write(file, kind, text.as_bytes()).await
    }

    /// Adds a line to the trace.
    pub async fn trace(&mut self, line: &Value) {
        let mut text = self.masked_value(line).to_string();
        text.push('\n');
        if let Err(error) = self.append(text.as_bytes()).await {
            tracing::warn!(%error, folder = %self.folder.dir.display(), "the trace of an attempt is not complete");
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take_room(bytes.len())?;
        let name = format!("{}{TRACE}", self.prefix);
        let path = self.folder.dir.join(&name);
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).await?;
        file.write_all(bytes).await?;
        file.flush().await?;
        // Before this writer there may have been another one, of the same attempt before a restart.
        let whole = file.metadata().await?.len();
        self.files.retain(|file| file.file != name);
        self.keep(&name, "trace", whole);
        Ok(())
    }

    async fn write(&mut self, name: &str, kind: &str, bytes: &[u8]) -> io::Result<()> {
        self.take_room(bytes.len())?;
        let name = format!("{}{name}", self.prefix);
        let path = self.folder.dir.join(&name);
        let mut file =
            tokio::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path).await?;
        file.write_all(bytes).await?;
        file.flush().await?;
        self.files.retain(|file| file.file != name);
        self.keep(&name, kind, bytes.len() as u64);
        Ok(())
    }

    fn keep(&mut self, file: &str, kind: &str, bytes: u64) {
        self.files.push(EvidenceFile {
            fence: self.folder.name.fence,
            attempt: self.folder.name.attempt,
            file: file.to_owned(),
            bytes,
            kind: kind.to_owned(),
        });
    }

    fn take_room(&mut self, bytes: usize) -> io::Result<()> {
        let disk = rustix::fs::statvfs(&self.folder.dir)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST_FREE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match self.left_bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => {
                self.dropped += 1;
                let max = self.folder.max_bytes;
                Err(io::Error::other(format!("the attempt's evidence has reached its {max} bytes")))
            }
        }
    }
}

/// A secret as a page, a console or an address may show it.
fn faces(secret: &str) -> [String; 4] {
    let json = Value::from(secret).to_string();
    [
        secret.to_owned(),
        json[1..json.len() - 1].to_owned(),
        utf8_percent_encode(secret, IN_PATH).to_string(),
        utf8_percent_encode(secret, IN_COMPONENT).to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::{AttemptName, EvidenceFolder, EvidenceWriter, path_of};
    use crate::model::{Fence, ItemId};

    #[tokio::test]
    async fn a_folder_is_private_bounded_and_without_secrets() {
        let state = tempfile::tempdir().unwrap();
        let name = AttemptName { fence: Fence::new(9), attempt: 1 };
        let folder = EvidenceFolder::create(state.path(), ItemId::new(7), name, 200).unwrap();
        assert_eq!(std::fs::metadata(&folder.dir).unwrap().permissions().mode() & 0o777, 0o700);
        let mut writer = EvidenceWriter::new(&folder, vec!["hunter22".to_owned(), "a".to_owned(), "a\"bc".to_owned()]);
        writer.trace(&json!({"step": 0, "value": "hunter22 and a\"bc"})).await;
        writer.trace(&json!({"step": 1})).await;
        writer.text("failure.txt", "page_text", "the hunter22").await.unwrap();
        writer.screenshot("before.png", &[0; 50]).await.unwrap();
        writer.screenshot("after.png", &[0; 500]).await.unwrap_err();
        assert_eq!(writer.masked("cut at hunte…"), "cut at ***…");
        let (files, dropped) = writer.finish();
        assert_eq!(dropped, 1);
        let kept: Vec<_> = files.iter().map(|file| (file.file.as_str(), file.kind.as_str(), file.bytes)).collect();
        let trace = "{\"step\":0,\"value\":\"*** and ***\"}\n{\"step\":1}\n";
        let expected = [
            ("trace.jsonl", "trace", trace.len() as u64),
            ("failure.txt", "page_text", 7),
            ("before.png", "screenshot", 50),
        ];
        assert_eq!(kept, expected);
        let path = path_of(state.path(), ItemId::new(7), &files[0]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), trace);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_secret_is_masked_in_every_form_and_to_its_end() {
        let state = tempfile::tempdir().unwrap();
        let name = AttemptName { fence: Fence::new(9), attempt: 1 };
        let folder = EvidenceFolder::create(state.path(), ItemId::new(7), name, 10_000).unwrap();
        let secret = "q\"b\\s ü/?";
        let writer_of = |secrets: &[&str]| {
            EvidenceWriter::new(&folder, secrets.iter().map(|secret| (*secret).to_owned()).collect())
        };
        let mut writer = writer_of(&[secret]);
        let console = serde_json::Value::from(secret).to_string();
        writer.trace(&json!({"detail": secret, "list": [{"text": console}]})).await;
        writer.lines("console.jsonl", "console", &[json!({"url": "/q%22b\\s%20%C3%BC/%3F/x"})]).await.unwrap();
        for (file, expected) in [
            ("trace.jsonl", "{\"detail\":\"***\",\"list\":[{\"text\":\"\\\"***\\\"\"}]}\n"),
            ("console.jsonl", "{\"url\":\"/***/x\"}\n"),
        ] {
            assert_eq!(std::fs::read_to_string(folder.dir.join(file)).unwrap(), expected);
        }
        assert_eq!(writer.masked("q%22b%5Cs%20%C3%BC%2F%3F"), "***");
        assert_eq!(writer_of(&["abc", "abcdef"]).masked("abcdef abc"), "*** ***");
        assert!(writer_of(&["abc"]).is_secret("xabcx") && !writer_of(&["abc"]).is_secret("ab"));
    }
}
