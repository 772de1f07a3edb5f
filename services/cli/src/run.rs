//! `mar run`: a task and its way to the answer.

use mar_proto::session::{Session, StartSessionRequest};
use mar_runtime::clock::{Ids as _, SystemIds};
use serde_json::Value;

use crate::args::RunArgs;
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::progress::Progress;
use crate::report;

pub mod follow;
pub mod task;

use follow::{Follow, Source};

/// `mar run`.
///
/// # Errors
/// The arguments are wrong, nothing answers, or the request is refused. A run that ends without an answer is no error.
pub async fn run(args: RunArgs, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let task = task::task(&args)?;
    let session = match &args.session {
        Some(session) => task::resource("sessions/", session),
        None => start_session(&endpoint).await?,
    };
    let progress = Progress::new(out, args.json);
    let source = Source::Task { request_id: new_id(), session: session.clone(), task: Box::new(task) };
    let followed = Follow::new(&endpoint, progress, source)?.to_end().await?;
    if args.json {
        out.json(&followed.json());
    } else {
        out.lines(report::lines(&followed.run, out.result));
        if args.session.is_none() && out.live && !endpoint.is_named() {
            let id = session.trim_start_matches("sessions/");
            out.note(out.remark.dim(&format!("Go on with: mar run --session {id} \"…\"")));
        }
    }
    Ok(report::exit(&followed.run))
}

async fn start_session(endpoint: &Endpoint) -> Result<String, Failure> {
    let request = StartSessionRequest { request_id: new_id(), session: Some(Session::default()) };
    let answer = endpoint.sessions()?.start_session(endpoint.request(request)).await;
    let session = answer.map_err(|status| endpoint.failure(status))?.into_inner().session.unwrap_or_default();
    Ok(session.name)
}

/// A request id that nobody has used.
pub(crate) fn new_id() -> String {
    SystemIds.uuid_v7().to_string()
}

impl follow::Followed {
    /// The run with its events.
    pub fn json(&self) -> Value {
        let mut value = report::json(&self.run);
        if let Value::Object(fields) = &mut value {
            fields.insert("events".into(), self.events.iter().map(report::event_json).collect());
            fields.insert("exit_code".into(), report::exit(&self.run).code().into());
        }
        value
    }
}
