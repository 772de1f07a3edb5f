//! What `--help` says below the options, apart so that the types stay readable.

use crate::exit;

pub(super) const TOP: &str = "\
Examples:
  mar up --docs ./docs                         start everything in one process
  mar run \"What is a halting policy?\" --tools 'docs.*'
  mar run - --schema answer.json --json < task.txt | jq .answer.json
  mar runs list

`mar COMMAND --help` has examples and exit codes of each command.";

pub(super) const UP: &str = "\
Examples:
  mar up                                       SQLite and counters in process, under ~/.local/share/mar
  mar up --docs ./docs                         with full text search over a folder
  mar up --model-url http://127.0.0.1:8000/v1  with the models of an OpenAI-compatible server
  mar up --rehearse                            without any model: a scripted stand-in answers
  mar up --stores postgres,redis --postgres-url postgres://mar@localhost/mar --redis-url redis://localhost

It stops on Ctrl-C or SIGTERM; runs that are open go on at the next start.";

pub(super) const RUN: &str = "\
Examples:
  mar run \"What is a halting policy?\" --tools 'docs.*'
  mar run \"Extract the invoice\" --schema invoice.json --json
  mar run - --max-steps 4 --max-cost 0.05 < task.txt
  mar run \"What is a seal?\" --recipe answer-with-sources --param language=German

Steps go to standard error, the answer to standard output. Ctrl-C cancels the run; a second one leaves at once.";

pub(super) const RUNS: &str = "\
Examples:
  mar runs list --state failed
  mar runs show 01935c20                       the start of an id is enough
  mar runs watch sessions/01935c1e-…/runs/01935c20-…
  mar runs verify 01935c20                     0: the record is what was written; 1: it is not
  mar runs repeat 01935c20                     0: what the runtime decides is equal; 1: it is not
  mar runs fork 01935c20 --through 7           goes on from there; recorded calls are not made again
  mar runs diff 01935c31 01935c20              what differs between two runs of a session
  mar runs pause 01935c20                      parks it when nothing of it is in flight
  mar runs resume 01935c20
  mar runs submit 01935c20 3/0 --result out.json    the result of a call that the caller makes
  mar runs answer 01935c20 \"The red one.\"    what the agent asked for
  mar runs cancel 01935c20";

pub(super) const APPROVALS: &str = "\
Examples:
  mar approvals list                           what waits for a decision
  mar approvals show 01935c20/3-0              the exact call; the start of the run's id is enough
  mar approvals approve 01935c20/3-0 --comment 'as agreed'
  mar approvals deny 01935c20/3-0 --yes        without asking, as scripts need it
  mar approvals list --json | jq -r '.approvals[].name'";

pub(super) const SESSIONS: &str = "\
Examples:
  mar sessions list --state open
  mar sessions show 01935c1e-…
  mar sessions end 01935c1e-…                  cancels its runs and seals it
  mar sessions erase 01935c1e-… --yes          destroys its payloads, salts and keys for good
  mar sessions erase 01935c1e-… --end --yes    ends it first";

pub(super) const BLOBS: &str = "\
Examples:
  mar blobs put report.pdf --session 01935c1e-…     tells the name that a task may use
  mar blobs put notes --type text/plain --session 01935c1e-… --json | jq -r .name
  mar blobs get sessions/01935c1e-…/blobs/9f86d0… --output report.pdf";

pub(super) const HOOKS: &str = "\
Examples:
  mar hooks dead                               what no hook took, and why
  mar hooks dead --hook audit --json | jq -r '.notices[].name'
  mar hooks retry hooks/audit/notices/01935c20-….17";

pub(super) const MODELS: &str = "\
Examples:
  mar models list
  mar models list --json | jq '.models[].name'";

pub(super) const TOOLS: &str = "\
Examples:
  mar tools list
  mar tools list 'docs.*' --json";

pub(super) const RENDER: &str = "\
Examples:
  mar render \"What is a halting policy?\"       the prompt that an agent would get, without running anything
  mar render \"What is a seal?\" --param language=German --json";

pub(super) const REHEARSE: &str = "\
Examples:
  mar rehearse                                 plays a plain agent that searches once and answers
  mar rehearse docs/examples/rehearsal.toml --listen 127.0.0.1:9000

It is not a model. `mar up` finds it on its default address; name it with `mar run --model rehearsal`.";

pub(super) const KEYS: &str = "\
Examples:
  mar keys new ./keys                          session.pem, generator.pem and their .pub.pem files
  mar keys api --id ci --tenant acme --principal ci --environment prod --scope '*'";

pub(super) const CERTS: &str = "\
Examples:
  mar certs dev ./tls                          ca.pem, tls.pem and tls.key, and what to configure
  mar certs dev ./tls --host agents.example    for another name, too";

pub(super) fn run_long_help() -> String {
    format!("{}\n\n{}", RUN, exit::HELP)
}

pub(super) fn decide_long_help() -> String {
    format!(
        "{}\n\nThe call is shown first, and the decision holds for exactly that call. It is never the requester's own: \
         APPROVAL_NOT_ALLOWED ends with 77. An approval that is not open any more, or was decided by this caller already, \
         is APPROVAL_STATE and ends with 64.\n\n{}",
        APPROVALS,
        exit::HELP
    )
}

pub(super) fn erase_long_help() -> String {
    format!(
        "{}\n\nIt needs the scope sessions.erase. An open session is SESSION_OPEN, one of a tenant under legal hold LEGAL_HOLD; \
         both end with 64 and destroy nothing. Hashes, chains, seals and signatures stay, and `mar runs verify` says that \
         the payloads were erased.\n\n{}",
        SESSIONS,
        exit::HELP
    )
}

pub(super) fn verify_long_help() -> String {
    format!("{}\n\nEvery fault is listed with its place.\n\n{}", RUNS, exit::HELP)
}
