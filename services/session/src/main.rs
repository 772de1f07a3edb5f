//! The session service as a process.

use std::process::ExitCode;

use mar_session::migrate;
use mar_session::sabotage::Sabotage;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|first| first == migrate::COMMAND) {
        args.remove(1);
        return migrate::main_from(args);
    }
    #[cfg(debug_assertions)]
    let sabotage = match Sabotage::from_args(&mut args) {
        Ok(sabotage) => sabotage,
        Err(line) => {
            use std::io::Write as _;
            // Nowhere to say that it could not be said.
            let _ = writeln!(std::io::stderr(), "session: {line}");
            return ExitCode::from(64);
        }
    };
    #[cfg(not(debug_assertions))]
    let sabotage = Sabotage::default();
    mar_runtime::process::main_from(args, |start| mar_session::start_with(start, sabotage))
}
