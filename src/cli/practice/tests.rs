//! The practice site over raw HTTP.

use std::time::Duration;

use reqwest::{StatusCode, redirect};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Site, SiteOptions, Switches};

struct Visitor {
    site: Site,
    http: reqwest::Client,
    dir: tempfile::TempDir,
}

/// A site whose processing takes no time, changed by `change`, and a browser without cookies.
async fn visit(change: impl FnOnce(&mut SiteOptions)) -> Visitor {
    let dir = tempfile::tempdir().unwrap();
    let mut options = SiteOptions { processing_ms: 0, ..SiteOptions::new(dir.path()) };
    change(&mut options);
    let http =
        crate::outbound::local().timeout(Duration::from_secs(20)).redirect(redirect::Policy::none()).build().unwrap();
    Visitor { site: Site::start(options).await.unwrap(), http, dir }
}

fn switches(value: Value) -> Switches {
    serde_json::from_value(value).unwrap()
}

impl Visitor {
    async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.site.url())).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// One request of the click `nonce`; the caption is "Привет 🌿".
    async fn share(&self, account: &str, nonce: &str, body: &'static [u8]) -> reqwest::Result<reqwest::Response> {
        let caption = "%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82+%F0%9F%8C%BF";
        let address = format!("{}/upload?as={account}&nonce={nonce}&caption={caption}", self.site.url());
        self.http.post(address).body(body).send().await
    }

    async fn set(&self, value: Value) -> reqwest::Response {
        let address = format!("{}/admin/switches", self.site.url());
        self.http.post(address).json(&value).send().await.unwrap()
    }
}

#[tokio::test]
async fn a_click_becomes_a_post_with_its_hash_caption_and_page() {
    let visitor = visit(|_| {}).await;
    let answer = visitor.share("anna", "n1", b"film").await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);

    let listed = visitor.json("/posts").await;
    let post = &listed["posts"][0];
    assert_eq!(post["profile"], "anna");
    assert_eq!(post["caption"], "Привет 🌿");
    assert_eq!(post["bytes"], 4);
    assert_eq!(post["nonce"], "n1");
    assert_eq!(post["requests"], 1);
    let expected: String =
        Sha256::digest(b"film").iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(post["sha256"], expected);
    assert!(post["time"].as_str().unwrap().parse::<crate::model::Timestamp>().is_ok());

    let url = post["url"].as_str().unwrap();
    assert_eq!(visitor.json("/upload/n1").await, json!({"state": "published", "url": url}));
    let page = visitor.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Привет 🌿") && page.contains(&expected), "{page}");
    assert_eq!(visitor.get("/p/1/media").await.bytes().await.unwrap().as_ref(), b"film");
    assert_eq!(visitor.site.posts().len(), 1);
}

#[tokio::test]
async fn two_clicks_are_two_posts_and_a_repeated_request_is_none() {
    let visitor = visit(|_| {}).await;
    for nonce in ["n1", "n1", "n2"] {
        assert!(visitor.share("anna", nonce, b"film").await.unwrap().status().is_success());
    }
    let listed = visitor.json("/posts").await;
    let requests: Vec<_> = listed["posts"].as_array().unwrap().iter().map(|post| post["requests"].clone()).collect();
    assert_eq!(requests, [2, 1]);
    assert_eq!((&listed["clicks"], &listed["requests"]), (&json!(2), &json!(3)));
}

#[tokio::test]
async fn processing_takes_the_time_it_is_told() {
    let visitor =
        visit(|options| options.switches = switches(json!({"slow": {"ms": 600_000, "account": "anna"}}))).await;
    visitor.share("anna", "n1", b"film").await.unwrap();
    visitor.share("boris", "n2", b"film").await.unwrap();
    assert_eq!(visitor.json("/upload/n1").await["state"], "processing");
    assert_eq!(visitor.json("/upload/n2").await["state"], "published");
    assert_eq!(visitor.get("/upload/n3").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_error_after_share_stores_nothing_and_still_counts_the_click() {
    let visitor = visit(|_| {}).await;
    visitor.set(json!({"error_after_share": {"times": 1}})).await;
    for _ in 0..2 {
        let answer = visitor.share("anna", "n1", b"film").await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "a repeated request meets its click's fate");
    }
    assert_eq!(visitor.json("/posts").await, json!({"posts": [], "clicks": 1, "requests": 2}));
    assert_eq!(visitor.share("anna", "n2", b"film").await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_cut_connection_comes_after_the_post_was_stored() {
    let visitor = visit(|_| {}).await;
    visitor.set(json!({"cut_after_store": {"account": "anna", "times": 1}})).await;
    assert!(visitor.share("anna", "n1", b"film").await.is_err(), "no answer may come");
    assert!(visitor.share("boris", "n2", b"film").await.is_ok());
    assert!(visitor.share("anna", "n3", b"film").await.is_ok());
    let nonces: Vec<_> = visitor.site.posts().into_iter().map(|post| post.nonce).collect();
    assert_eq!(nonces, ["n1", "n2", "n3"]);
}

#[tokio::test]
async fn walls_stand_until_a_human_passes_them() {
    let visitor = visit(|_| {}).await;
    for (switch, wall, pass) in [("login_wall", "/login", "/signin"), ("verification_page", "/challenge", "/confirm")] {
        visitor.set(json!({switch: true})).await;
        let turned_away = visitor.get("/?as=anna").await;
        assert_eq!(turned_away.headers()["location"], format!("{wall}?as=anna"));
        assert!(!turned_away.headers().contains_key("set-cookie"));

        let passed = visitor.get(&format!("{pass}?as=anna")).await;
        assert_eq!(passed.headers()["location"], "/");
        assert!(passed.headers()["set-cookie"].to_str().unwrap().starts_with("practice_profile=anna;"));
        assert_eq!(visitor.get("/?as=anna").await.status(), StatusCode::OK);
        assert_eq!(visitor.get("/?as=boris").await.status(), StatusCode::SEE_OTHER, "for anna alone");

        visitor.set(json!({switch: true})).await;
        assert_eq!(visitor.get("/?as=anna").await.status(), StatusCode::SEE_OTHER, "set again, it stands again");
        visitor.set(json!({switch: false})).await;
    }
    assert!(visitor.get("/login").await.text().await.unwrap().contains("Log in to continue"));
    assert!(visitor.get("/challenge").await.text().await.unwrap().contains("Confirm it's you"));
}

#[tokio::test]
async fn the_rate_limit_stands_for_its_account_until_it_is_switched_off() {
    let visitor = visit(|_| {}).await;
    visitor.set(json!({"rate_limit_page": {"account": "anna"}})).await;
    for path in ["/?as=anna", "/u/anna?as=anna"] {
        assert_eq!(visitor.get(path).await.headers()["location"], "/limit?as=anna");
    }
    assert_eq!(visitor.get("/?as=boris").await.status(), StatusCode::OK);
    let limit = visitor.get("/limit?as=anna").await;
    assert_eq!(limit.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(limit.text().await.unwrap().contains("You are doing this too much"));
    visitor.set(json!({"rate_limit_page": false})).await;
    assert_eq!(visitor.get("/?as=anna").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn no_wall_looks_like_the_page_of_a_signed_in_user() {
    let visitor = visit(|_| {}).await;
    let inside = visitor.get("/u/anna?as=anna").await.text().await.unwrap();
    assert!(inside.contains(r#"data-signed-in="anna""#), "{inside}");
    for wall in ["/login?as=anna", "/challenge?as=anna", "/limit?as=anna"] {
        let page = visitor.get(wall).await.text().await.unwrap();
        assert!(!page.contains("data-signed-in") && page.contains("Not signed in"), "{wall}: {page}");
    }
}

#[tokio::test]
async fn the_posts_of_an_account_are_its_own_and_of_the_time_asked_for() {
    let visitor = visit(|_| {}).await;
    for (account, nonce) in [("anna", "n1"), ("boris", "n2")] {
        visitor.share(account, nonce, b"film").await.unwrap();
    }
    let shows = async |path: &str| {
        let page = visitor.get(path).await.text().await.unwrap();
        ["anna", "boris"]
            .map(|account| page.contains(&format!("data-account=\"{account}\" data-caption=\"Привет 🌿\"")))
    };
    assert_eq!(shows("/").await, [true, true]);
    assert_eq!(shows("/u/anna?as=anna").await, [true, false]);
    let time = visitor.site.posts()[0].time;
    assert_eq!(shows(&format!("/u/anna?since={time}")).await, [true, false]);
    let later = time.plus(Duration::from_secs(1));
    assert_eq!(shows(&format!("/u/anna?since={later}")).await, [false, false]);
    assert_eq!(visitor.get("/u/anna?since=noon").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(visitor.get("/u/a%20b").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_late_post_is_a_post_that_feeds_do_not_show_yet() {
    let visitor = visit(|_| {}).await;
    visitor.set(json!({"late_post": {"ms": 600_000, "times": 1}})).await;
    for nonce in ["n1", "n2"] {
        visitor.share("anna", nonce, b"film").await.unwrap();
        assert_eq!(visitor.json(&format!("/upload/{nonce}")).await["state"], "published");
    }
    for path in ["/", "/u/anna"] {
        let page = visitor.get(path).await.text().await.unwrap();
        assert!(!page.contains("data-post=\"1\"") && page.contains("data-post=\"2\""), "{path}: {page}");
    }
    assert_eq!(visitor.site.posts().len(), 2, "whoever counts sees both");
}

#[tokio::test]
async fn a_verification_after_share_comes_when_the_post_is_stored() {
    let visitor = visit(|_| {}).await;
    visitor.set(json!({"verification_after_share": {"times": 1}})).await;
    let answer = visitor.share("anna", "n1", b"film").await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.json::<Value>().await.unwrap()["to"], "/challenge");
    assert_eq!(visitor.site.posts().len(), 1);
    assert_eq!(visitor.share("anna", "n2", b"film").await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_page_shows_who_is_signed_in_and_what_is_switched_on() {
    let visitor = visit(|_| {}).await;
    let stranger = visitor.get("/").await.text().await.unwrap();
    assert!(stranger.contains("Not signed in") && !stranger.contains("New post"));

    let known =
        visitor.http.get(visitor.site.url()).header("cookie", "a=b; practice_profile=anna").send().await.unwrap();
    let known = known.text().await.unwrap();
    assert!(known.contains("New post") && known.contains(r#"data-profile="anna""#));
    assert!(known.contains(r#"data-share-label="Share""#) && !known.contains("accept-cookies"));

    let odd = visitor.get("/?as=anna&cookie_banner=1&rename_share=1&slow=1500").await.text().await.unwrap();
    assert!(odd.contains("accept-cookies") && odd.contains(r#"data-share-label="Publish now""#));
    assert!(odd.contains("slow=1500&amp;cookie_banner=1&amp;rename_share=1"), "{odd}");
    assert_eq!(visitor.get("/?as=anna&sloow=1").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_a_visitor_sent_is_text_on_every_page() {
    let visitor = visit(|_| {}).await;
    let address = format!("{}/upload?as=anna&nonce=n1&caption=%3Cscript%3Ealert(1)%3C/script%3E", visitor.site.url());
    visitor.http.post(address).body("film").send().await.unwrap();
    for path in ["/", "/p/1"] {
        let answer = visitor.get(path).await;
        assert!(answer.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        let page = answer.text().await.unwrap();
        assert!(page.contains("&lt;script&gt;alert") && !page.contains("<script>alert"), "{page}");
    }
}

#[tokio::test]
async fn uploads_that_are_wrong_leave_nothing() {
    let visitor = visit(|options| options.max_file_bytes = 8).await;
    let refused = |status| move |answer: reqwest::Response| assert_eq!(answer.status(), status);
    visitor.share("anna", "n1", b"").await.map(refused(StatusCode::UNPROCESSABLE_ENTITY)).unwrap();
    visitor.share("anna", "n2", b"123456789").await.map(refused(StatusCode::PAYLOAD_TOO_LARGE)).unwrap();
    // A length that is not told beforehand is counted on the way.
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>("12345"), Ok("6789")]);
    let address = format!("{}/upload?as=anna&nonce=n3", visitor.site.url());
    let answer = visitor.http.post(address).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    for (query, status) in [("nonce=n4", 401), ("as=anna", 400), ("as=anna&nonce=a/b", 400)] {
        let answer =
            visitor.http.post(format!("{}/upload?{query}", visitor.site.url())).body("x").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{query}");
    }
    assert!(visitor.site.posts().is_empty());
    let folder = |name: &str| std::fs::read_dir(visitor.dir.path().join(name)).unwrap().count();
    assert_eq!((folder("incoming"), folder("posts")), (0, 0));
}

#[tokio::test]
async fn a_body_that_ends_early_is_no_post() {
    use tokio::io::AsyncWriteExt as _;

    let visitor = visit(|_| {}).await;
    let mut peer = tokio::net::TcpStream::connect(visitor.site.addr).await.unwrap();
    let head =
        format!("POST /upload?as=anna&nonce=n1 HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\n", visitor.site.addr);
    peer.write_all(head.as_bytes()).await.unwrap();
    peer.write_all(b"half").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut rest).await.unwrap();
    assert!(visitor.site.posts().is_empty());
    assert!(visitor.share("anna", "n1", b"whole").await.unwrap().status().is_success(), "sent again, it is one");
    assert_eq!(visitor.site.posts()[0].bytes, 5);
}

#[tokio::test]
async fn switches_are_set_shown_and_checked() {
    let visitor = visit(|_| {}).await;
    assert_eq!(visitor.set(json!({"sloow": 1})).await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(visitor.set(json!({"slow": 20})).await.status(), StatusCode::OK);
    assert_eq!(visitor.json("/admin/switches").await, json!({"slow": [{"ms": 20}]}));
    let address = format!("{}/admin/switches", visitor.site.url());
    let plain = visitor.http.post(address).header("content-type", "text/plain").body("{}").send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn only_this_machine_s_own_names_are_answered() {
    let visitor = visit(|_| {}).await;
    let port = visitor.site.addr.port();
    for (host, status) in [
        (format!("localhost:{port}"), 200),
        (format!("evil.example:{port}"), 421),
        ("127.0.0.1".to_owned(), 421),
        (format!("127.0.0.1:{port}.evil.example"), 421),
    ] {
        let answer =
            visitor.http.get(format!("{}/posts", visitor.site.url())).header("host", &host).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{host}");
    }
    let outside = SiteOptions { listen: "0.0.0.0:0".parse().unwrap(), ..SiteOptions::new("/nonexistent") };
    assert!(Site::start(outside).await.is_err_and(|error| error.to_string().contains("loopback only")));
}

#[tokio::test]
async fn a_stopped_site_is_gone_and_says_so() {
    let visitor = visit(|_| {}).await;
    let (addr, listen) = (visitor.site.addr, visitor.dir.path().join("listen"));
    assert_eq!(std::fs::read_to_string(&listen).unwrap(), format!("{addr}\n"));
    visitor.get("/").await;
    visitor.site.stop().await;
    assert!(!listen.exists());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
