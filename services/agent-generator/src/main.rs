//! The agent generator as a process.

use std::process::ExitCode;

use mar_agent_generator::migrate;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|first| first == migrate::COMMAND) {
        args.remove(1);
        return migrate::main_from(args);
    }
    mar_runtime::process::main_from(args, mar_agent_generator::start)
}
