//! SKELETON (api room): the HTTP surface; the only place of the daemon that knows hyper.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::browser::Provider;
use crate::config::Config;
use crate::engine::EngineHandle;
use crate::model::Clock;
use crate::store::Store;

/// What the handlers share.
pub struct Context {
    pub config: Arc<Config>,
    pub state_dir: PathBuf,
    pub store: Store,
    pub engine: EngineHandle,
    pub provider: Arc<dyn Provider>,
    pub clock: Arc<dyn Clock>,
}

/// Serves until `stop`, then closes every connection gracefully within ten seconds.
pub async fn serve(_context: Arc<Context>, _tcp: TcpListener, _unix: Option<UnixListener>, _stop: CancellationToken) {
    unimplemented!("api room")
}
