//! A power cut on a real file system: ext4 on a loop device is shut down under the daemon's load without
//! flushing its journal, the daemon is killed, the journal replayed. What had its answer is there.
//!
//! `POWERCUTS=n` of them, `SEED=` says when. Where mounts are not permitted, that is said and nothing is tried.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use super::client::{Memory, PROFILES};
use super::kill::{ask_again_and_compare, check_indexes, load_and_kill, prepared, settled};
use super::{number, seed};

const CUTS_OF_ONE_STATE: u64 = 10;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, on the folder of the mount.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// An ext4 in a file, mounted or not.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
}

impl Disk {
    fn make(folder: &Path, at: &Path) -> Result<Self, String> {
        let image = folder.join("disk.img");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(1024 * 1024 * 1024).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        std::fs::create_dir_all(at).unwrap();
        let mut disk = Self { image, at: at.to_owned(), mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    fn cut_the_power(&self) {
        run("python3", &["-c", SHUTDOWN, self.at.to_str().unwrap()]).unwrap();
    }

    /// A container that was started meanwhile has the mounts of its begin: as long as one has this, the file system is
    /// not unmounted, and mounted again it is the same one, with its power cut.
    async fn until_gone(&self) {
        let began = std::time::Instant::now();
        while !run("losetup", &["-j", self.image.to_str().unwrap()]).unwrap().stdout.is_empty() {
            assert!(began.elapsed() < super::rig::PATIENCE, "another mount namespace holds {}", self.image.display());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn replay(&mut self) {
        run("umount", &[self.at.to_str().unwrap()]).unwrap();
        self.mounted = false;
        self.until_gone().await;
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let unmounted = run("umount", &["-l", self.at.to_str().unwrap()]);
            assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_a_real_file_system_loses_nothing_that_had_its_answer() {
    if let Err(why) = run("python3", &["-c", "import fcntl"]) {
        println!("skipped: {why}");
        return;
    }
    let seed = seed();
    let cuts = number("POWERCUTS", 50);
    let mut dice = fastrand::Rng::with_seed(seed + 40);
    let mut requests = 0;
    let mut done = 0;
    while done < cuts {
        let folder = tempfile::tempdir().unwrap();
        let (mut daemon, _host) = prepared(&folder);
        let mut disk = match Disk::make(folder.path(), &daemon.state()) {
            Ok(disk) => disk,
            Err(why) => {
                println!("skipped: no ext4 on a loop device here: {why}");
                return;
            }
        };
        daemon.boot().await;
        daemon.furnish(&PROFILES).await;
        let memory = Arc::new(Mutex::new(Memory::default()));
        for _ in 0..CUTS_OF_ONE_STATE.min(cuts - done) {
            load_and_kill(&mut daemon, &memory, &mut dice, || disk.cut_the_power()).await;
            disk.replay().await;
            daemon.boot().await;
            settled(&daemon).await;
            ask_again_and_compare(&daemon, &memory).await;
            done += 1;
        }
        requests += memory.lock().unwrap().requests();
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
        check_indexes(&daemon).await;
    }
    println!("{cuts} power cuts of an ext4, {requests} requests, 0 answers lost");
}
