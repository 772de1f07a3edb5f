//! Ctrl-C: once cancels, twice leaves.

use mar_testkit::process::{Process, Signal};
use mar_testkit::wait;

use crate::harness::{PATIENCE, Up};

const HANGS: &str = "[[rule]]\nreply = { hang = true }";

#[tokio::test]
async fn the_first_cancels_the_run() {
    let up = Up::scripted(HANGS).await;
    let mut child = Process::spawn("mar run", up.mar(&["run", "hello"])).unwrap();
    child.wait_for_line("sealed", PATIENCE).await.unwrap();
    wait::until(PATIENCE, || async { up.rehearsal.in_flight() == 1 }).await.unwrap();
    child.signal(Signal::Int).unwrap();
    child.wait_for_line("cancelling the run", PATIENCE).await.unwrap();
    child.wait_for_line("CANCELLED", PATIENCE).await.unwrap();
    assert_eq!(child.wait(PATIENCE).await.unwrap().code(), Some(4), "{:?}", child.log());
    wait::until(PATIENCE, || async { up.rehearsal.in_flight() == 0 }).await.unwrap();
}

#[tokio::test]
async fn the_second_leaves_at_once() {
    let up = Up::scripted(HANGS).await;
    let mut child = Process::spawn("mar run", up.mar(&["run", "hello"])).unwrap();
    child.wait_for_line("sealed", PATIENCE).await.unwrap();
    // A runtime that says nothing any more.
    up.process.signal(Signal::Stop).unwrap();
    child.signal(Signal::Int).unwrap();
    child.wait_for_line("cancelling the run", PATIENCE).await.unwrap();
    child.signal(Signal::Int).unwrap();
    child.wait_for_line("mar runs watch sessions/", PATIENCE).await.unwrap();
    let status = child.wait(PATIENCE).await.unwrap();
    up.process.signal(Signal::Cont).unwrap();
    assert_eq!(status.code(), Some(130), "{:?}", child.log());
}

#[tokio::test]
async fn leaving_the_stream_does_not_stop_the_run() {
    let script = "[[rule]]\nreply = { agent = true, delay = '700ms' }";
    let up = Up::scripted(script).await;
    let mut child = Process::spawn("mar run", up.mar(&["run", "hello"])).unwrap();
    let line = child.wait_for_line("admitted", PATIENCE).await.unwrap();
    child.kill().await.unwrap();
    let name = line.split_whitespace().last().unwrap();
    let watched = up.say(&["runs", "watch", name]).await;
    assert_eq!(watched.code, 0, "{watched:?}");
}
