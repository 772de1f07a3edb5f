//! The session service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    mar_runtime::process::main(mar_session::start)
}
