//! Colours and live progress.

use crate::harness::{Up, on_terminal};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_live_progress_in_colour() {
    let script = "[[rule]]\nreply = { agent = true, delay = '400ms', chunk_delay = '20ms', chunk_size = 8 }";
    let up = Up::scripted(script).await;
    let said = on_terminal(&up.url, "run 'How far is the moon?' --tools 'docs.*'", &[]);
    assert_eq!(said.code, 0, "{}", said.out);
    assert!(said.out.contains("\x1b[1m") && said.out.contains("\x1b[36m"), "no colours: {}", said.out);
    // The step, what it does, tokens, cost and the time so far, on the line that is drawn again and again.
    for part in ["asking rehearsal", "step 1", "step 2", "calling docs.search", " tokens", "$0.00", "  0s  "] {
        assert!(said.out.contains(part), "{part:?} is not in {:?}", said.out);
    }
    assert!(said.out.contains("384,400 km"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_can_be_refused_and_demanded() {
    let up = Up::start().await;
    let coloured = |text: &str| text.contains("\x1b[1m") || text.contains("\x1b[36m");
    let plain = on_terminal(&up.url, "models list", &[("NO_COLOR", "1")]);
    assert!(plain.code == 0 && !coloured(&plain.out), "{}", plain.out);
    assert!(coloured(&on_terminal(&up.url, "models list", &[]).out));
    assert!(!coloured(&on_terminal(&up.url, "models list --color never", &[]).out));
    let run = on_terminal(&up.url, "run hello", &[("NO_COLOR", "1")]);
    assert!(run.code == 0 && !coloured(&run.out), "{}", run.out);
    let piped = up.say(&["models", "list", "--color", "always"]).await;
    assert!(coloured(&piped.out), "{piped:?}");
    assert!(!coloured(&up.say(&["models", "list"]).await.out));
}
