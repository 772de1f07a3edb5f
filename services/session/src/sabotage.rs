//! Faults that a test build can be told to have, so that what looks for faults can be seen to find them.
//!
//! `session --sabotage=<fault>` leaves out one of the measures that the service rests on, at the place where it is taken.
//! A release build has none of it: there [`Sabotage::is`] is a constant `false`, and the argument is unknown.

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A writer that is fenced, by the log or by the counters, goes on as if it were not.
    SkipEpoch,
    /// Nothing is reserved before a provider or a tool is called.
    SkipReserve,
    /// The intents of tool calls are not written.
    SkipIntent,
    /// Admissions are answered, and events shown, before they are durable.
    AckBeforeCommit,
    /// Counters are believed whatever they saw last.
    StaleCounter,
    /// Followers are not sent every event.
    DropEvent,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SkipEpoch,
        Self::SkipReserve,
        Self::SkipIntent,
        Self::AckBeforeCommit,
        Self::StaleCounter,
        Self::DropEvent,
    ];

    /// As the argument has it.
    #[cfg(debug_assertions)]
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipEpoch => "skip-epoch",
            Self::SkipReserve => "skip-reserve",
            Self::SkipIntent => "skip-intent",
            Self::AckBeforeCommit => "ack-before-commit",
            Self::StaleCounter => "stale-counter",
            Self::DropEvent => "drop-event",
        }
    }
}

/// The fault that this service has, if any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sabotage {
    #[cfg(debug_assertions)]
    fault: Option<Fault>,
}

impl Sabotage {
    /// How long what was acknowledged too early takes to become durable.
    #[cfg(debug_assertions)]
    pub(crate) const LAG: std::time::Duration = std::time::Duration::from_millis(30);

    /// Of this fault.
    #[cfg(debug_assertions)]
    #[must_use]
    pub const fn of(fault: Fault) -> Self {
        Self { fault: Some(fault) }
    }

    /// Whether the service has this fault.
    #[must_use]
    pub const fn is(self, fault: Fault) -> bool {
        #[cfg(debug_assertions)]
        let is = matches!(self.fault, Some(own) if own as u8 == fault as u8);
        #[cfg(not(debug_assertions))]
        let is = {
            let _ = fault;
            false
        };
        is
    }

    /// Takes `--sabotage=<fault>` out of a process's arguments.
    ///
    /// # Errors
    /// A line for who asked for a fault that there is not.
    #[cfg(debug_assertions)]
    pub fn from_args(args: &mut Vec<std::ffi::OsString>) -> Result<Self, String> {
        let value = |arg: &std::ffi::OsString| Some(arg.to_str()?.strip_prefix("--sabotage=")?.to_owned());
        let Some((at, wanted)) = args.iter().enumerate().find_map(|(at, arg)| Some((at, value(arg)?))) else {
            return Ok(Self::default());
        };
        args.remove(at);
        let fault = Fault::ALL.into_iter().find(|fault| fault.name() == wanted);
        fault.map(Self::of).ok_or_else(|| {
            let names = Fault::ALL.map(Fault::name).join("|");
            format!("there is no fault {wanted:?}: --sabotage={names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_taken_out_of_the_arguments() {
        for fault in Fault::ALL {
            let mut args = vec!["session".into(), format!("--sabotage={}", fault.name()).into(), "--set=x".into()];
            let sabotage = Sabotage::from_args(&mut args).unwrap();
            assert_eq!(args, ["session", "--set=x"]);
            assert_eq!(Fault::ALL.map(|other| sabotage.is(other)), Fault::ALL.map(|other| other == fault));
        }
        let mut none = vec!["session".into()];
        assert!(Fault::ALL.iter().all(|fault| !Sabotage::from_args(&mut none).unwrap().is(*fault)));
        assert!(Sabotage::from_args(&mut vec!["--sabotage=nothing".into()]).unwrap_err().contains("skip-epoch|"));
    }
}
