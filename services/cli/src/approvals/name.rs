//! How approvals are named on the command line.

use crate::failure::Failure;
use crate::out::one_line;

/// The run as it is given, which may be the start of its id, and the approval's id.
///
/// # Errors
/// It names no run or no approval.
pub(super) fn parse(given: &str) -> Result<(&str, &str), Failure> {
    let split = match given.split_once("/approvals/") {
        Some(split) => Some(split),
        None => given.rsplit_once('/').filter(|(_, id)| is_id(id)),
    };
    let named = split.filter(|(run, id)| !run.is_empty() && !id.is_empty() && !id.contains('/'));
    named.ok_or_else(|| {
        Failure::usage(format!("{} names no approval", one_line(given, 200)))
            .hint("Such as sessions/…/runs/…/approvals/3-0, or 01935c20/3-0; `mar approvals list` shows them.")
    })
}

/// `{step}-{index}`, which no run's id looks like.
fn is_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-').is_some_and(|(step, index)| digits(step) && digits(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_names_a_run_and_an_id() {
        for (given, run) in [
            ("sessions/s/runs/r/approvals/3-0", "sessions/s/runs/r"),
            ("s/r/approvals/3-0", "s/r"),
            ("01935c20/approvals/3-0", "01935c20"),
            ("01935c20/3-0", "01935c20"),
            ("s/r/3-0", "s/r"),
        ] {
            assert_eq!(parse(given).unwrap(), (run, "3-0"), "{given}");
        }
        for given in ["3-0", "", "/3-0", "01935c20", "s/01935c1e-0000-7000-8000-000000000000", "r/approvals/", "r/3-"] {
            assert_eq!(parse(given).unwrap_err().exit(), crate::exit::Exit::Usage, "{given}");
        }
    }
}
