//! A stored leaf, read by the rule of its proto.

use mar_proto::session::{Event, EventLeaf, event_leaf::Body};
use mar_session::log;
use mar_session::run::idempotency_key;

/// What the stored bytes of an event say, with what their place and the payloads beside them say.
pub fn shown(event: &Event) -> anyhow::Result<EventLeaf> {
    let run = event.run.rsplit('/').next().unwrap_or_default().parse()?;
    let mut leaf = log::leaf(run, event.leaf.clone())?;
    if let Some(Body::ToolIntent(intent)) = &mut leaf.body {
        anyhow::ensure!(intent.idempotency_key.is_empty(), "the leaf {} holds a hash of arguments", event.seq);
        // It is told as long as the arguments are there.
        if let Some(content) = &event.content {
            intent.idempotency_key = idempotency_key(run, &intent.call_id, &content.arguments_json);
        }
    }
    let failure = match &mut leaf.body {
        Some(Body::RunEnded(ended)) => ended.failure.as_mut(),
        Some(Body::ChildEnded(ended)) => ended.failure.as_mut(),
        _ => None,
    };
    if let Some(failure) = failure {
        anyhow::ensure!(failure.message.is_empty(), "the leaf {} holds the words of a failure", event.seq);
        if let Some(content) = &event.content {
            failure.message.clone_from(&content.failure_message);
        }
    }
    Ok(leaf)
}
