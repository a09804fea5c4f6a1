//! A flow's origins in a real Chromium: what is outside of them gets no request, whoever sends the page there.
//!
//! Each way out is tried without origins first, where it must arrive: otherwise nothing would be proved.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::time::Duration;

use cove::browser::Mode;
use cove::model::FailureCode;
use rig::{Case, Elsewhere, Rig, commit, extract};
use serde_json::{Value, json};

/// Far below the steps' time-outs, on a machine that may be busy.
const QUICKLY: Duration = Duration::from_secs(8);

/// A page whose `#go` leaves by `way`.
fn leaving(way: &str) -> String {
    format!("<button id=go onclick=\"{way}\">Go</button><p id=here>here</p>")
}

fn arrived() -> Value {
    json!({"type": "waitForElement", "selectors": ["#there"], "timeout": 20000})
}

fn go() -> Value {
    json!({"type": "click", "selectors": ["#go"]})
}

fn kept_inside(steps: &Value, origins: &[String]) -> Case {
    let mut case = Case::new(steps);
    case.recording["cove"]["origins"] = json!(origins);
    case
}

/// Pages whose `#go` leads to `out`, each in its own way; `hop` redirects there.
fn ways(out: &str, hop: &str) -> [(&'static str, String); 7] {
    let refresh = format!("document.head.innerHTML += '<meta http-equiv=refresh content=&quot;0;url={out}&quot;>'");
    [
        ("link", format!("<a id=go href='{out}?a=1'>Go</a>")),
        ("form", format!("<form method=post action='{out}'><button id=go name=a value=1>Go</button></form>")),
        ("assign", leaving(&format!("location.assign('{out}')"))),
        ("replace", leaving(&format!("location.replace('{out}')"))),
        ("redirect", leaving(&format!("location = '{hop}'"))),
        ("refresh", leaving(&refresh)),
        ("frame", format!("<iframe id=go width=300 height=80 srcdoc=\"<a target=_top href='{out}'>Go</a>\"></iframe>")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_out_of_the_origins_sends_a_request_there() {
    let rig = Rig::new().await;
    let go = json!({"type": "click", "selectors": ["#go"], "offsetX": 20, "offsetY": 18});
    // A site for each half: what the browser asks of the first one late (its icon) is no request of the second.
    let (free, kept) = (Elsewhere::new().await, Elsewhere::new().await);
    let reached = free.page("/out", "<p id=there>there</p>");
    for (way, body) in ways(&reached, &rig.redirect("/hop", &reached)) {
        free.site.forget();
        rig.replay(Case::new(&rig.on(&body, &json!([go, arrived()])))).await.result();
        assert!(free.site.saw("/out"), "{way} leads nowhere: {:?}", free.site.requests());
    }
    let out = kept.page("/out", "<p id=there>there</p>");
    for (way, body) in ways(&out, &rig.redirect("/kept-hop", &out)) {
        let steps = rig.on(&body, &json!([go, arrived()]));
        let ended = rig.replay(kept_inside(&steps, &[rig.url("")])).await;
        assert_eq!(ended.unarmed().code, FailureCode::OriginBlocked, "{way}: {}", ended.unarmed());
        assert!(ended.unarmed().detail.contains(&out), "{way}: {}", ended.unarmed());
        assert!(ended.took < QUICKLY, "{way}: {:?}", ended.took);
        assert!(kept.site.requests().is_empty(), "{way}: {:?}", kept.site.requests());
        assert!(ended.text("console.jsonl").contains("blocked"), "{way}");
        assert!(ended.stopped.is_none(), "{way}: no stopIf fired");
        // The page as it was is the evidence.
        assert!(ended.has("failure.png") && ended.text("failure.txt").contains(&rig.url("/page")), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flows_own_navigation_is_followed_no_further_than_its_origins() {
    let rig = Rig::new().await;
    let (free, kept) = (Elsewhere::new().await, Elsewhere::new().await);
    let led = |to: &Elsewhere, first: &str| {
        rig.redirect(&format!("{first}-hop"), &to.page("/out", "<p id=there>there</p>"));
        json!([{"type": "navigate", "url": rig.redirect(first, &format!("{first}-hop")), "timeout": 20000}])
    };
    rig.replay(Case::new(&led(&free, "/free"))).await.result();
    assert!(free.site.saw("/out"), "{:?}", free.site.requests());
    let ended = rig.replay(kept_inside(&led(&kept, "/kept"), &[rig.url("")])).await;
    assert_eq!(ended.unarmed().code, FailureCode::OriginBlocked, "{}", ended.unarmed());
    assert!(ended.took < QUICKLY, "{:?}", ended.took);
    assert!(rig.site.saw("/kept-hop") && kept.site.requests().is_empty(), "{:?}", kept.site.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_inside_passes_untouched_wherever_the_main_frame_goes() {
    let rig = Rig::new().await;
    let (second, third) = (Elsewhere::new().await, Elsewhere::new().await);
    let out = third.page("/out", "<p id=there>there</p>");
    let framed = third.page("/framed", "<p>framed</p>");
    let on = second.page(
        "/on",
        &format!(
            "<p id=there>there</p><iframe src='{framed}' onload=\"post('/loaded')\"></iframe>
             <img src='{}' onerror='0'><a id=next href='{out}'>Next</a>",
            third.address.clone() + "/picture.png"
        ),
    );
    // From the first origin by way of an empty page to the second one, where frames and pictures of a third load.
    let start = format!("<button id=go onclick=\"location = 'about:blank'\">Go</button><a id=on href='{on}'>On</a>");
    let steps = rig.on(
        &start,
        &json!([
            {"type": "click", "selectors": ["#on"]}, arrived(),
            {"type": "waitForExpression", "expression": "frames.length === 1"},
            extract("origin", "location.origin"),
            {"type": "click", "selectors": ["#next"]}, {"type": "waitForElement", "selectors": ["#never"], "timeout": 20000}
        ]),
    );
    let kept = rig.replay(kept_inside(&steps, &[rig.url(""), second.address.clone()])).await;
    assert_eq!(kept.unarmed().code, FailureCode::OriginBlocked, "{}", kept.unarmed());
    assert!(kept.unarmed().detail.contains(&out), "{}", kept.unarmed());
    assert_eq!(second.site.told().len(), 1, "the frame loaded");
    assert!(third.site.saw("/framed") && third.site.saw("/picture.png"), "{:?}", third.site.requests());
    assert!(!third.site.saw("/out"), "{:?}", third.site.requests());

    let blank =
        rig.on(&start, &json!([go(), {"type": "waitForExpression", "expression": "location.href === 'about:blank'"}]));
    rig.replay(kept_inside(&blank, &[rig.url("")])).await.result();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_a_page_opens_stays_inside_and_ends_nothing() {
    let rig = Rig::new().await;
    let (free, kept) = (Elsewhere::new().await, Elsewhere::new().await);
    let inside = rig.page_at("/inside", "<script>post('/opened')</script>");
    let windows = |out: &str| {
        [
            ("blank", format!("<a id=go target=_blank href='{out}'>Go</a>")),
            ("opener", format!("<a id=go target=_blank rel=opener href='{out}'>Go</a>")),
            ("open", format!("<button id=go onclick=\"window.open('{out}')\">Go</button>")),
            ("later", format!("<button id=go onclick=\"window.open('about:blank').location = '{out}'\">Go</button>")),
        ]
    };
    // The page goes on: a window of its own site opens after the foreign one, and is waited for.
    let steps = |body: &str| {
        let body = format!("{body}<button id=own onclick=\"window.open('{inside}')\">Own</button>");
        let own = json!({"type": "click", "selectors": ["#own"]});
        rig.on(&body, &json!([go(), own, extract("here", "location.pathname")]))
    };
    for (way, body) in windows(&free.page("/out", "<script>post('/arrived')</script>")) {
        free.site.forget();
        rig.replay(Case::new(&steps(&body))).await.result();
        arrives(way, || free.site.told().contains(&"/arrived ".to_owned())).await;
    }
    for (way, body) in windows(&kept.page("/out", "<script>post('/arrived')</script>")) {
        rig.site.forget();
        let ended = rig.replay(kept_inside(&steps(&body), &[rig.url("")])).await;
        assert!(ended.result()["here"].starts_with("/page"), "{way}");
        arrives(way, || rig.site.told().contains(&"/opened ".to_owned())).await;
        assert!(kept.site.requests().is_empty(), "{way}: {:?}", kept.site.requests());
        assert!(ended.text("console.jsonl").contains("a window of the page"), "{way}: {}", ended.text("console.jsonl"));
    }
}

async fn arrives(way: &str, seen: impl Fn() -> bool) {
    for _ in 0..500 {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{way}: it does not arrive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_a_page_that_leaves_after_arming_is_kept_and_the_outcome_is_unknown() {
    let rig = Rig::new().await;
    let (free, kept) = (Elsewhere::new().await, Elsewhere::new().await);
    let sharing = |to: &Elsewhere| {
        let out = to.page("/out", "<p id=there>there</p>");
        rig.on(&leaving(&format!("clicked(); location = '{out}'")), &json!([commit(), go(), arrived()]))
    };
    rig.replay(Case::new(&sharing(&free))).await.result();
    assert!(free.site.saw("/out"));

    let ended = rig.replay(kept_inside(&sharing(&kept), &[rig.url("")])).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert!(ended.unknown().detail.contains("origin_blocked"), "{}", ended.unknown());
    assert_eq!((ended.asked.len(), rig.site.clicks()), (1, 2));
    assert!(ended.took < QUICKLY, "{:?}", ended.took);

    // Before arming the same is an ordinary, unarmed end.
    let out = kept.page("/early", "<p id=there>there</p>");
    let early = rig.on(&leaving(&format!("location = '{out}'")), &json!([go(), commit(), go(), arrived()]));
    let ended = rig.replay(kept_inside(&early, &[rig.url("")])).await;
    assert_eq!(ended.unarmed().code, FailureCode::OriginBlocked);
    assert!(ended.asked.is_empty());
    assert!(kept.site.requests().is_empty(), "{:?}", kept.site.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_15_a_page_that_survived_is_kept_inside_as_well() {
    let rig = Rig::new().await;
    let foreign = Elsewhere::new().await;
    let out = foreign.page("/out", "<p id=there>there</p>");
    rig.run(&format!("<script>later(1500, () => location = '{out}')</script>"), &json!([])).await.result();
    let mut case = kept_inside(&json!([commit(), go(), arrived()]), &[rig.url("")]);
    case.mode = Mode::ConfirmOnly;
    let kept = rig.replay(case).await;
    assert!(kept.unknown().detail.contains("origin_blocked"), "{}", kept.unknown());
    assert!(foreign.site.requests().is_empty());
}
