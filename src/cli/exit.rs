//! Exit codes: what a script can rely on. They do not change.

/// Done, and everything went well.
pub const OK: u8 = 0;
/// Something failed that no other code names; it was printed.
pub const FAILED: u8 = 1;
/// The command line is wrong (clap's own code).
pub const USAGE: u8 = 2;
/// The daemon cannot be reached.
pub const UNREACHABLE: u8 = 3;
/// The daemon said no.
pub const REFUSED: u8 = 4;
/// `run`, `tasks watch`: at least one item failed.
pub const ITEM_FAILED: u8 = 10;
/// `run`, `tasks watch`: at least one outcome is unknown and waits for a human.
pub const OUTCOME_UNKNOWN: u8 = 11;
/// `run`, `tasks watch`: canceled, and nothing failed.
pub const CANCELED: u8 = 12;
/// `run`, `tasks watch`: an item is held and waits for a human.
pub const NEEDS_HUMAN: u8 = 13;
/// `doctor`: at least one check is an error.
pub const UNSOUND: u8 = 20;
/// `snapshots verify`, `snapshots restore`: the snapshot is damaged, or is none.
pub const DAMAGED: u8 = 21;
/// `snapshots restore`: a daemon holds the state file.
pub const HELD: u8 = 22;
/// The disk failed under the state file (sysexits `EX_IOERR`).
pub const DISK: u8 = 74;
/// The configuration, the state file or a snapshot is wrong, or newer than this cove; a restart does not mend it
/// (sysexits `EX_CONFIG`).
pub const CONFIG: u8 = 78;

/// Shown at the end of `cove --help`.
pub const HELP: &str = "Exit codes:
  0   done
  1   something failed; it was printed
  2   the command line is wrong
  3   the daemon cannot be reached
  4   the daemon said no
  10  run, tasks watch: an item failed
  11  run, tasks watch: an outcome is unknown and waits for a human
  12  run, tasks watch: canceled
  13  run, tasks watch: an item waits for a human
  20  doctor: at least one check is an error
  21  snapshots verify, restore: the snapshot is damaged
  22  snapshots restore: a daemon holds the state file
  74  serve: the disk failed under the state file
  78  the configuration or the state file is wrong";
