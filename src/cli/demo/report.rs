//! What the demo tells at its end: a table on the terminal and `report.html` beside the evidence.
//!
//! Everything in the report is escaped by the template engine, and its pictures are named by paths
//! relative to it, so that the folder can be moved or sent as a whole.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::follow::Item;
use super::machine::Layout;
use super::plan::Expected;
use super::verdict;
use crate::cli::practice::Post;

const MAX_CELL_CHARACTERS: usize = 40;
/// What needs no escape in a relative address.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// One item with all that is known of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub profile: String,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    pub caption: String,
    pub state: String,
    /// At the site.
    pub url: Option<String>,
    /// Why it is not published.
    pub trouble: Option<String>,
    /// The last attempt's folder, relative to the demo's.
    pub evidence: Option<PathBuf>,
    pub pictures: Vec<Picture>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Picture {
    pub name: String,
    /// Relative to the report.
    pub address: String,
}

/// Brings together what was sent, what the daemon says and what the site received.
pub fn rows(expected: &[Expected], items: &[Item], posts: &[Post], layout: &Layout) -> Vec<Row> {
    let row = |sent: &Expected| {
        let item = items.iter().find(|item| item.caption() == Some(sent.caption));
        let evidence = item
            .and_then(|item| Some(layout.evidence(&item.id, item.fence.as_deref()?)))
            .filter(|folder| folder.is_dir())
            .and_then(|folder| folder.strip_prefix(&layout.dir).map(Path::to_owned).ok());
        let pictures = item.zip(evidence.as_ref()).map(|(item, folder)| pictures(item, folder)).unwrap_or_default();
        Row {
            profile: sent.profile.to_owned(),
            file: sent.video.name(),
            bytes: sent.video.bytes,
            sha256: sent.video.sha256.clone(),
            caption: sent.caption.to_owned(),
            state: item.map_or("unknown to the daemon", |item| item.state.as_str()).to_owned(),
            url: verdict::find(sent, posts).map(|post| post.url.clone()),
            trouble: item.map_or(Some("the daemon does not list it".to_owned()), Item::why_not),
            evidence,
            pictures,
        }
    };
    expected.iter().map(row).collect()
}

/// The screenshots of the last attempt.
fn pictures(item: &Item, folder: &Path) -> Vec<Picture> {
    let last = item.evidence.iter().map(|file| file.attempt).max();
    let shots = item.evidence.iter().filter(|file| Some(file.attempt) == last && file.kind == "screenshot");
    shots
        .map(|file| Picture {
            name: file.file.clone(),
            address: utf8_percent_encode(&folder.join(&file.file).to_string_lossy(), PATH).to_string(),
        })
        .collect()
}

pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["Profile", "File", "Caption", "Post", "Evidence"]);
    for row in rows {
        table.add_row([
            row.profile.clone(),
            row.file.clone(),
            short(&row.caption),
            row.url.clone().unwrap_or_else(|| format!("none ({})", row.state)),
            row.evidence.as_ref().map_or_else(|| "none".to_owned(), |folder| folder.display().to_string()),
        ]);
    }
    table.to_string()
}

/// One line, and not too wide.
fn short(text: &str) -> String {
    let line = text.replace('\n', " ");
    if line.chars().count() <= MAX_CELL_CHARACTERS {
        return line;
    }
    line.chars().take(MAX_CELL_CHARACTERS - 1).chain(['…']).collect()
}

/// Writes `report.html`.
pub fn write(layout: &Layout, rows: &[Row], wrong: &[String]) -> anyhow::Result<PathBuf> {
    let path = layout.report();
    std::fs::write(&path, render(rows, wrong)?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn render(rows: &[Row], wrong: &[String]) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report.html")).context("the report's template")?;
    let template = environment.get_template("report.html").context("the report's template")?;
    template.render(context! { rows => Serde(rows), wrong => Serde(wrong) }).context("cannot render the report")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{render, rows, table};
    use crate::cli::demo::follow::Item;
    use crate::cli::demo::machine::Layout;
    use crate::cli::demo::media::Video;
    use crate::cli::demo::plan::Expected;

    fn sample() -> (tempfile::TempDir, Vec<super::Row>) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { dir: dir.path().to_owned() };
        std::fs::create_dir_all(layout.evidence("i1", "f2")).unwrap();
        let sent = [Expected {
            profile: "anna",
            caption: "<script>alert(1)</script>\nсад 🌿 and a long rest of the caption",
            video: Video { path: "/v/spring.mp4".into(), bytes: 7, sha256: "ab".to_owned() },
        }];
        let item: Item = serde_json::from_value(json!({
            "id": "i1", "state": "outcome_unknown", "wait_reason": "outcome_unknown", "attempts": 2, "fence": "f2",
            "inputs": {"caption": sent[0].caption},
            "error": {"code": "confirmation_missing", "message": "no link <here>", "help": null},
            "evidence": [
                {"attempt": 1, "file": "old.png", "kind": "screenshot"},
                {"attempt": 2, "file": "before commit?.png", "kind": "screenshot"},
                {"attempt": 2, "file": "trace.jsonl", "kind": "trace"},
            ]
        }))
        .unwrap();
        let rows = rows(&sent, &[item], &[], &layout);
        (dir, rows)
    }

    #[test]
    fn a_row_holds_the_last_attempt_s_pictures_by_relative_address() {
        let (_dir, rows) = sample();
        assert_eq!(rows[0].evidence.as_deref(), Some(std::path::Path::new("state/evidence/i1/f2")));
        let addresses: Vec<_> = rows[0].pictures.iter().map(|picture| picture.address.as_str()).collect();
        assert_eq!(addresses, ["state/evidence/i1/f2/before%20commit%3F.png"]);
    }

    #[test]
    fn the_report_is_text_where_a_site_or_a_caption_would_be_markup() {
        let (_dir, rows) = sample();
        let html = render(&rows, &["it is <b>wrong</b>".to_owned()]).unwrap();
        assert!(!html.contains("<script>") && !html.contains("<b>wrong") && !html.contains("<here>"), "{html}");
        assert!(html.contains("&lt;script&gt;") && html.contains("it is &lt;b&gt;wrong") && html.contains("сад 🌿"));
        assert!(html.contains(r#"src="state"#), "{html}");
    }

    #[test]
    fn the_table_is_one_line_a_row_and_says_what_is_missing() {
        let (_dir, rows) = sample();
        let text = table(&rows);
        assert!(text.contains("none (outcome_unknown)") && text.contains("state/evidence/i1/f2"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn an_item_that_the_daemon_does_not_list_is_said_so() {
        let layout = Layout { dir: "/nonexistent".into() };
        let video = Video { path: "/v/a.mp4".into(), bytes: 7, sha256: "ab".to_owned() };
        let rows = rows(&[Expected { profile: "anna", caption: "c", video }], &[], &[], &layout);
        assert_eq!(rows[0].trouble.as_deref(), Some("the daemon does not list it"));
        assert_eq!(rows[0].evidence, None);
    }
}
