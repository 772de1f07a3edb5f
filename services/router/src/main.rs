//! The `router` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    mar_runtime::main(mar_router::start)
}
