//! Tokens from outside: every route of the router's own list, the command line, and where texts must not be.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use cove::api::routes::{Access, ROUTES, Route};
use cove::model::{Scope, TokenHash};
use serde_json::{Value, json};

use super::rig::{Answer, Daemon, PATIENCE, answer, run};

const REQUIRED: (&str, &str) = ("COVE_AUTH__REQUIRED", "true");
const NO_LIMIT: (&str, &str) = ("COVE_LIMITS__METRICS", "0");

/// A token made over the unix socket: its id and its text.
fn made(daemon: &Daemon, scopes: &[&str]) -> (String, String) {
    let mut args = vec!["tokens", "create", "a test", "--json"];
    for scope in scopes {
        args.extend(["--scope", scope]);
    }
    let output = run(&args, daemon.folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token: Value = serde_json::from_slice(&output.stdout).unwrap();
    (token["id"].as_str().unwrap().to_owned(), token["token"].as_str().unwrap().to_owned())
}

async fn ask(daemon: &Daemon, method: &str, path: &str, token: Option<&str>) -> Answer {
    let request = daemon.client.request(method.parse().unwrap(), format!("{}{path}", daemon.base));
    answer(match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    })
    .await
}

fn path_of(route: &Route) -> String {
    // Its files are few and fixed.
    if route.path == "/api/v1/docs/{file}" {
        return "/api/v1/docs/docs.js".to_owned();
    }
    let parts = ["{id}", "{name}", "{file}", "{token}", "{delivery}", "{job}", "{*rest}"];
    parts.iter().fold(route.path.to_owned(), |path, part| path.replace(part, "x1"))
}

/// Bodies of answers to HEAD are empty, so their code is told by nothing.
fn is(answer: &Answer, route: &Route, status: u16, code: &str) -> bool {
    answer.status == status && (route.method.as_str() == "HEAD" || answer.code() == code)
}

const OPEN: [&str; 4] = ["/api/v1/health", "/api/v1/metrics", "/api/v1/status", "/api/v1/locks"];

async fn expired(daemon: &Daemon, admin: &str) -> String {
    let body = json!({"name": "short", "scopes": ["admin"], "expires_in_seconds": 1});
    let request = daemon.client.post(format!("{}/api/v1/tokens", daemon.base)).bearer_auth(admin).json(&body);
    let text = answer(request).await.body["token"].as_str().unwrap().to_owned();
    let began = Instant::now();
    while ask(daemon, "GET", "/api/v1/tasks", Some(&text)).await.code() != "token_expired" {
        assert!(began.elapsed() < PATIENCE, "it does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_every_route_asks_for_its_token() {
    let daemon = Daemon::start_as("", &[REQUIRED, NO_LIMIT, ("COVE_AUTH__OPEN_ON_LOOPBACK", "")]).await;
    let (_, admin) = made(&daemon, &["admin"]);
    let (gone, revoked) = made(&daemon, &["admin"]);
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some(&revoked)).await.status, 200);
    assert_eq!(ask(&daemon, "DELETE", &format!("/api/v1/tokens/{gone}"), Some(&admin)).await.status, 204);
    let expired = expired(&daemon, &admin).await;
    let stranger = format!("{}x", "another-form-".repeat(3));
    let scoped: Vec<_> = Scope::ALL.map(|scope| (scope, made(&daemon, &[scope.name()]).1)).into();
    let mut asked = 0;
    for route in ROUTES {
        let (method, path) = (route.method.as_str(), path_of(route));
        let Some(needed) = route.access.scope() else {
            let bare = ask(&daemon, method, &path, None).await;
            let open =
                if route.access == Access::Anyone { bare.status == 200 } else { matches!(bare.status, 404 | 426) };
            assert!(open, "{method} {path}: {} {}", bare.status, bare.body);
            continue;
        };
        for (token, code) in [
            (None, "token_missing"),
            (Some(stranger.as_str()), "token_invalid"),
            (Some("cove_0123"), "token_invalid"),
            (Some(&revoked), "token_revoked"),
            (Some(&expired), "token_expired"),
        ] {
            let refused = ask(&daemon, method, &path, token).await;
            assert!(is(&refused, route, 401, code), "{method} {path} {code}: {} {}", refused.status, refused.body);
            assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{method} {path}");
            asked += 1;
        }
        for (scope, token) in &scoped {
            let answer = ask(&daemon, method, &path, Some(token)).await;
            let may = *scope == needed || *scope == Scope::Admin || route.access.other_scope() == Some(*scope);
            let refused = is(&answer, route, 403, "missing_scope");
            assert_eq!(refused, !may, "{method} {path} with {scope}: {} {}", answer.status, answer.body);
            assert_ne!(answer.status, 401, "{method} {path} with {scope}");
            asked += 1;
        }
    }
    println!("H5: {} routes, {asked} requests", ROUTES.len());
}

/// The negative control: with the guard off the same requests go in.
#[tokio::test(flavor = "multi_thread")]
async fn h5_without_the_guard_nothing_is_refused() {
    let daemon = Daemon::start_as("", &[NO_LIMIT]).await;
    for route in ROUTES {
        let answer = ask(&daemon, route.method.as_str(), &path_of(route), None).await;
        assert!(!matches!(answer.status, 401 | 403), "{} {}: {}", route.method, route.path, answer.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_reads_are_open_once_there_is_a_token_and_not_through_a_proxy() {
    let daemon = Daemon::start_as("", &[REQUIRED]).await;
    for path in OPEN {
        let refused = daemon.get(path).await;
        assert_eq!((refused.status, refused.code()), (401, "token_missing"), "{path}");
        assert!(refused.body["detail"].as_str().unwrap().contains("cove tokens create"), "{}", refused.body);
    }
    assert_eq!(daemon.get("/api/v1/health/simple").await.status, 200);
    let (id, _) = made(&daemon, &["read"]);
    for path in OPEN {
        assert_eq!(daemon.get(path).await.status, 200, "{path}");
        let through = daemon.client.get(format!("{}{path}", daemon.base)).header("x-forwarded-for", "127.0.0.1");
        assert_eq!(answer(through).await.status, 401, "{path} through a proxy");
    }
    assert_eq!(daemon.get("/api/v1/tasks").await.status, 401);
    assert_eq!(daemon.post("/api/v1/locks/cleanup", &json!({})).await.status, 401);
    // A token that is wrong is not the same as none.
    assert_eq!(ask(&daemon, "GET", "/api/v1/status", Some("cove_x")).await.code(), "token_invalid");
    assert!(run(&["tokens", "revoke", &id], daemon.folder.path()).status.success());
    assert_eq!(daemon.get("/api/v1/status").await.status, 401, "no token is left");
}

/// As the package's service does it after each start.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_made_once_into_a_file_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let daemon = Daemon::start_as("", &[REQUIRED]).await;
    let folder = daemon.folder.path();
    let file = folder.join("admin-token");
    let first = |file: &Path| run(&["tokens", "first", file.to_str().unwrap()], folder);
    let nowhere = first(&folder.join("nowhere/token"));
    assert!(!nowhere.status.success() && String::from_utf8_lossy(&nowhere.stderr).contains("no token was made"));
    assert_eq!(daemon.get("/api/v1/status").await.status, 401, "none was made");
    let made = first(&file);
    assert!(made.status.success() && made.stdout.is_empty(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(ask(&daemon, "GET", "/api/v1/tokens", Some(text.trim())).await.status, 200, "an administrator's");
    assert!(first(&file).status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "as it was");
    let listed = run(&["tokens", "list", "--json"], folder);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1, "{listed}");
    // Who revoked it does not want another.
    assert!(run(&["tokens", "revoke", id], folder).status.success());
    assert!(first(&folder.join("second")).status.success());
    assert!(!folder.join("second").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_with_and_without_a_daemon() {
    let mut daemon = Daemon::prepare("", &[REQUIRED]);
    let folder = daemon.folder.path().to_owned();
    let output = run(&["tokens", "create", "first", "--scope", "admin", "--expires-days", "9"], &folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(text.starts_with("cove_") && text.len() == 41, "alone on stdout: {text}");
    daemon.boot().await;
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some(&text)).await.status, 200);
    let (id, _) = made(&daemon, &["read", "submit"]);
    let listed = run(&["tokens", "list", "--json"], &folder);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let tokens = listed["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), &tokens[0]["scopes"]), (2, &json!(["read", "submit"])));
    assert!(tokens[1]["expires_at"].is_string() && tokens[1]["last_used_at"].is_string(), "{}", tokens[1]);
    assert!(tokens.iter().all(|token| token.get("token").is_none()));
    // Over TCP the command line sends what COVE_TOKEN or --token-file has.
    let file = folder.join("token");
    std::fs::write(&file, format!("{text}\n")).unwrap();
    let file = file.to_str().unwrap();
    let by_tcp = |token: &[&str]| run(&[&["--url", &daemon.base, "tasks", "list"], token].concat(), &folder);
    assert!(by_tcp(&["--token-file", file]).status.success());
    assert!(!by_tcp(&[]).status.success());
    assert!(run(&["tokens", "revoke", &id], &folder).status.success());
    assert_eq!(daemon.stop(), Some(0));
    let listed = run(&["tokens", "list", "--json"], &folder);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["tokens"][0]["state"], "revoked", "{listed}");
    assert!(listed["tokens"][1]["last_used_at"].is_string(), "written down at the stop: {listed}");
    let first = listed["tokens"][1]["id"].as_str().unwrap();
    assert!(run(&["tokens", "revoke", first], &folder).status.success());
    let wrong = run(&["tokens", "revoke", "k1"], &folder);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("no token"));
    daemon.boot().await;
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some(&text)).await.code(), "token_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_make_is_taken_over_and_lives_as_long_as_it_is_named() {
    let mut daemon = Daemon::prepare("", &[REQUIRED, ("WORKER_API_TOKEN", "an old worker's/token+1=")]);
    let config = daemon.folder.path().join("cove.toml");
    let plain = std::fs::read_to_string(&config).unwrap();
    let file = daemon.folder.path().join("imported");
    std::fs::write(&file, "of-a-file-1234567890\nnot this\n").unwrap();
    let with = plain.replace("[auth]\n", &format!("[auth]\ntoken_file = {file:?}\n"));
    std::fs::write(&config, with).unwrap();
    // Words with a space are no header's token.
    daemon.spawn(super::rig::cove());
    assert_eq!(daemon.ended().await, Some(78), "{}", daemon.logged());
    assert!(!daemon.logged().contains("old worker"), "{}", daemon.logged());
    daemon.set_env("WORKER_API_TOKEN", "an-old-worker's/token+1=");
    daemon.boot().await;
    for token in ["an-old-worker's/token+1=", "of-a-file-1234567890"] {
        assert_eq!(ask(&daemon, "POST", "/api/v1/pause", Some(token)).await.status, 202, "{token}");
    }
    assert_eq!(daemon.stop(), Some(0));
    std::fs::write(&config, plain).unwrap();
    daemon.boot().await;
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some("of-a-file-1234567890")).await.status, 401);
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some("an-old-worker's/token+1=")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_its_token() {
    let daemon = Daemon::start_as("", &[REQUIRED]).await;
    let (_, admin) = made(&daemon, &["admin"]);
    let (_, other) = made(&daemon, &["admin"]);
    let flow = daemon.client.put(format!("{}/api/v1/flows/atelier", daemon.base)).bearer_auth(&admin);
    let flow = flow.header("content-type", "application/json").body(super::rig::ATELIER);
    assert_eq!(answer(flow).await.status, 201);
    let profile = daemon.client.post(format!("{}/api/v1/profiles", daemon.base)).bearer_auth(&admin);
    assert_eq!(answer(profile.json(&json!({"name": "anna"}))).await.status, 201);
    assert_eq!(ask(&daemon, "POST", "/api/v1/pause", Some(&admin)).await.status, 202);
    let film = daemon.film("1.mp4");
    let body = |key: &str| {
        json!({"flow": "atelier", "items": [{"profile": "anna", "key": key, "inputs": {
            "site": "http://127.0.0.1:9", "account": "x", "video": film, "caption": "c"}}]})
    };
    let start = |token: &str, body: Value| {
        let request = daemon.client.post(format!("{}/api/v1/bulk-upload/start", daemon.base)).bearer_auth(token);
        answer(request.header("idempotency-key", "k1").json(&body))
    };
    let first = start(&admin, body("a")).await;
    assert_eq!(first.status, 202, "{}", first.body);
    assert_eq!(start(&admin, body("a")).await.body["task_id"], first.body["task_id"]);
    assert_eq!(start(&admin, body("b")).await.code(), "idempotency_conflict");
    let theirs = start(&other, body("b")).await;
    assert!(theirs.status == 202 && theirs.body["task_id"] != first.body["task_id"], "{}", theirs.body);
}

const WINDOW: usize = 16;

/// How many of these the bytes hold.
fn found(bytes: &[u8], wanted: &HashSet<[u8; WINDOW]>) -> usize {
    bytes.windows(WINDOW).filter(|window| wanted.contains(*window)).count()
}

fn files(folder: &Path, all: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.is_file() {
            all.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_thousand_tokens_are_nowhere() {
    const TOKENS: usize = 1_000;
    let mut daemon = Daemon::start_as("", &[REQUIRED, ("COVE_LOG__LEVEL", "trace")]).await;
    let (_, admin) = made(&daemon, &["admin"]);
    let mut texts = HashSet::new();
    let mut hashes = HashSet::new();
    let mut used = String::new();
    for number in 0..TOKENS {
        let body = json!({"name": format!("n{number}"), "scopes": ["read"]});
        let request = daemon.client.post(format!("{}/api/v1/tokens", daemon.base)).bearer_auth(&admin).json(&body);
        let text = answer(request).await.body["token"].as_str().unwrap().to_owned();
        texts.insert(<[u8; WINDOW]>::try_from(&text.as_bytes()["cove_".len()..][..WINDOW]).unwrap());
        hashes.insert(<[u8; WINDOW]>::try_from(&TokenHash::of(&text).0[..WINDOW]).unwrap());
        used = text;
    }
    assert_eq!(texts.len(), TOKENS);
    assert_eq!(ask(&daemon, "GET", "/api/v1/tasks", Some(&used)).await.status, 200);
    assert!(run(&["tokens", "list"], daemon.folder.path()).status.success());
    let proc = Path::new("/proc").join(daemon.pid().to_string());
    for name in ["cmdline", "environ"] {
        assert_eq!(found(&std::fs::read(proc.join(name)).unwrap(), &texts), 0, "{name}");
    }
    assert_eq!(daemon.stop(), Some(0));
    let mut all = Vec::new();
    files(daemon.folder.path(), &mut all);
    let mut bytes = 0;
    for path in &all {
        let held = std::fs::read(path).unwrap();
        bytes += held.len();
        assert_eq!(found(&held, &texts), 0, "{}", path.display());
    }
    // The control: the search finds what is there.
    let state = std::fs::read(daemon.state().join(cove::store::STATE_FILE)).unwrap();
    assert!(found(&state, &hashes) >= TOKENS, "the hashes are found");
    println!("H6: {TOKENS} tokens, {} files, {bytes} bytes, 0 found", all.len());
}
