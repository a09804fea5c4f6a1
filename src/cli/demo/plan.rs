//! What the demo publishes: two profiles, three videos, six captions, as one request.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::media::Video;

/// The flow's name in the daemon, and the recording itself.
pub const FLOW: &str = "atelier";
pub const RECORDING: &str = include_str!("../../../packaging/flows/atelier.json");

pub const PROFILES: [&str; 2] = ["anna", "boris"];
pub const VIDEOS: [&str; 3] = ["spring.mp4", "workshop.mp4", "night.mp4"];

/// One for each profile and video. Each is of its own, so that a mix-up is seen.
const CAPTIONS: [[&str; VIDEOS.len()]; PROFILES.len()] = [
    [
        "First light in the garden #spring",
        "Мастерская: день первый. Пахнет деревом и лаком #мастерская",
        "City at night 🌃✨ shot from the roof",
    ],
    [
        "Весна пришла 🌱\nСнято утром, без обработки",
        "How a chair is made, part 1 of 3 — \"slow\" & <steady>",
        "Ночной город 🌙 #ночь #город",
    ],
];

/// One item, as it must arrive at the site.
#[derive(Clone, Debug)]
pub struct Expected {
    pub profile: &'static str,
    pub caption: &'static str,
    pub video: Video,
}

/// Makes the video files and pairs them with profiles and captions.
pub fn make(folder: &Path) -> anyhow::Result<Vec<Expected>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut random = fastrand::Rng::new();
    let mut videos = Vec::new();
    for name in VIDEOS {
        let path = folder.join(name);
        videos.push(Video::make(&path, &mut random).with_context(|| format!("cannot write {}", path.display()))?);
    }
    let pairs = PROFILES.iter().zip(CAPTIONS);
    let expected = pairs.flat_map(|(profile, captions)| {
        videos.iter().zip(captions).map(|(video, caption)| Expected { profile, caption, video: video.clone() })
    });
    Ok(expected.collect())
}

/// The body of `POST /api/v1/bulk-upload/start`.
pub fn request(expected: &[Expected], site_url: &str) -> Value {
    let items: Vec<Value> = expected
        .iter()
        .map(|item| {
            json!({
                "profile": item.profile,
                "inputs": {
                    "site": site_url,
                    "account": item.profile,
                    "video": item.video.path,
                    "caption": item.caption,
                },
            })
        })
        .collect();
    json!({ "flow": FLOW, "items": items })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::{PROFILES, RECORDING, VIDEOS, make, request};

    #[test]
    fn six_items_that_differ() {
        let dir = tempfile::tempdir().unwrap();
        let expected = make(dir.path()).unwrap();
        assert_eq!(expected.len(), PROFILES.len() * VIDEOS.len());
        assert_eq!(expected.iter().map(|item| item.caption).collect::<BTreeSet<_>>().len(), 6);
        assert_eq!(expected.iter().map(|item| (item.profile, &item.video.sha256)).collect::<BTreeSet<_>>().len(), 6);
        assert!(expected.iter().any(|item| item.caption.contains('🌱') && item.caption.contains("Весна")));
    }

    #[test]
    fn the_request_fills_every_input_that_the_recording_declares() {
        let dir = tempfile::tempdir().unwrap();
        let body = request(&make(dir.path()).unwrap(), "http://127.0.0.1:1");
        let recording: Value = serde_json::from_str(RECORDING).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        for item in body["items"].as_array().unwrap() {
            assert_eq!(names(&item["inputs"]), names(&recording["cove"]["inputs"]));
        }
    }

    #[test]
    fn the_recording_names_each_declared_input_in_a_step_and_commits_right_before_share() {
        let recording: Value = serde_json::from_str(RECORDING).unwrap();
        let steps = recording["steps"].as_array().unwrap();
        let text = recording["steps"].to_string();
        for name in recording["cove"]["inputs"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("{{{{ {name} }}}}")), "{name}");
        }
        let commit = steps.iter().position(|step| step["name"] == "commit").unwrap();
        assert_eq!(steps[commit + 1]["type"], "click");
        assert!(steps[commit + 1]["selectors"].to_string().contains("Share"));
        assert!(steps[commit + 2..].iter().any(|step| step["type"] == "waitForElement"));
    }
}
