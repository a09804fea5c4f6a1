//! The `cove` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cove::cli::main().into()
}
