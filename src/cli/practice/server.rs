//! Accepts connections for the practice site and bounds them: their number, their heads, their end.
//!
//! A handler's [`routes::Cut`] ends the connection without an answer; that is how the switch
//! `cut_after_store` works.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::routes::{self, Shared};

const MAX_CONNECTIONS: usize = 256;
/// Also the time after which an idle connection is closed.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A caption travels in the address: 2,200 characters of at most 12 bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a stop waits for requests under way.
const GRACE: Duration = Duration::from_secs(2);
/// Rest after an accept that failed (no file descriptors left), so as not to spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

pub async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Beyond the bound the next peer waits in the kernel's queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                listener.accept().await.map(|(stream, _)| (stream, permit))
            } => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                connections.spawn(async move {
                    connection(stream, shared, stop).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_REST).await,
        }
    }
    // What is left after the grace is aborted with the set.
    let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    let service = service_fn(move |request| routes::answer(Arc::clone(&shared), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // The ends of a connection (a peer that went away, a cut on purpose) interest nobody here.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
