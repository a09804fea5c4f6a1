//! Tells the feed what no task's log holds: that the daemon's state changed, and that a breaker moved.
//!
//! Spawned by the daemon; ends with the token. It looks whenever the engine's loop has turned, which every move of
//! a breaker makes it do, and at least every few seconds. A look without news costs one comparison of counts.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::breaker::board::{Board, Moves, Transition};
use crate::engine::EngineHandle;
use crate::model::{Clock, Timestamp};
use crate::store::{Feed, News};

pub struct Announcer {
    feed: Feed,
    engine: EngineHandle,
    breakers: Board,
    clock: Arc<dyn Clock>,
    state: &'static str,
    moves: Vec<Moves>,
    /// The last move of each breaker that was told.
    seen: HashMap<String, Transition>,
}

impl Announcer {
    pub fn new(feed: Feed, engine: EngineHandle, breakers: Board, clock: Arc<dyn Clock>) -> Self {
        let moves = breakers.moves();
        Self { feed, engine, breakers, clock, state: "", moves, seen: HashMap::new() }
    }

    fn look(&mut self) {
        let (now, state) = (self.clock.now(), self.engine.view().state());
        if state != self.state {
            self.state = state;
            self.feed.tell([News::Engine { at: now, state }]);
        }
        let moves = self.breakers.moves();
        if moves != self.moves {
            self.moves = moves;
            self.tell_moves(now);
        }
    }

    /// Of a breaker that moved more often between two looks than it remembers, the last moves.
    fn tell_moves(&mut self, now: Timestamp) {
        let mut told = Vec::new();
        let mut seen = HashMap::new();
        for breaker in self.breakers.view(now) {
            let Some(last) = breaker.transitions.last() else { continue };
            let known = self.seen.get(&breaker.name);
            let known = known.and_then(|known| breaker.transitions.iter().rposition(|moved| moved == known));
            for moved in &breaker.transitions[known.map_or(0, |known| known + 1)..] {
                let (from, to) = (moved.from.name(), moved.to.name());
                let (name, last_error) = (breaker.name.clone(), breaker.last_error.clone());
                told.push(News::Breaker { at: moved.at, name, from, to, last_error });
            }
            seen.insert(breaker.name, *last);
        }
        self.seen = seen;
        self.feed.tell(told);
    }
}

/// Runs until `stop`.
pub async fn run(mut announcer: Announcer, stop: CancellationToken) {
    let mut turned = announcer.engine.changes();
    loop {
        announcer.look();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = turned.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::BreakerLimits;
    use crate::model::SystemClock;

    #[test]
    fn every_move_and_every_state_is_told_once() {
        const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
        let limits = BreakerLimits { failures: 1, open: MINUTE, trials: 1 };
        let (feed, board) = (Feed::new(1), Board::new(limits));
        let begin = feed.end();
        let (engine, _loop) = crate::engine::pair();
        let mut announcer = Announcer::new(feed.clone(), engine, board.clone(), Arc::new(SystemClock));
        let now = SystemClock.now();
        announcer.look();
        board.failed("dolphin", now, "refused");
        announcer.look();
        announcer.look();
        board.admit("dolphin", now.plus(MINUTE)).unwrap();
        board.succeeded("dolphin", now.plus(MINUTE));
        board.failed("cdp_attach", now, "gone");
        announcer.look();
        let told: Vec<_> = feed.after(begin, 100).unwrap().into_iter().map(|(_, news)| news).collect();
        let word = |news: &Arc<News>| match news.as_ref() {
            News::Engine { state, .. } => (*state).to_owned(),
            News::Breaker { name, from, to, .. } => format!("{name} {from} {to}"),
            News::Line { .. } => unreachable!(),
        };
        let mut told: Vec<String> = told.iter().map(word).collect();
        assert_eq!(told.remove(0), "starting");
        told.sort();
        let moves =
            ["cdp_attach closed open", "dolphin closed open", "dolphin half_open closed", "dolphin open half_open"];
        assert_eq!(told, moves);
    }
}
