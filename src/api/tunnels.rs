//! The open `WebSocket`s that are passed on to browsers.
//!
//! DevTools of an open profile and lent sessions keep theirs here; what is passed on, and when it ends, is
//! theirs to say. Invariant: there are never more than the bound, and all end with the server, since a
//! tunnel has no end of its own that a stop could wait for.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::error::{ApiError, Code};

pub struct Tunnels {
    most: usize,
    /// None once the server has stopped.
    open: Mutex<Option<JoinSet<()>>>,
}

impl Tunnels {
    pub fn new(most: usize) -> Self {
        Self { most, open: Mutex::new(Some(JoinSet::new())) }
    }

    pub fn add(&self, tunnel: impl Future<Output = ()> + Send + 'static) -> Result<(), ApiError> {
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = guard.as_mut() else {
            return Err(ApiError::new(Code::Draining, "The daemon stops."));
        };
        while open.try_join_next().is_some() {}
        if open.len() >= self.most {
            let detail = format!("{} connections to browsers are open already; close one.", self.most);
            return Err(ApiError::new(Code::NotReady, detail));
        }
        open.spawn(tunnel);
        Ok(())
    }

    /// Ends all of them and takes no more.
    pub async fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut open) = open {
            open.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tunnels_are_bounded_and_end_with_the_server() {
        let tunnels = Tunnels::new(3);
        for _ in 0..3 {
            tunnels.add(std::future::pending()).unwrap();
        }
        assert_eq!(tunnels.add(std::future::pending()).unwrap_err().code(), Code::NotReady);
        tunnels.close().await;
        assert_eq!(tunnels.add(std::future::pending()).unwrap_err().code(), Code::Draining);
    }
}
