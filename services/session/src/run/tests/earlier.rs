//! What a run sees of its session's earlier runs.

use mar_proto::session::{EventContent, History, event_leaf::Body};
use mar_proto::types::{Part, Role};

use super::fixture::*;
use crate::run::{Event, State};

#[test]
fn earlier_runs_are_seen_before_the_task_and_what_tainted_them_taints() {
    let said = |role, words: &str, tainted| message(role, [Part { tainted, ..text(words) }]);
    let seen = |tainted| {
        let mut first = admitted(roomy());
        let messages = vec![said(Role::User, "who?", false), said(Role::Assistant, "Ada", tainted)];
        first.content.history = Some(History { messages, ..History::default() });
        let mut state = State::admitted(RUN, SESSION, &first).expect("a first event");
        let alone = State::admitted(RUN, SESSION, &admitted(roomy())).expect("a first event");
        let content = EventContent { agent: Some(agent(Form::Prose)), ..EventContent::default() };
        let sealed = Event {
            time: START,
            body: Body::AgentSealed(Default::default()),
            content,
            counted_seq: None,
            command: None,
        };
        state.apply(&sealed);
        let mut without = alone;
        without.apply(&sealed);
        assert!(state.prompt_bound() > without.prompt_bound(), "it is paid for");
        state
    };
    let state = seen(false);
    let roles: Vec<Role> = state.transcript.iter().map(|message| message.role()).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
    assert!(format!("{:?}", state.transcript[3]).contains("what is it?"), "the task comes last");
    assert!(!state.tainted);
    assert!(seen(true).tainted);
}
