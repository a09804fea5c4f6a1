//! `cove man` and `cove completions`: what packages install beside the binary, made from the tree of commands.
//!
//! Needs no daemon. Invariant: the same binary gives the same bytes, so that packages can be built twice.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, exit, print};

#[derive(clap::Args)]
pub struct ManArgs {
    /// Write one page for each command into this folder instead of printing that of `cove`
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = clap::value_parser!(Shell))]
    shell: Shell,
}

pub fn man(args: &ManArgs) -> anyhow::Result<u8> {
    match &args.dir {
        Some(folder) => pages(folder).with_context(|| folder.display().to_string())?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(String::from_utf8_lossy(&page).trim_end());
        }
    }
    Ok(exit::OK)
}

fn pages(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}

pub fn completions(args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cove", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    exit::OK
}
