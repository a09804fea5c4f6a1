//! The replay in a real Chromium: what each step does to a page, how elements are found, and the order
//! around the commit point. Fence tests carry the number of their rule (fence.md) in their names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "replay/rig.rs"]
#[allow(dead_code, reason = "the rig of all replay tests")]
mod rig;

use std::time::{Duration, Instant};

use cove::browser::Mode;
use cove::model::{FailureCode, InputValue};
use rig::{Answer, Case, Moment, Rig, commit, extract};
use serde_json::{Value, json};

/// Far below the flow's deadline: it ended by itself, on a machine that may be busy.
const QUICKLY: Duration = Duration::from_secs(8);

const SHARE: &str =
    "<button id=share onclick=\"clicked(); $('done').hidden = false\">Share</button><p id=done hidden>Done</p>";

fn share() -> Vec<Value> {
    vec![commit(), json!({"type": "click", "selectors": ["#share"]})]
}

fn done() -> Value {
    json!({"type": "waitForElement", "selectors": ["#done"], "timeout": 1000})
}

/// A recording that shares and waits for the confirmation.
fn sharing(rig: &Rig, body: &str, after: &[Value]) -> Case {
    let mut steps = share();
    steps.push(done());
    steps.extend_from_slice(after);
    Case::new(&rig.on(body, &Value::Array(steps)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_the_gate_is_asked_before_the_click_and_the_click_is_sent_once() {
    let rig = Rig::new().await;
    let ended = rig.replay(sharing(&rig, SHARE, &[])).await;
    ended.result();
    assert_eq!(ended.asked, [Moment { clicks: 0, pictured: true }]);
    assert_eq!(rig.site.clicks(), 1);
    assert!(ended.has("before.png") && ended.has("after.png") && ended.has("trace.jsonl"), "{:?}", ended.evidence);

    let mut refused = sharing(&rig, SHARE, &[]);
    refused.gate = Answer::No;
    let ended = rig.replay(refused).await;
    assert_eq!(ended.unarmed().code, FailureCode::ArmRefused);
    assert_eq!(ended.asked, [Moment { clicks: 1, pictured: true }]);
    assert_eq!(rig.site.clicks(), 1, "a click after a no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_5_a_renamed_button_is_an_ordinary_failure() {
    let rig = Rig::new().await;
    let renamed = SHARE.replace("id=share", "id=other");
    let mut case = sharing(&rig, &renamed, &[]);
    case.recording["steps"][2]["timeout"] = json!(300);
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::ElementNotFound, "{}", ended.unarmed());
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
    assert!(ended.has("failure.png") && ended.has("failure.txt") && !ended.has("before.png"));
    assert!(ended.text("failure.txt").contains("Share"), "{}", ended.text("failure.txt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_and_8_without_its_confirmation_it_is_unknown_and_what_follows_changes_nothing() {
    let rig = Rig::new().await;
    let silent = "<button id=share onclick=\"clicked()\">Share</button>";
    let ended = rig.replay(sharing(&rig, silent, &[])).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert_eq!((ended.asked.len(), rig.site.clicks()), (1, 1));
    assert!(ended.has("before.png") && ended.has("after.png") && ended.has("failure.txt"));

    let mut late = extract("url", "nothing.here");
    late["timeout"] = json!(200);
    let ended = rig.replay(sharing(&rig, SHARE, &[late, extract("title", "document.title")])).await;
    assert_eq!(ended.result()["title"], "Page");
    assert!(ended.notes()[0].contains("expression_failed"), "{:?}", ended.notes());
    assert_eq!(rig.site.clicks(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_10_a_run_stops_before_the_commit_point() {
    let rig = Rig::new().await;
    let mut case = sharing(&rig, SHARE, &[]);
    case.mode = Mode::StopBeforeCommit;
    let ended = rig.replay(case).await;
    assert!(ended.notes()[0].contains("stopped before"), "{:?}", ended.notes());
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
    assert!(ended.has("before.png"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_browsers_own_start_page_is_not_taken_for_the_page_of_a_navigation() {
    let rig = Rig::with_start_page("chrome://newtab/").await;
    let ended = rig.run("<p>here", &json!([extract("text", "document.body.innerText")])).await;
    assert_eq!(ended.result()["text"], "here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_8_a_cancel_or_the_deadline_before_arming_ends_unarmed_and_soon() {
    let rig = Rig::new().await;
    let mut steps = vec![json!({"type": "waitForElement", "selectors": ["#never"], "timeout": 30000})];
    steps.extend(share());
    steps.push(done());
    let steps = rig.on(SHARE, &Value::Array(steps));

    let case = Case::new(&steps);
    let cancel = case.cancel.clone();
    let canceling = async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        cancel.cancel();
        Instant::now()
    };
    let (ended, canceled_at) = tokio::join!(rig.replay(case), canceling);
    assert_eq!(ended.unarmed().code, FailureCode::Canceled);
    assert!(canceled_at.elapsed() < QUICKLY);

    let mut case = Case::new(&steps);
    case.deadline = Duration::from_millis(1200);
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::DeadlineExceeded);
    assert!(ended.took < Duration::from_millis(1200) + QUICKLY, "{:?}", ended.took);
    assert!(ended.has("failure.png") && ended.has("failure.txt"));
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_8_the_deadline_after_arming_ends_unknown_and_a_cancel_is_not_heard() {
    let rig = Rig::new().await;
    let slow = "<button id=share onclick=\"clicked(); later(1500, () => $('done').hidden = false)\">Share</button>\
        <p id=done hidden>Done</p>";
    let mut steps = share();
    steps.push(json!({"type": "waitForElement", "selectors": ["#done"], "timeout": 20000}));
    let steps = rig.on(slow, &Value::Array(steps));

    let case = Case::new(&steps);
    let cancel = case.cancel.clone();
    let canceling = async {
        while rig.site.clicks() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(rig.replay(case), canceling);
    ended.result();
    assert_eq!(rig.site.clicks(), 1);

    let mut case = Case::new(&rig.on(
        &slow.replace("1500", "30000"),
        &json!([share()[0], share()[1],
        {"type": "waitForElement", "selectors": ["#done"], "timeout": 30000}]),
    ));
    case.deadline = Duration::from_secs(3);
    let ended = rig.replay(case).await;
    assert_eq!(ended.unknown().code, FailureCode::ConfirmationMissing);
    assert!(ended.took < Duration::from_secs(3) + QUICKLY, "{:?}", ended.took);
    assert_eq!(rig.site.clicks(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_8_a_browser_that_dies_before_arming_is_lost_at_once() {
    let rig = Rig::new().await;
    let steps = json!([{"type": "waitForElement", "selectors": ["#never"], "timeout": 30000}]);
    let case = Case::new(&rig.on("<script>post('/here')</script>", &steps));
    let killing = async {
        while rig.site.told().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rig.kill_browser();
        Instant::now()
    };
    let (ended, killed_at) = tokio::join!(rig.replay(case), killing);
    assert_eq!(ended.unarmed().code, FailureCode::BrowserLost);
    assert!(killed_at.elapsed() < QUICKLY);

    let ended = rig.replay(sharing(&rig, SHARE, &[])).await;
    assert_eq!(ended.unarmed().code, FailureCode::AttachFailed);
    assert!(ended.took < QUICKLY, "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_8_a_browser_that_dies_after_arming_leaves_it_unknown() {
    let rig = Rig::new().await;
    let mut case = sharing(&rig, SHARE, &[]);
    case.gate = Answer::YesAndKill;
    let ended = rig.replay(case).await;
    assert_eq!(ended.unknown().code, FailureCode::LostAfterCommit);
    assert_eq!(rig.site.clicks(), 0);
    assert!(ended.took < QUICKLY * 2, "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_7_an_asserted_navigation_confirms_only_when_the_page_went_there() {
    let rig = Rig::new().await;
    let thanks = rig.page_at("/thanks", "<p>Thanks");
    let asserting = |body: &str, url: &str| {
        let mut click = share()[1].clone();
        click["assertedEvents"] = json!([{"type": "navigation", "url": url, "title": ""}]);
        click["timeout"] = json!(1500);
        Case::new(&rig.on(body, &json!([commit(), click])))
    };
    let leaving = "<button id=share onclick=\"clicked(); location = '/thanks'\">Share</button>";
    let staying = "<button id=share onclick=\"clicked()\">Share</button>";
    let ended = rig.replay(asserting(leaving, &thanks)).await;
    assert!(matches!(&ended.end, cove::browser::ReplayEnd::Confirmed { url: Some(url), .. } if *url == thanks));
    rig.replay(asserting(leaving, "")).await.result();
    rig.replay(asserting(staying, &thanks)).await.unknown();
    rig.replay(asserting(staying, "")).await.unknown();
    assert_eq!(rig.site.clicks(), 4);

    // A form that comes back to its own address: being there already proves nothing.
    let mut case = asserting(staying, "");
    let own = case.recording["steps"][0]["url"].clone();
    case.recording["steps"][2]["assertedEvents"][0]["url"] = own;
    rig.replay(case).await.unknown();
    let mut case = asserting("<button id=share onclick=\"clicked(); location.reload()\">Share</button>", "");
    let own = case.recording["steps"][0]["url"].clone();
    case.recording["steps"][2]["assertedEvents"][0]["url"] = own;
    rig.replay(case).await.result();

    // As the Recorder writes Enter: the navigation stands at the keyUp.
    let entering = |body: &str| {
        let up = json!({"type": "keyUp", "key": "Enter", "timeout": 1500,
            "assertedEvents": [{"type": "navigation", "url": thanks, "title": ""}]});
        let steps = json!([commit(), {"type": "keyDown", "key": "Enter"}, up]);
        Case::new(&rig.on(body, &steps))
    };
    let keyed = "<body onkeydown=\"clicked(); location = '/thanks'\">";
    rig.replay(entering(keyed)).await.result();
    let mut there = entering("");
    there.recording["steps"][0]["url"] = json!(thanks);
    rig.replay(there).await.unknown();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_15_a_page_that_survived_is_only_looked_at() {
    let rig = Rig::new().await;
    let shared = SHARE.replace(" hidden", "");
    rig.run(&shared, &json!([])).await.result();
    let mut case = sharing(&rig, "", &[extract("text", "$('done').textContent")]);
    case.mode = Mode::ConfirmOnly;
    let ended = rig.replay(case).await;
    assert_eq!(ended.result()["text"], "Done");
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 0));
    assert!(ended.has("after.png") && !ended.has("before.png"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_no_evidence_and_in_no_failure() {
    let rig = Rig::new().await;
    let secret = format!("pa\"ss\\wörd {}", "long".repeat(40));
    let page = "<input id=key oninput=\"console.error(value); $('shown').textContent = value\"><p id=shown></p>";
    let steps = rig.on(
        page,
        &json!([
            {"type": "change", "selectors": ["#key"], "value": "{{ key }}"},
            {"type": "waitForExpression", "expression": "'{{ key }}' === 0", "timeout": 300}
        ]),
    );
    let refusing = rig.on(
        "<input id=key oninput=\"value = value.slice(1)\">",
        &json!([
            {"type": "change", "selectors": ["#key"], "value": "{{ key }}", "timeout": 300}
        ]),
    );
    for steps in [steps, refusing] {
        let case = Case::new(&steps).input(
            "key",
            json!({"type": "text", "required": true, "secret": true}),
            Some(InputValue::Text(secret.clone())),
        );
        let ended = rig.replay(case).await;
        assert!(!ended.unarmed().detail.contains("longlong"), "{}", ended.unarmed());
        for file in ["trace.jsonl", "failure.txt", "console.jsonl"] {
            assert!(!ended.text(file).contains("longlong"), "{file}: {}", ended.text(file));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_private_and_within_its_budget() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new().await;
    let ended = rig.replay(sharing(&rig, SHARE, &[])).await;
    ended.result();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ended.dir), 0o700);
    for kept in &ended.evidence {
        let path = ended.dir.join(&kept.file);
        assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().len()), (0o600, kept.bytes), "{kept:?}");
        assert_eq!(kept.attempt, 1);
    }
    assert!(std::fs::read(ended.dir.join("before.png")).unwrap().starts_with(b"\x89PNG"));
    let trace = ended.trace();
    let line = |at: usize| (trace[at]["step"].as_u64(), trace[at]["type"].as_str(), trace[at]["outcome"].as_str());
    assert_eq!(line(0), (Some(0), Some("navigate"), Some("ok")));
    assert_eq!(line(1), (Some(2), Some("click"), Some("ok")));
    assert_eq!(line(2), (Some(3), Some("waitForElement"), Some("ok")));
    assert_eq!(trace[1]["selector"], "#share");

    let mut case = sharing(&rig, SHARE, &[]);
    case.max_bytes = 1000;
    let ended = rig.replay(case).await;
    assert_eq!(ended.unarmed().code, FailureCode::EvidenceFailed);
    assert_eq!((ended.asked.len(), rig.site.clicks()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_load_or_say_why_not() {
    let rig = Rig::new().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!("http://{}/?token=secret", closed.local_addr().unwrap());
    drop(closed);
    let ended = rig.replay(Case::new(&json!([{"type": "navigate", "url": refused, "timeout": 20000}]))).await;
    assert_eq!(ended.unarmed().code, FailureCode::NavigationFailed);
    assert!(ended.unarmed().detail.contains("ERR_CONNECTION_REFUSED"), "{}", ended.unarmed());
    assert!(!ended.unarmed().detail.contains("secret"), "{}", ended.unarmed());
    assert!(ended.took < QUICKLY, "{:?}", ended.took);

    let never = json!([{"type": "navigate", "url": rig.url("/never"), "timeout": 700}]);
    let ended = rig.replay(Case::new(&never)).await;
    assert_eq!(ended.unarmed().code, FailureCode::NavigationFailed);
    assert!(ended.took < Duration::from_millis(700) + QUICKLY, "{:?}", ended.took);
    assert!(ended.has("failure.png"), "{:?}", ended.evidence);

    let mut case = Case::new(&json!([{"type": "click", "selectors": ["a"]}]));
    case.recording = json!({"title": "t", "cove": {"origins": ["https://example.org"],
        "inputs": {"to": {"type": "url", "required": true}}},
        "steps": [{"type": "navigate", "url": "{{ to }}"}]});
    case.inputs.insert("to".to_owned(), InputValue::Url(rig.url("/thanks")));
    assert_eq!(rig.replay(case).await.unarmed().code, FailureCode::OriginBlocked);

    // Twice the same page, a fragment of it, and a page that would rather be kept.
    let url =
        rig.page("<script>onbeforeunload = () => 'stay'; onload = () => post('/loaded')</script><button>b</button>");
    let ended = rig
        .replay(Case::new(&json!([
            {"type": "navigate", "url": url}, {"type": "navigate", "url": url},
            {"type": "navigate", "url": format!("{url}#part")}, {"type": "click", "selectors": ["button"]},
            {"type": "navigate", "url": rig.page("<p>other")}, extract("text", "document.body.innerText")
        ])))
        .await;
    assert_eq!(ended.result()["text"], "other");
    assert_eq!(rig.site.told().len(), 2, "{:?}", rig.site.told());
}

/// A caption as people write them; the editor of the test cuts nothing of it.
const CAPTION: &str = "Привет, мир! 🎉👩‍🎨 — «ёлка»";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_sets_every_kind_of_field() {
    let rig = Rig::new().await;
    let page = "<input id=line value=old><textarea id=area>old</textarea><input id=gone value=old>
        <select id=by><option value=a>Anna<option value=b>Bob</select>
        <select id=label><option value=a>Anna<option value=b>Bob Smith</select>
        <input type=checkbox id=on><input type=checkbox id=off checked>
        <input type=radio name=r id=one checked><input type=radio name=r id=two>
        <input type=date id=date><input type=range id=range max=100>
        <div id=host></div>
        <script>
          const events = [];
          for (const kind of ['input', 'change'])
            addEventListener(kind, (event) => events.push(event.target.id + ':' + kind), true);
          const put = (text) => {
            const box = document.createElement('div');
            box.id = 'rich'; box.contentEditable = true; box.textContent = text;
            box.addEventListener('input', () => { put(box.innerText); });
            $('host').replaceChildren(box);
          };
          put('old text');
        </script>";
    let change = |id: &str, value: &str| json!({"type": "change", "selectors": [format!("#{id}")], "value": value});
    let steps = json!([
        change("line", CAPTION),
        change("area", "one\ntwo"),
        change("gone", ""),
        change("by", "b"),
        change("label", "Bob  Smith"),
        change("on", "true"),
        change("off", "false"),
        change("two", "true"),
        change("date", "2026-12-31"),
        change("range", "70"),
        change("rich", CAPTION),
        extract("line", "$('line').value"),
        extract("area", "$('area').value"),
        extract("gone", "'[' + $('gone').value + ']'"),
        extract("picked", "$('by').value + $('label').value"),
        extract("checked", "[$('on'), $('off'), $('one'), $('two')].map((box) => box.checked).join()"),
        extract("native", "$('date').value + ' ' + $('range').value"),
        extract("rich", "$('rich').textContent"),
        extract("events", "events.join()")
    ]);
    let ended = rig.run(page, &steps).await;
    let result = ended.result();
    let got = |name: &str| result[name].as_str();
    assert_eq!((got("line"), got("area"), got("gone")), (CAPTION, "one\ntwo", "[]"));
    assert_eq!((got("picked"), got("checked"), got("native")), ("bb", "true,false,false,true", "2026-12-31 70"));
    assert_eq!(got("rich"), CAPTION);
    for event in ["line:input", "line:change", "by:change", "on:change", "date:input", "rich:input"] {
        assert!(got("events").contains(event), "{event}: {}", got("events"));
    }

    let bad = json!([{"type": "change", "selectors": ["#by"], "value": "Carl", "timeout": 300}]);
    let ended = rig.run(page, &bad).await;
    assert_eq!(ended.unarmed().code, FailureCode::TextNotAccepted);
    assert!(ended.unarmed().detail.contains("[\"a\",\"b\"]"), "{}", ended.unarmed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mouse_the_keyboard_and_the_wheel_do_what_was_recorded() {
    let rig = Rig::new().await;
    let page = "<style>#menu #sub{display:none} #menu:hover #sub{display:block} #box{height:50px;overflow:auto}
          #box p{height:900px} #deep{margin-top:3000px}</style>
        <div id=pad style='width:100px;height:40px'>word</div>
        <div id=menu>Menu<button id=sub onclick=\"log('sub')\">Sub</button></div>
        <div id=box><p>long</p></div>
        <form id=form onsubmit=\"log('submit'); return false\"><input id=line onkeydown=\"log('down' + event.key)\"
          onkeyup=\"log('up' + event.key)\"></form>
        <button id=deep onclick=\"log('deep')\">Deep</button>
        <script>
          const events = [];
          const log = (what) => events.push(what);
          for (const kind of ['click', 'dblclick', 'contextmenu', 'auxclick'])
            $('pad').addEventListener(kind, (event) => log(kind + event.button + '@' + event.offsetX + ',' + event.offsetY));
        </script>";
    let on = |kind: &str, id: &str| json!({"type": kind, "selectors": [format!("#{id}")]});
    let mut at = on("click", "pad");
    at["offsetX"] = json!(5);
    at["offsetY"] = json!(7);
    let mut right = at.clone();
    right["button"] = json!("secondary");
    let steps = json!([
        {"type": "setViewport", "width": 700, "height": 500, "deviceScaleFactor": 2, "isMobile": false,
            "hasTouch": false, "isLandscape": false},
        extract("size", "[innerWidth, innerHeight, devicePixelRatio].join()"),
        at, right, on("doubleClick", "pad"), on("hover", "menu"), on("click", "sub"),
        {"type": "scroll", "x": 0, "y": 300}, extract("scrolled", "scrollY"),
        {"type": "scroll", "selectors": ["#box"], "x": 0, "y": 80}, extract("inner", "$('box').scrollTop"),
        on("click", "line"), {"type": "keyDown", "key": "a"}, {"type": "keyUp", "key": "a"},
        {"type": "keyDown", "key": "Enter"}, {"type": "keyUp", "key": "Enter"}, on("click", "deep"),
        extract("events", "events.join(' ')"), extract("typed", "$('line').value"),
        {"type": "customStep", "name": "screenshot", "parameters": {"name": "seen"}}
    ]);
    let ended = rig.run(page, &steps).await;
    let result = ended.result();
    assert_eq!(
        (result["size"].as_str(), result["scrolled"].as_str(), result["inner"].as_str()),
        ("700,500,2", "300", "80")
    );
    assert_eq!(
        result["events"],
        "click0@5,7 contextmenu2@5,7 auxclick2@5,7 click0@50,20 click0@50,20 dblclick0@50,20 sub downa upa downEnter \
         submit upEnter deep"
    );
    assert_eq!(result["typed"], "a");
    assert!(ended.has("shot-seen.png"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elements_are_found_by_every_kind_of_selector() {
    let rig = Rig::new().await;
    let page = "<h2>Save it</h2><button id=a onclick=\"log('a')\">Save it</button>
        <label>Caption<input id=c onclick=\"log('c')\"></label><p><span id=t onclick=\"log('t')\">Only   here</span></p>
        <div id=outer></div>
        <script>
          const events = [];
          const log = (what) => events.push(what);
          const shadow = $('outer').attachShadow({ mode: 'open' });
          shadow.innerHTML = '<x-inner id=inner></x-inner>';
          const deep = shadow.getElementById('inner').attachShadow({ mode: 'open' });
          deep.innerHTML = '<button id=d>Deep one</button>';
          deep.getElementById('d').onclick = () => log('d');
        </script>";
    let table = [
        (json!(["#a"]), "a"),
        (json!([["aria/Save it[role=\"button\"]"]]), "a"),
        (json!([["aria/Caption"]]), "c"),
        (json!([["aria/[role='textbox']"]]), "c"),
        (json!([["text/Only here"]]), "t"),
        (json!([["xpath///*[@id=\"a\"]"]]), "a"),
        (json!([["xpath///label/input"]]), "c"),
        (json!([["pierce/#d"]]), "d"),
        (json!([["#outer", "#inner", "#d"]]), "d"),
        (json!([["#outer", "#inner", "aria/Deep one"]]), "d"),
        (json!([["aria/Deep one"]]), "d"),
        (json!([["#outer", "text/Deep one"]]), "d"),
        (json!([["#wrong"], ["aria/Wrong"], ["a:nonsense"], ["#a"]]), "a"),
        (json!("#{{ id }}"), "a"),
    ];
    let mut steps = Vec::new();
    for (selectors, _) in &table {
        steps.push(json!({"type": "click", "selectors": selectors, "timeout": 1500}));
    }
    steps.push(extract("events", "events.join('')"));
    let case = Case::new(&rig.on(page, &Value::Array(steps)));
    let case = case.input("id", json!({"type": "text", "required": true}), Some(InputValue::Text("a".to_owned())));
    let ended = rig.replay(case).await;
    let expected: String = table.iter().map(|(_, id)| *id).collect();
    assert_eq!(ended.result()["events"], expected);
    let won: Vec<_> = ended.trace().iter().map(|line| line["selector"].clone()).collect();
    assert_eq!((&won[13], &won[9]), (&json!("#a"), &json!("#outer >>> #inner >>> #d")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_is_clicked_when_it_is_there_still_free_and_enabled() {
    let rig = Rig::new().await;
    let page = "<style>#cover{position:fixed;inset:0} #moving{position:relative;transition:left .6s linear;left:0}</style>
        <button id=disabled disabled onclick=\"log('disabled')\">Disabled</button>
        <button id=moving onclick=\"log('moving')\">Moving</button><button id=covered onclick=\"log('covered')\">C</button>
        <div id=place></div>
        <script>
          const events = [];
          const log = (what) => events.push(what);
          later(500, () => { $('place').innerHTML = '<button id=late onclick=\"log(`late`)\">Late</button>'; });
          later(1000, () => { $('disabled').disabled = false; });
          const move = () => { $('moving').style.left = '300px'; };
          const cover = () => {
            document.body.insertAdjacentHTML('beforeend', '<div id=cover></div>');
            later(700, () => $('cover').remove());
          };
        </script>
        <button id=start onclick=\"move(); log('start')\">Start</button><button id=hide onclick='cover()'>Hide</button>";
    let click = |id: &str| json!({"type": "click", "selectors": [format!("#{id}")]});
    let steps = json!([
        click("late"),
        click("disabled"),
        click("start"),
        click("moving"),
        extract("left", "getComputedStyle($('moving')).left"),
        click("hide"),
        click("covered"),
        extract("events", "events.join(' ')")
    ]);
    let ended = rig.run(page, &steps).await;
    assert_eq!(ended.result()["events"], "late disabled start moving covered");
    assert_eq!(ended.result()["left"], "300px", "it was clicked on its way");

    // And it says what was in the way.
    let still = "<style>.veil{position:fixed;inset:0}</style><button id=a>A</button><button id=b disabled>B</button>
        <button id=c hidden>C</button><div class=veil></div>";
    for (id, why) in [("a", "covered by div.veil"), ("b", "it is disabled"), ("c", "it is not visible")] {
        let steps = json!([{"type": "click", "selectors": [format!("#{id}")], "timeout": 300}]);
        let ended = rig.run(still, &steps).await;
        assert_eq!(ended.unarmed().code, FailureCode::ElementNotActionable);
        assert!(ended.unarmed().detail.contains(why), "{}", ended.unarmed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_and_extracts_read_the_page() {
    let rig = Rig::new().await;
    let page =
        "<ul><li class=x data-n=1>one<li class=x data-n=2>two<li class=x hidden>three</ul><a href='/thanks'>to</a>
        <input id=box><script>
          later(400, () => document.querySelector('ul').insertAdjacentHTML('beforeend', '<li class=x>four'));
          later(600, () => { $('box').checked = 7; $('box').value = 'set'; });
        </script>";
    let wait = |more: Value| {
        let mut step = json!({"type": "waitForElement", "selectors": [".x"], "timeout": 2500});
        step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        step
    };
    let element = |name: &str, more: Value| {
        let mut parameters = json!({"name": name});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "customStep", "name": "extract", "parameters": parameters})
    };
    let steps = json!([
        wait(json!({})), wait(json!({"operator": ">=", "count": 3})), wait(json!({"operator": "==", "count": 3})),
        wait(json!({"operator": "<=", "count": 3})), wait(json!({"selectors": ["#none"], "operator": "==", "count": 0})),
        wait(json!({"visible": false, "operator": "==", "count": 1})),
        wait(json!({"attributes": {"data-n": "2"}, "operator": "==", "count": 1})),
        wait(json!({"selectors": ["#box"], "properties": {"value": "set", "style": {"color": ""}}})),
        {"type": "waitForExpression", "expression": "new Promise((done) => later(100, () => done($('box').value === 'set')))"},
        element("text", json!({"selectors": [".x"]})), element("n", json!({"selectors": [".x"], "attribute": "data-n"})),
        element("url", json!({"selectors": ["a"], "attribute": "href"})), extract("sum", "Promise.resolve(3 + 4)")
    ]);
    let ended = rig.run(page, &steps).await;
    let result = ended.result();
    assert_eq!((result["text"].as_str(), result["n"].as_str(), result["sum"].as_str()), ("one", "1", "7"));
    assert_eq!(result["url"], rig.url("/thanks"));
    assert!(
        matches!(&ended.end, cove::browser::ReplayEnd::Confirmed { url: Some(url), .. } if *url == rig.url("/thanks"))
    );

    for (step, code) in [
        (wait(json!({"count": 9, "timeout": 300})), FailureCode::WaitTimedOut),
        (json!({"type": "waitForExpression", "expression": "no.such", "timeout": 300}), FailureCode::WaitTimedOut),
        (
            json!({"type": "waitForExpression", "expression": "new Promise(() => {})", "timeout": 300}),
            FailureCode::WaitTimedOut,
        ),
        (extract("x", "no.such"), FailureCode::ExpressionFailed),
        (element("x", json!({"selectors": ["a"], "attribute": "title"})), FailureCode::ExpressionFailed),
    ] {
        let ended = rig.run(page, &json!([step])).await;
        assert_eq!(ended.unarmed().code, code, "{step}");
        assert!(ended.took < QUICKLY, "{step} {:?}", ended.took);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_into_a_hidden_input_by_their_path() {
    let rig = Rig::new().await;
    let path = rig.folder().join("видео 1.mp4");
    std::fs::write(&path, "film").unwrap();
    let page = "<input id=kept type=file hidden><input id=taken type=file style='display:none'><input id=text>
        <script>
          const events = [];
          $('kept').onchange = async (event) => {
            const file = event.target.files[0];
            events.push(file ? file.name + ' ' + await file.text() : 'none');
          };
          $('taken').onchange = (event) => { events.push(event.target.files[0].name); event.target.value = ''; };
        </script>";
    let upload = |id: &str, file: &str| {
        json!({"type": "customStep", "name": "upload", "timeout": 500,
            "parameters": {"selectors": [format!("#{id}")], "files": [file]}})
    };
    let steps = json!([
        upload("kept", "{{ video }}"), {"type": "waitForExpression", "expression": "events.length === 1"},
        upload("taken", "{{ video }}"), upload("kept", "{{ cover }}"), extract("events", "events.join('|')")
    ]);
    let case = Case::new(&rig.on(page, &steps))
        .input("video", json!({"type": "file", "required": true}), Some(InputValue::Text(path.display().to_string())))
        .input("cover", json!({"type": "file", "required": false}), None);
    let ended = rig.replay(case).await;
    assert_eq!(ended.result()["events"], "видео 1.mp4 film|видео 1.mp4");

    let case = Case::new(&rig.on(page, &json!([upload("text", "{{ video }}")]))).input(
        "video",
        json!({"type": "file", "required": true}),
        Some(InputValue::Text(path.display().to_string())),
    );
    assert_eq!(rig.replay(case).await.unarmed().code, FailureCode::UploadRefused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialog_or_a_page_that_hangs_holds_nothing_up() {
    let rig = Rig::new().await;
    let alerting = SHARE.replace("clicked();", "clicked(); alert('Sure?'); if (confirm('Really?'))");
    let ended = rig.replay(sharing(&rig, &alerting, &[])).await;
    ended.result();
    assert_eq!(rig.site.clicks(), 1);
    assert!(ended.text("console.jsonl").contains("Sure?"), "{}", ended.text("console.jsonl"));

    let hanging = "<button id=a onclick='later(0, () => { for (;;); })'>A</button>";
    let steps = json!([
        {"type": "click", "selectors": ["#a"]}, {"type": "waitForElement", "selectors": ["#b"], "timeout": 300}
    ]);
    let ended = rig.run(hanging, &steps).await;
    assert_eq!(ended.unarmed().code, FailureCode::WaitTimedOut);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);

    // Closing the page ends a flow; a step behind it has no page.
    let closing = rig.run("<p>", &json!([{"type": "close"}])).await;
    closing.result();
    assert!(closing.took < QUICKLY, "{:?}", closing.took);
    let ended =
        rig.run("<p>", &json!([{"type": "close"}, {"type": "hover", "selectors": ["p"], "timeout": 300}])).await;
    ended.unarmed();
    assert!(ended.took < QUICKLY * 2, "{:?} {}", ended.took, ended.unarmed());
}
