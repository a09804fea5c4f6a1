//! The commands that ask a running daemon, as a person types them, and what their help says.
//!
//! Only words: `online` carries them out. Invariants: every command and every flag is explained, and none
//! has the name of a flag of all commands (`--url`, `--socket`, ...), which clap would fill from the same word.

use std::path::PathBuf;

use clap::Subcommand;

use super::submit::RunArgs;

#[derive(clap::Args)]
pub struct Listing {
    /// Rows at most
    #[arg(long, default_value_t = 50)]
    pub(super) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args)]
pub struct OneTask {
    /// As `list` shows it
    pub(super) id: String,
    /// Print the task as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub enum TasksCommand {
    /// Newest first
    List {
        /// In this state: queued, running, succeeded, `partially_succeeded`, failed, canceled,
        /// `needs_attention`
        #[arg(long)]
        state: Option<String>,
        /// Of this flow
        #[arg(long)]
        flow: Option<String>,
        /// Of this profile, by its id or its name
        #[arg(long)]
        profile: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// A task with its items and its log
    Show {
        /// As `list` shows it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow a task to its end; the exit code says how it ended
    Watch {
        /// As `list` shows it
        id: String,
    },
    /// Cancel what has not passed its commit point
    Cancel(OneTask),
    /// Start nothing more of a task until it is resumed; what runs goes on
    Pause(OneTask),
    /// Go on with a paused task
    Resume(OneTask),
    /// Queue the failed items again; those that may have published are named and left alone
    Retry {
        /// As `list` shows it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum ItemsCommand {
    /// Newest first
    List {
        /// In this state: queued, running, `retry_wait`, held, `outcome_unknown`, succeeded, failed, canceled
        #[arg(long)]
        state: Option<String>,
        /// Of this task
        #[arg(long, value_name = "ID")]
        task: Option<String>,
        /// Of this profile, by its id or its name
        #[arg(long)]
        profile: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// One item with its evidence
    Show {
        /// As `list` shows it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what became of an item whose outcome is unknown (look at its pictures and at the site first)
    #[command(after_help = RESOLVE_HELP)]
    Resolve {
        /// As `list` shows it
        id: String,
        /// What became of it
        outcome: Outcome,
        /// Where the published thing can be seen
        #[arg(long, value_name = "URL")]
        published_url: Option<String>,
        /// Kept in the task's log
        #[arg(long)]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const RESOLVE_HELP: &str = "published      it is out there: the item succeeded\n\
    not-published  it is not: the item is queued again\n\
    give-up        nobody knows: the item failed, and its key stays taken";

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Outcome {
    Published,
    #[value(alias = "not_published")]
    NotPublished,
    #[value(alias = "give_up")]
    GiveUp,
}

impl Outcome {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::NotPublished => "not_published",
            Self::GiveUp => "give_up",
        }
    }
}

#[derive(Subcommand)]
pub enum ProfilesCommand {
    /// Profiles and what they are doing
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a profile
    Add {
        /// Its name; its id is made of it
        name: String,
        /// Print the profile as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a profile for signing in: its window, or a DevTools link where there is no display
    Open {
        /// Its id or its name
        name: String,
        /// No window, also where there is a display
        #[arg(long)]
        headless: bool,
    },
    /// Close a profile that was opened
    Close {
        /// Its id or its name
        name: String,
    },
    /// Say that a person did what the site asked for: what waits in the profile goes on, also where it rests
    Unpark {
        /// Its id or its name
        name: String,
        /// Print the profile as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum LocksCommand {
    /// Who holds what, and until when
    List {
        /// Of this kind, for example `profile`
        #[arg(long)]
        kind: Option<String>,
        /// This one of that kind, for example a profile by its name: who holds it
        #[arg(long, requires = "kind")]
        key: Option<String>,
        /// As the list shows it, for example `worker w1`
        #[arg(long)]
        owner: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Remove what is expired
    Cleanup {
        /// Of this owner alone, as `locks list` shows it
        #[arg(long)]
        owner: Option<String>,
        /// Show what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Also what that owner still holds; cove's own and workers' locks are not taken away, their holders
        /// are asked to stop
        #[arg(long, requires = "owner")]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum SessionsCommand {
    /// Who drives which profile, and until when
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a session: its browser is stopped, then its profile is free
    Close {
        /// As `list` shows it
        id: String,
    },
}

#[derive(Subcommand)]
pub enum FlowsCommand {
    /// Store a recording under a name
    Add {
        /// The flow's name
        name: String,
        /// The recording
        file: PathBuf,
        /// Print name, hash and warnings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Every problem of a recording at once (needs no daemon)
    Check {
        /// The recording
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The flows that are stored
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Rehearse: every step before the commit point, nothing is published
    Run {
        #[command(flatten)]
        args: RunArgs,
        /// Go on through the commit point: an ordinary item, like `cove run`
        #[arg(long)]
        publish: bool,
    },
    /// Print the recording
    Show {
        /// The flow's name
        name: String,
        /// Print JSON, which a recording is in any case
        #[arg(long)]
        json: bool,
    },
    /// Forget a flow that no unfinished task uses
    Delete {
        /// The flow's name
        name: String,
    },
}
