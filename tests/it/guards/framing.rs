//! H2: limits and framing, a table of raw requests.

use super::super::rig::Daemon;
use super::{address, exchange, status};

const HEALTH: &str = "GET /api/v1/health/simple HTTP/1.1\r\n";
const PAUSE: &str = "POST /api/v1/pause HTTP/1.1\r\n";
const START: &str = "POST /api/v1/bulk-upload/start HTTP/1.1\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// A name, what is sent (`@` stands for the Host and for a close), and the answers that are right; 0: the
/// connection is closed without one.
type Case = (&'static str, String, &'static [u16]);

fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line}@{headers}\r\n{body}")
}

fn body(line: &str, headers: &str, body: &str) -> String {
    request(line, &format!("{headers}Content-Length: {}\r\n", body.len()), body)
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}{}", open.repeat(depth), close.repeat(depth))
}

fn lines() -> Vec<Case> {
    let get = |line: &str| request(line, "", "");
    vec![
        ("an ordinary request", get(HEALTH), &[200]),
        ("HTTP/1.0", get("GET /api/v1/health/simple HTTP/1.0\r\n"), &[200]),
        ("a version that is none", get("GET /api/v1/health/simple HTTP/3.7\r\n"), &[400]),
        ("HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[400, 0]),
        ("HTTP/0.9", "GET /api/v1/health/simple\r\n\r\n".to_owned(), &[400]),
        ("no method", get(" /api/v1/health/simple HTTP/1.1\r\n"), &[400]),
        ("a method of its own", get("BREW /api/v1/health/simple HTTP/1.1\r\n"), &[405]),
        ("a method in small letters", get("get /api/v1/health/simple HTTP/1.1\r\n"), &[405]),
        ("TRACE", get("TRACE /api/v1/health/simple HTTP/1.1\r\n"), &[405]),
        ("OPTIONS", get("OPTIONS /api/v1/pause HTTP/1.1\r\n"), &[405]),
        ("OPTIONS *", get("OPTIONS * HTTP/1.1\r\n"), &[404]),
        ("CONNECT", get("CONNECT evil.com:443 HTTP/1.1\r\n"), &[421]),
        ("a control character in the path", get("GET /api/\x01 HTTP/1.1\r\n"), &[400]),
        ("a space in the path", get("GET /api/v1/health simple HTTP/1.1\r\n"), &[400]),
        ("a fragment", get("GET /api/v1/health/simple#x HTTP/1.1\r\n"), &[200, 400]),
        ("a climbing path", get("GET /api/v1/items/i1/evidence/../../../../etc/passwd HTTP/1.1\r\n"), &[404]),
        ("an encoded climbing path", get("GET /api/v1/items/i1/evidence/..%2f..%2fetc%2fpasswd HTTP/1.1\r\n"), &[404]),
        ("an encoded zero", get("GET /api/v1/items/i1/evidence/a%00 HTTP/1.1\r\n"), &[404]),
        ("bytes that are no text", get("GET /api/v1/tasks/%ff%fe HTTP/1.1\r\n"), &[404]),
        ("twice a slash", get("GET //api/v1/health/simple HTTP/1.1\r\n"), &[404]),
        ("a long path", get(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000))), &[404]),
        ("a path beyond the head", get(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(40_000))), &[414, 431]),
        ("an unknown query", get("GET /api/v1/tasks?x=1 HTTP/1.1\r\n"), &[422]),
    ]
}

fn headers() -> Vec<Case> {
    let with = |headers: &str| request(HEALTH, headers, "");
    vec![
        ("a bare newline", HEALTH.replace('\r', "") + "@\n", &[200, 400]),
        ("a folded header", with("A: b\r\n c\r\n"), &[400]),
        ("a space before the colon", with("A : b\r\n"), &[400]),
        ("a header without a colon", with("A\r\n"), &[400]),
        ("a header without a name", with(": b\r\n"), &[400]),
        ("a zero in a header", with("A: b\0c\r\n"), &[400]),
        ("a large head", with(&format!("A: {}\r\n", "x".repeat(20_000))), &[200]),
        ("a head that is too large", with(&format!("A: {}\r\n", "x".repeat(40_000))), &[431]),
        ("50 headers", with(&"A: b\r\n".repeat(50)), &[200]),
        ("100 headers", with(&"A: b\r\n".repeat(100)), &[431]),
        ("Expect: nonsense", with("Expect: nonsense\r\n"), &[200, 417]),
        ("an upgrade to HTTP/2", with("Upgrade: h2c\r\nConnection: Upgrade\r\n"), &[200]),
        ("an Origin of another site", with("Origin: http://evil.com\r\n"), &[403]),
        ("a read for another site", with("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), &[403]),
        ("a sibling site", with("Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n"), &[403]),
    ]
}

fn bodies() -> Vec<Case> {
    let deep = nested("[", "]", 10_000);
    let deep_objects = nested("{\"a\":", "}", 200).replace(":}", ":1}");
    vec![
        ("no body, no content type", request(PAUSE, "Content-Length: 0\r\n", ""), &[202]),
        ("a read with an empty body", request(HEALTH, &format!("{JSON}Content-Length: 0\r\n"), ""), &[200]),
        ("a read with a body", body(HEALTH, JSON, "{}"), &[400]),
        ("a read with chunks", request(HEALTH, "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[400]),
        ("a look with a body", body(&HEALTH.replace("GET", "HEAD"), JSON, "{}"), &[400]),
        ("an empty object for nothing", body(PAUSE, JSON, "{}"), &[202]),
        ("a field for nothing", body(PAUSE, JSON, "{\"a\":1}"), &[422]),
        ("text/plain", body(START, "Content-Type: text/plain\r\n", "{}"), &[415]),
        ("a form", body(START, "Content-Type: application/x-www-form-urlencoded\r\n", "a=1"), &[415]),
        ("a form with files", body(PAUSE, "Content-Type: multipart/form-data; boundary=x\r\n", "--x--"), &[415]),
        ("no content type", body(START, "", "{}"), &[415]),
        ("a charset that JSON has not", body(START, "Content-Type: application/json; charset=utf-7\r\n", "{}"), &[415]),
        ("its own charset", body(START, "Content-Type: application/json; charset=UTF-8\r\n", "{}"), &[422]),
        ("two content types", body(START, &JSON.repeat(2), "{}"), &[415]),
        ("gzip", body(START, &format!("{JSON}Content-Encoding: gzip\r\n"), "x"), &[415]),
        ("gzip where media come", body("POST /api/v1/media HTTP/1.1\r\n", "Content-Encoding: br\r\n", "x"), &[415]),
        ("no JSON", body(START, JSON, "{"), &[400]),
        ("bytes that are no UTF-8 are no JSON", body(START, JSON, "\"\u{7}\""), &[400]),
        ("deep lists", body(START, JSON, &deep), &[400]),
        ("deep objects", body(START, JSON, &deep_objects), &[400]),
        ("something behind the JSON", body(START, JSON, "{} {}"), &[400]),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        (
            "a declared body that is too large",
            request(START, &format!("{JSON}Content-Length: 99999999\r\n"), ""),
            &[413],
        ),
        ("a length that is none", request(START, &format!("{JSON}Content-Length: x\r\n"), ""), &[400]),
        ("a negative length", request(START, &format!("{JSON}Content-Length: -1\r\n"), ""), &[400]),
        ("a length with a sign", request(START, &format!("{JSON}Content-Length: +2\r\n"), "{}"), &[400]),
        ("a huge length", request(START, &format!("{JSON}Content-Length: 99999999999999999999\r\n"), ""), &[400]),
        ("two lengths", request(START, &format!("{JSON}Content-Length: 2\r\nContent-Length: 3\r\n"), "{}"), &[400]),
        (
            "a length and chunks",
            request(START, &format!("{JSON}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
            &[400],
        ),
        ("an encoding that is none", request(START, &format!("{JSON}Transfer-Encoding: gzip\r\n"), "x"), &[400, 501]),
        (
            "an encoding before the chunks",
            request(START, &format!("{JSON}Transfer-Encoding: gzip, chunked\r\n"), "2\r\n{}\r\n0\r\n\r\n"),
            &[400],
        ),
        (
            "an encoding and chunks in two headers",
            request(START, &format!("{JSON}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
            &[400],
        ),
        (
            "chunks in capitals",
            request(START, &format!("{JSON}Transfer-Encoding: Chunked\r\n"), "2\r\n{}\r\n0\r\n\r\n"),
            &[422],
        ),
        ("chunks", request(START, &format!("{JSON}Transfer-Encoding: chunked\r\n"), "2\r\n{}\r\n0\r\n\r\n"), &[422]),
        (
            "a chunk of no number",
            request(START, &format!("{JSON}Transfer-Encoding: chunked\r\n"), "zz\r\n{}\r\n"),
            &[400],
        ),
        (
            "a chunk of a huge number",
            request(START, &format!("{JSON}Transfer-Encoding: chunked\r\n"), "fffffffffffffffff\r\n{}"),
            &[400],
        ),
        (
            "chunks in HTTP/1.0",
            request(&START.replace("1.1", "1.0"), "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            &[400],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_limits_and_framing() {
    let daemon = Daemon::start().await;
    let address = address(&daemon);
    let cases: Vec<Case> = [lines(), headers(), bodies(), lengths()].concat();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for (name, sent, right) in &cases {
        let sent = sent.replacen('@', &format!("Host: {address}\r\nConnection: close\r\n"), 1);
        let answer = exchange(&address, sent.as_bytes());
        let heads = answer.matches("HTTP/1.").count();
        if !right.contains(&status(&answer)) || heads > 1 {
            wrong.push(format!("{name}: {right:?}, got {heads} answers: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(daemon.get("/api/v1/health").await.status, 200);
    println!("H2: {} cases", cases.len());
}

/// What one request leaves unread is never taken for the next.
#[tokio::test(flavor = "multi_thread")]
async fn h2_a_refused_body_is_not_a_request() {
    let daemon = Daemon::start().await;
    let address = address(&daemon);
    let hidden = format!("POST /api/v1/pause HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    for headers in ["Content-Type: text/plain\r\n", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"] {
        let length = hidden.len();
        let sent = format!("{START}Host: {address}\r\n{headers}Content-Length: {length}\r\n\r\n{hidden}");
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut stream, sent.as_bytes()).unwrap();
        let mut answer = [0; 16];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 415"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "running");
}
