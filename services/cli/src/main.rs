//! `mar`, the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    mar_cli::main(std::env::args_os())
}
