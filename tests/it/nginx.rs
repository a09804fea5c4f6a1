//! The site of packaging/etc/nginx.conf in a real nginx, with the daemon behind it: TLS, tokens, large uploads,
//! events that are not held back, the web sockets of lent sessions, and whose requests are counted.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONNECTION, UPGRADE};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{Answer, Daemon, PATIENCE, answer, run};

const SITE: &str = include_str!("../../packaging/etc/nginx.conf");
const NAME: &str = "cove.example.org";

struct Nginx {
    child: Child,
    port: u16,
    client: reqwest::Client,
}

impl Nginx {
    async fn before(daemon: &Daemon) -> Self {
        let folder = daemon.folder.path().join("nginx");
        std::fs::create_dir(&folder).unwrap();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=cove.example.org", "-addext", "subjectAltName=DNS:cove.example.org,DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .expect("openssl is missing: run `. packaging/install-needs.sh; need_nginx`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // The number may be taken between here and nginx; then nginx ends at once, and says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let upstream = daemon.base.strip_prefix("http://").unwrap();
        let mut site = SITE.to_owned();
        for (from, to) in [
            ("server 127.0.0.1:8088;", format!("server {upstream};")),
            ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;")),
            ("listen [::]:443 ssl;", String::new()),
            ("/etc/letsencrypt/live/cove.example.org/fullchain.pem", cert.display().to_string()),
            ("/etc/letsencrypt/live/cove.example.org/privkey.pem", key.display().to_string()),
        ] {
            assert_eq!(site.matches(from).count(), 1, "{from}");
            site = site.replace(from, &to);
        }
        std::fs::write(folder.join("site.conf"), site).unwrap();
        std::fs::write(folder.join("nginx.conf"), around(&folder)).unwrap();
        let log = std::fs::File::create(folder.join("error.log")).unwrap();
        let child = Command::new("nginx")
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .arg("-e")
            .arg("stderr")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nginx is missing: run `. packaging/install-needs.sh; need_nginx`");
        let mut nginx = Self { child, port, client: client(&cert, port, 1) };
        let began = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let told = std::fs::read_to_string(folder.join("error.log")).unwrap();
            assert!(nginx.child.try_wait().unwrap().is_none(), "nginx ended: {told}");
            assert!(began.elapsed() < PATIENCE, "nginx does not listen: {told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        nginx
    }

    fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.port)
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        answer(self.client.get(self.url(path)).bearer_auth(token)).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let master = rustix::process::Pid::from_child(&self.child);
        // Its master ends its workers; a kill would leave them.
        if rustix::process::kill_process(master, rustix::process::Signal::TERM).is_ok() {
            let _ended = self.child.wait();
        }
    }
}

/// What stands around a site in a distribution's nginx.conf, within a folder of its own.
fn around(folder: &Path) -> String {
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    // Its workers would otherwise be of a user who may not enter the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        "{user}\ndaemon off;\npid {folder}/nginx.pid;\nworker_processes 1;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}include {folder}/site.conf;\n}}\n"
    )
}

/// A client that trusts nothing but this certificate, and comes from 127.0.0.`host`.
#[expect(clippy::disallowed_methods, reason = "a client of the site, not of the daemon")]
fn client(cert: &Path, port: u16, host: u8) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .resolve(NAME, ([127, 0, 0, 1], port).into())
        .local_address(std::net::IpAddr::from([127, 0, 0, host]))
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

async fn behind(env: &[(&'static str, &'static str)]) -> Daemon {
    let more = [
        ("COVE_SERVER__ALLOWED_HOSTS", NAME),
        ("COVE_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
        ("COVE_AUTH__REQUIRED", "true"),
    ];
    Daemon::start_as("", &[&more, env].concat()).await
}

fn token(daemon: &Daemon, scopes: &[&str]) -> String {
    let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
    let args: Vec<&str> = ["tokens", "create", "site", "--json"].into_iter().chain(scopes).collect();
    let output = run(&args, daemon.folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_site_of_nginx_serves_cove() {
    let daemon = behind(&[]).await;
    let admin = token(&daemon, &["admin"]);
    let nginx = Nginx::before(&daemon).await;

    assert_eq!(nginx.get("/api/v1/status", &admin).await.status, 200);
    let bare = answer(nginx.client.get(nginx.url("/api/v1/tasks"))).await;
    assert_eq!((bare.status, bare.code()), (401, "token_missing"));
    let other = nginx.client.get(nginx.url("/api/v1/tasks")).bearer_auth(&admin).header("host", "evil.example");
    assert_eq!(answer(other).await.status, 421, "nginx has one site, which answers to every name; cove does not");

    // Larger than nginx takes and keeps in memory by default.
    let film = vec![b'f'; 12_000_000];
    let upload = nginx.client.post(nginx.url("/api/v1/media")).bearer_auth(&admin);
    let kept = answer(upload.header("content-type", "application/octet-stream").body(film.clone())).await;
    assert_eq!(kept.status, 201, "{}", kept.body);
    assert_eq!(kept.body["bytes"], film.len(), "{}", kept.body);
}

/// `--url https://..`, with nothing trusted but the certificate that the site has.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reaches_the_site_over_tls_and_trusts_no_stranger() {
    // The test has no name server of its own: nginx and cove answer to this name as well.
    let daemon = Daemon::start_as(
        "",
        &[
            ("COVE_SERVER__ALLOWED_HOSTS", "localhost"),
            ("COVE_SERVER__TRUSTED_PROXIES", "127.0.0.1"),
            ("COVE_AUTH__REQUIRED", "true"),
        ],
    )
    .await;
    let admin = token(&daemon, &["admin"]);
    let nginx = Nginx::before(&daemon).await;
    let url = format!("https://localhost:{}", nginx.port);
    let ask = |trusted: &Path| {
        let mut command = super::rig::cove();
        command.args(["status", "--json", "--url", &url]).env("COVE_TOKEN", &admin).env("SSL_CERT_FILE", trusted);
        command.env_remove("SSL_CERT_DIR").stdin(Stdio::null()).output().unwrap()
    };
    let cert = daemon.folder.path().join("nginx/cert.pem");
    let told = ask(&cert);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&told.stdout).unwrap()["state"], "running");
    let nothing = daemon.folder.path().join("nothing.pem");
    std::fs::write(&nothing, "").unwrap();
    let stranger = ask(&nothing);
    assert_eq!(stranger.status.code(), Some(3), "{}", String::from_utf8_lossy(&stranger.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_through_nginx_as_they_happen() {
    let daemon = behind(&[]).await;
    let admin = token(&daemon, &["admin"]);
    let nginx = Nginx::before(&daemon).await;
    let stream = nginx.client.get(nginx.url("/api/v1/events")).bearer_auth(&admin);
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut told = String::new();
    let pause = nginx.client.post(nginx.url("/api/v1/pause")).bearer_auth(&admin).json(&json!({}));
    assert_eq!(answer(pause).await.status, 202);
    // Long before the first heartbeat would push anything out of a buffer.
    let seen = async {
        while !told.contains("paused") {
            told += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_before_nginx_is_counted_by_its_own_address() {
    let daemon = behind(&[("COVE_LIMITS__HEALTH", "3")]).await;
    token(&daemon, &["read"]);
    let nginx = Nginx::before(&daemon).await;
    let cert = daemon.folder.path().join("nginx/cert.pem");
    let ask = async |host: u8| {
        let client = client(&cert, nginx.port, host);
        answer(client.get(nginx.url("/api/v1/health/simple"))).await.status
    };
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(2).await);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(ask(3).await, 200, "the flood of one slows another");
    // What a client claims of itself changes nothing: nginx appends the address that it saw.
    let claimed = client(&cert, nginx.port, 2).get(nginx.url("/api/v1/health/simple"));
    assert_eq!(answer(claimed.header("x-forwarded-for", "10.0.0.9")).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_session_is_reached_through_nginx() {
    let daemon = behind(&[]).await;
    let admin = token(&daemon, &["admin", "sessions"]);
    let nginx = Nginx::before(&daemon).await;
    let post = async |path: &str, body: Value| {
        answer(nginx.client.post(nginx.url(path)).bearer_auth(&admin).json(&body)).await
    };
    assert_eq!(post("/api/v1/profiles", json!({"name": "anna"})).await.status, 201);
    let lent = post("/api/v1/sessions", json!({"profile": "anna", "owner": "script", "ttl_seconds": 60})).await;
    assert_eq!(lent.status, 201, "{}", lent.body);
    let endpoint = lent.body["ws_endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with(&format!("wss://{NAME}/")), "{endpoint}");
    let path = endpoint.splitn(4, '/').nth(3).unwrap();
    let asked = nginx
        .client
        .get(nginx.url(&format!("/{path}")))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut socket = answer.upgrade().await.unwrap();
    let text = json!({"id": 1, "method": "Browser.getVersion"}).to_string();
    let length = u8::try_from(text.len()).unwrap();
    // Its mask is zero and leaves the bytes as they are.
    socket.write_all(&[&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()).await.unwrap();
    let mut told = Vec::new();
    let heard = async {
        while !String::from_utf8_lossy(&told).contains("protocolVersion") {
            told.push(socket.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}
