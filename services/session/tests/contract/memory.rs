//! Counters in memory.

use std::sync::Arc;

use mar_session::counters::memory::MemoryCounters;

use crate::counter_cases::Subject;

async fn open() -> Option<Subject> {
    Some(Subject { counters: Arc::new(MemoryCounters::new()), _keep: Box::new(()) })
}

counter_suite!(open);
