//! X3: the daemon is killed while many browsers run, again and again.
//!
//! Ten seconds later none of the processes that descended from it is left, though nobody started it again; after that
//! it is started, and the judge brings every item to its end. `FLEET=n` browsers, `ROUNDS=n` times.

use std::time::{Duration, Instant};

use serde_json::json;

use super::judge::judge;
use super::kills::{all_end, descendants, main_process};
use super::rig::{Daemon, PATIENCE, PracticeSite};
use super::rounds::{flow, submit_one};
use super::{number, seed};

/// From the moment when all browsers run; beyond the length of an attempt.
const WITHIN_MS: u64 = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_under_many_browsers_leaves_no_process_and_publishes_nothing_twice() {
    let (seed, rounds, size) = (seed("fleet"), number("ROUNDS", 3), number("FLEET", 3));
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut daemon = Daemon::start_with(&format!("slots = {size}")).await;
    let practice = PracticeSite::start(json!({})).await;
    let profiles: Vec<String> = (0..size).map(|n| format!("p{n}")).collect();
    daemon.furnish(&profiles.iter().map(String::as_str).collect::<Vec<_>>()).await;
    daemon.put_flow("atelier", &flow()).await;
    let mut most = 0;
    for round in 0..rounds {
        let mut items = Vec::new();
        for profile in &profiles {
            items.push(submit_one(&daemon, &practice, profile, &format!("round {round}")).await);
        }
        let began = Instant::now();
        let running = || profiles.iter().filter(|profile| main_process(&daemon, profile).is_some()).count();
        // The first may have ended before the last has started.
        while running() + practice.posts().len() < items.len() * (usize::try_from(round).unwrap() + 1) {
            assert!(began.elapsed() < PATIENCE, "{} run\n{}", running(), daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.u64(..WITHIN_MS))).await;
        let under_it: Vec<_> = descendants(daemon.pid()).into_iter().map(|one| one.identity).collect();
        let browsers = running();
        most = most.max(browsers);
        daemon.kill();
        all_end(&under_it, &format!("round {round}")).await;
        let left = daemon.browsers();
        assert!(left.is_empty(), "round {round}: browsers nobody knew of: {left:?}");
        daemon.boot().await;
        let mut ways = Vec::new();
        for item in &items {
            ways.push(judge(&daemon, &practice, item).await);
        }
        println!("round {round}: {browsers} browsers, {} processes -> {ways:?}", under_it.len());
        assert_eq!(practice.posts().len(), items.len() * (usize::try_from(round).unwrap() + 1));
    }
    println!(
        "fleet: SEED={seed}, {rounds} kills under {size} profiles, at most {most} browsers ran at one, {} posts",
        practice.posts().len()
    );
    assert!(most > 0, "no browser ran at any kill");
}
