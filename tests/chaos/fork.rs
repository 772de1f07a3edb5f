//! Runs that are forked when they have ended.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mar_proto::session::{Concurrency, ForkRunRequest};
use mar_tests::caller::Seen;
use mar_tests::client::request_id;

use crate::story::{Kind, Teller, Told, comes_back};

impl Teller {
    /// Asks replicas for a fork of a run until one has said which it is, then once more, and follows it to its end.
    pub async fn fork(&mut self, name: &str) -> anyhow::Result<Seen> {
        let request = ForkRunRequest {
            request_id: request_id(),
            name: name.to_owned(),
            concurrency: Concurrency::Parallel.into(),
            ..ForkRunRequest::default()
        };
        let fork = self.forked(&request).await?;
        let again = self.forked(&request).await?;
        ensure!(fork == again, "one request forked {fork} and {again}");
        let seen = Seen { name: fork, ..Seen::default() };
        let mut told = Told { kind: Kind::Medley, seen, tries: 0, uploaded: false, fork: None };
        self.follow(None, &mut told).await.with_context(|| format!("a fork of {name}"))?;
        Ok(told.seen)
    }

    async fn forked(&mut self, request: &ForkRunRequest) -> anyhow::Result<String> {
        loop {
            let mut client = self.client().await;
            let asking = tokio::time::timeout(Duration::from_secs(3), client.grpc.fork_run(request.clone()));
            match asking.await {
                Ok(Ok(answer)) => return Ok(answer.into_inner().run.context("no fork")?.name),
                Ok(Err(status)) => comes_back(&status)?,
                Err(_) => {}
            }
        }
    }
}
