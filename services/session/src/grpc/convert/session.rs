//! What a session may be.

use mar_proto::session::Session;
use mar_runtime::violations::Violations;

const MAX_PURPOSE_CHARS: usize = 256;
const NOT_SERVED: &str = "is not served by this version";

/// Records what breaks the rules of `Session`.
pub fn check(session: &Session, found: &mut Violations) {
    let chars = session.purpose.chars().count();
    found.require(chars <= MAX_PURPOSE_CHARS, "purpose", format!("must have at most {MAX_PURPOSE_CHARS} characters"));
    mar_task::check_labels(&session.labels, found);
    // What does not bind yet is refused: a limit that is taken and not kept is worse than none.
    found.require(session.idle_timeout.is_none(), "idle_timeout", NOT_SERVED);
    found.require(session.budget.is_none(), "budget", NOT_SERVED);
}
