//! The practice site: a small local web site that behaves like a real post composer.
//!
//! `cove demo` and the tests publish to it. It keeps every file it received and says so at
//! `GET /posts`, one row per post, so that a post that is doubled or lost is seen from outside the
//! daemon. A click is a nonce made by the page's script at the moment of the click; a second request
//! with the same nonce is Chrome sending again by itself, and never a second post.
//!
//! It can be told to misbehave ([`Switches`]). It listens on loopback alone, and knows nothing about
//! the daemon: what both know is HTTP.

mod board;
mod pages;
mod query;
mod routes;
mod server;
mod switches;
mod upload;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use board::Post;
pub use switches::Switches;
pub use upload::base16;

/// Processing time of a post where no switch says otherwise.
const PROCESSING_MS: u64 = 800;
/// Largest file taken where nothing else is said.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// `cove practice-site`: what the demo starts beside the daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct PracticeArgs {
    /// Loopback address; port 0 takes any free one. The address really bound is in DIR/listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Folder for what is received.
    #[arg(long)]
    pub dir: PathBuf,
    /// How to misbehave, as JSON: `{"slow":3000,"cut_after_store":{"times":1,"account":"anna"}}`
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub switches: String,
}

/// How a site is started.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    pub listen: SocketAddr,
    pub dir: PathBuf,
    pub processing_ms: u64,
    pub max_file_bytes: u64,
    pub switches: Switches,
}

impl SiteOptions {
    /// A well-behaved site on a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.into(),
            processing_ms: PROCESSING_MS,
            max_file_bytes: MAX_FILE_BYTES,
            switches: Switches::default(),
        }
    }
}

/// A running site. It ends when it is dropped.
pub struct Site {
    pub addr: SocketAddr,
    shared: Arc<routes::Shared>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    listen_file: PathBuf,
}

impl Site {
    /// Binds, makes the folders and serves.
    pub async fn start(options: SiteOptions) -> anyhow::Result<Self> {
        anyhow::ensure!(
            options.listen.ip().is_loopback(),
            "the practice site listens on loopback only, and {} is not (use 127.0.0.1:0)",
            options.listen
        );
        let folders = upload::Folders::create(&options.dir).await?;
        let listener =
            TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
        let addr = listener.local_addr().context("cannot read the address that was bound")?;
        let listen_file = options.dir.join("listen");
        write_listen_file(&listen_file, addr).await?;

        let shared = Arc::new(routes::Shared::new(addr, folders, &options));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { addr, shared, stop, tasks, listen_file })
    }

    /// `http://host:port`, without a slash at the end.
    pub fn url(&self) -> String {
        self.shared.base_url()
    }

    /// What was received, oldest first.
    pub fn posts(&self) -> Vec<Post> {
        self.shared.posts()
    }

    /// Changes the named switches and leaves the others.
    pub fn set(&self, change: Switches) {
        self.shared.set_switches(change);
    }

    /// Closes every connection and waits for it, at most a few seconds.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        // A second site in the same folder may have replaced it; a file that is gone is as good.
        let _ = tokio::fs::remove_file(&self.listen_file).await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.abort_all();
    }
}

async fn write_listen_file(path: &Path, addr: SocketAddr) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    tokio::fs::write(&fresh, format!("{addr}\n")).await.with_context(|| format!("cannot write {}", fresh.display()))?;
    tokio::fs::rename(&fresh, path).await.with_context(|| format!("cannot write {}", path.display()))
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: PracticeArgs) -> anyhow::Result<u8> {
    use tokio::signal::unix::{SignalKind, signal};

    let switches = serde_json::from_str(&args.switches).context("--switches")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let site = Site::start(SiteOptions { listen: args.listen, switches, ..SiteOptions::new(args.dir) }).await?;
    println!("practice site ready on {}", site.url());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    site.stop().await;
    Ok(0)
}

#[cfg(test)]
mod tests;
