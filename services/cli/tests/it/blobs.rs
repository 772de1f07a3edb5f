//! Files that go into a session and come back.

use crate::harness::Up;

#[tokio::test]
async fn a_file_goes_in_and_comes_back() {
    let up = Up::scripted("[[rule]]\nreply = { text = \"Fine.\" }\n").await;
    let run = up.say(&["run", "Well?", "--type", "chat", "--json"]).await;
    let name = run.json()["run"].as_str().unwrap().to_owned();
    let session = name.split_once("/runs/").unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("notes.md"), folder.path().join("copy.md"));
    let bytes = "# Notes\n".repeat(40_000);
    std::fs::write(&file, &bytes).unwrap();
    let (file, copy) = (file.to_str().unwrap(), copy.to_str().unwrap());

    let put = up.say(&["blobs", "put", file, "--session", session, "--json"]).await;
    assert_eq!((put.code, put.json()["media_type"].as_str()), (0, Some("text/markdown")), "{put:?}");
    let blob = put.json()["name"].as_str().unwrap().to_owned();
    let again = up.say(&["blobs", "put", file, "--session", session.trim_start_matches("sessions/")]).await;
    assert_eq!((again.code, again.out.trim()), (0, blob.as_str()), "{again:?}");
    assert_eq!(up.say(&["blobs", "get", &blob, "--output", copy]).await.code, 0);
    assert_eq!(std::fs::read_to_string(copy).unwrap(), bytes);
    assert_eq!(up.say(&["blobs", "get", &blob]).await.out, bytes);

    let kept = up.say(&["blobs", "get", &blob, "--output", copy]).await;
    assert!(kept.code == 64 && kept.err.contains("cannot be written"), "{kept:?}");
    let missing = up.say(&["blobs", "put", "/nowhere/at/all", "--session", session]).await;
    assert!(missing.code == 64 && missing.err.contains("cannot be read"), "{missing:?}");
    let other = up.say(&["blobs", "put", file, "--session", session, "--type", "text/html"]).await;
    assert!(other.code == 64 && other.err.contains("media_type"), "{other:?}");
}
