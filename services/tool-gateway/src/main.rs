//! The `tool-gateway` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    mar_runtime::main(mar_tool_gateway::start)
}
