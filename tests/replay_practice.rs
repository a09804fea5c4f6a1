//! The flow that is shipped, on the practice site, in a real Chromium: what it makes of every wall, and whether its
//! verify tells what was published from what was not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::path::Path;
use std::time::Duration;

use cove::browser::{ReplayEnd, VerifyAnswer};
use cove::cli::practice::{Site, SiteOptions, Switches};
use cove::model::{Baseline, FailureCode, InputValue, Timestamp};
use rig::{Case, Rig};
use serde_json::{Value, json};

const ATELIER: &[u8] = include_bytes!("../packaging/flows/atelier.json");
const QUICKLY: Duration = Duration::from_secs(10);

async fn practice(folder: &Path) -> Site {
    Site::start(SiteOptions { processing_ms: 100, ..SiteOptions::new(folder.join("site")) }).await.unwrap()
}

fn set(site: &Site, switches: Value) {
    site.set(serde_json::from_value::<Switches>(switches).unwrap());
}

fn case(rig: &Rig, site: &Site, caption: &str) -> Case {
    let video = rig.folder().join("film.mp4");
    std::fs::write(&video, "a very short film").unwrap();
    let mut case = Case::new(&json!([]));
    case.recording = serde_json::from_slice(ATELIER).unwrap();
    // The site of a test answers at once.
    case.recording["cove"]["verify"]["steps"][5]["timeout"] = json!(700);
    let inputs = [
        ("site", InputValue::Url(site.url())),
        ("account", InputValue::Text("anna".to_owned())),
        ("video", InputValue::Text(video.display().to_string())),
        ("caption", InputValue::Text(caption.to_owned())),
    ];
    case.inputs = inputs.map(|(name, value)| (name.to_owned(), value)).into();
    case.deadline = Duration::from_mins(1);
    case
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_12_the_shipped_verify_finds_what_was_shared_since_and_nothing_else() {
    let rig = Rig::new().await;
    let site = practice(rig.folder()).await;
    let captions = ["Spring", "Весна 🌱\nСнято \"утром\", <без> обработки & #так", "Spring #2"];
    for (at, caption) in captions.iter().enumerate() {
        let before = site.posts().last().map_or(Timestamp::ZERO, |post| post.time.plus(Duration::from_millis(1)));
        // Of what comes after nothing is there yet, though the same was shared before.
        rig.verify(case(&rig, &site, caption), before).await.not_found();
        let ended = rig.replay(case(&rig, &site, caption)).await;
        let ReplayEnd::Confirmed { url: Some(url), .. } = &ended.end else { panic!("{:?}", ended.end) };
        assert_eq!(*url, site.posts()[at].url);
        assert_eq!(ended.proofs.as_ref().unwrap().baseline, Baseline::NotNeeded, "it looks at the time of arming");
        assert!(ended.proofs.as_ref().unwrap().open_waits.is_empty());
        rig.verify(case(&rig, &site, caption), before).await.found();
        rig.verify(case(&rig, &site, "never shared"), before).await.not_found();
        let after = site.posts()[at].time.plus(Duration::from_millis(1));
        rig.verify(case(&rig, &site, caption), after).await.not_found();
    }
    assert_eq!(site.posts().len(), captions.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wall_of_the_practice_site_is_told_for_what_it_is() {
    let rig = Rig::new().await;
    let site = practice(rig.folder()).await;
    for (wall, code) in [
        ("login_wall", FailureCode::NeedsHuman),
        ("verification_page", FailureCode::NeedsHuman),
        ("rate_limit_page", FailureCode::RateLimited),
    ] {
        set(&site, json!({wall: true}));
        let ended = rig.replay(case(&rig, &site, "walled")).await;
        assert_eq!(ended.unarmed().code, code, "{wall}: {}", ended.unarmed());
        assert_eq!(ended.stopped.as_ref(), Some(ended.unarmed()));
        assert!(ended.unarmed().detail.contains("anna") && ended.asked.is_empty(), "{wall}");
        assert!(ended.took < QUICKLY, "{wall}: {:?}", ended.took);
        // Rule 12: neither is "not found".
        let looked = rig.verify(case(&rig, &site, "walled"), Timestamp::ZERO).await;
        assert_eq!((looked.inconclusive().code, looked.stopped.is_some()), (code, true), "{wall}");
        set(&site, json!({wall: false}));
    }
    set(&site, json!({"cookie_banner": true}));
    let ended = rig.replay(case(&rig, &site, "behind a banner")).await;
    assert!(matches!(ended.end, ReplayEnd::Confirmed { .. }), "{:?}", ended.end);
    let banner = ended.trace().into_iter().find(|line| line["type"] == "optional").unwrap();
    assert_eq!(banner["outcome"], "ok");
    assert_eq!(site.posts().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_a_verification_after_share_is_unknown_and_the_verify_finds_the_post() {
    let rig = Rig::new().await;
    let site = practice(rig.folder()).await;
    set(&site, json!({"verification_after_share": {"times": 1}, "late_post": {"ms": 8_000, "times": 1}}));
    let ended = rig.replay(case(&rig, &site, "spring")).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert_eq!(ended.stopped.as_ref().unwrap().code, FailureCode::NeedsHuman);
    assert!(ended.took < QUICKLY, "{:?}", ended.took);
    assert_eq!(site.posts().len(), 1);
    // The feeds are late: the first look does not see it, a later one does.
    rig.verify(case(&rig, &site, "spring"), Timestamp::ZERO).await.not_found();
    let mut looks = 0;
    while let VerifyAnswer::NotFound(_) = rig.verify(case(&rig, &site, "spring"), Timestamp::ZERO).await.answer {
        looks += 1;
        assert!(looks < 30, "it is never found");
    }
    rig.verify(case(&rig, &site, "spring"), Timestamp::ZERO).await.found();
    assert_eq!(site.posts().len(), 1, "no look shares anything");
}
