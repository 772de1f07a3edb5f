//! `mar runs pause` and `mar runs resume`.

use mar_proto::session::{PauseRunRequest, ResumeRunRequest, Run};

use super::full_name;
use crate::args::RunArg;
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::Out;
use crate::{report, waiting};

pub(super) async fn pause(args: &RunArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let name = full_name(&endpoint, &args.run).await?;
    let request = endpoint.request(PauseRunRequest { request_id: String::new(), name });
    let answer = endpoint.sessions()?.pause_run(request).await.map_err(|status| endpoint.failure(status))?;
    print(&answer.into_inner().run.unwrap_or_default(), args.json, out);
    Ok(Exit::Done)
}

pub(super) async fn resume(args: &RunArg, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(&args.endpoint)?;
    let name = full_name(&endpoint, &args.run).await?;
    let request = endpoint.request(ResumeRunRequest { request_id: String::new(), name });
    let answer = endpoint.sessions()?.resume_run(request).await.map_err(|status| endpoint.failure(status))?;
    print(&answer.into_inner().run.unwrap_or_default(), args.json, out);
    Ok(Exit::Done)
}

fn print(run: &Run, as_json: bool, out: Out) {
    if as_json {
        out.json(&report::json(run));
        return;
    }
    out.line(format!("{}  {}", waiting::state_text(run), run.name));
    for hint in waiting::hints(run, out.remark) {
        out.note(hint);
    }
}
