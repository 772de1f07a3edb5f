//! Own servers and child processes: they start, get lost, come back, and never outlive their owner.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use mar_testkit::postgres::Postgres;
use mar_testkit::process::{Process, Signal};
use mar_testkit::redis::Redis;
use mar_testkit::{ports, wait};
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(20);

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn postgres_keeps_its_data_over_a_stop_and_a_crash() {
    let postgres = Postgres::start().unwrap();
    postgres.execute("create table t (n int)").unwrap();
    postgres.execute("insert into t values (7)").unwrap();
    postgres.resume().unwrap();
    postgres.stop();
    assert!(!listens(postgres.port()));
    assert!(postgres.execute("select 1").is_err());
    postgres.resume().unwrap();
    assert_eq!(postgres.execute("select n from t").unwrap(), "7");
    postgres.crash().unwrap();
    assert!(!listens(postgres.port()));
    postgres.resume().unwrap();
    assert_eq!(postgres.execute("select n from t").unwrap(), "7");
    assert_eq!(postgres.execute("show fsync").unwrap(), "off");
    let port = postgres.port();
    drop(postgres);
    assert!(!listens(port));
}

#[test]
fn postgres_takes_settings_and_durability() {
    let postgres = Postgres::builder().durable().setting("max_connections", "17").start().unwrap();
    assert_eq!(postgres.execute("show fsync").unwrap(), "on");
    assert_eq!(postgres.execute("show max_connections").unwrap(), "17");
    let refused = Postgres::builder().setting("no_such_setting", "1").start().unwrap_err();
    assert!(format!("{refused:#}").contains("no_such_setting"), "{refused:#}");
}

#[test]
fn databases_of_a_shared_postgres_differ() {
    let shared = Postgres::shared().unwrap();
    let (one, two) = (shared.database().unwrap(), shared.database().unwrap());
    assert_ne!(*one, *two);
    assert!(one.starts_with("postgres://postgres@127.0.0.1:"));
    let all = || shared.execute("select '/' || datname from pg_database").unwrap();
    let name = one.rsplit_once('/').unwrap().1.to_owned();
    assert!(all().contains(&name));
    drop(one);
    assert!(!all().contains(&name), "a database goes with whoever had it");
    assert_eq!(Postgres::shared().unwrap().port(), shared.port());
}

#[test]
fn redis_starts_empty_again() {
    let redis = Redis::start().unwrap();
    assert_eq!(redis.command("SET a 1").unwrap(), "+OK");
    assert_eq!(redis.command("DBSIZE").unwrap(), ":1");
    redis.flush().unwrap();
    assert_eq!(redis.command("DBSIZE").unwrap(), ":0");
    assert_eq!(redis.command("SET a 1").unwrap(), "+OK");
    redis.restart().unwrap();
    assert_eq!(redis.command("DBSIZE").unwrap(), ":0");
    redis.stop();
    assert!(redis.flush().is_err());
    redis.resume().unwrap();
    assert_ne!(redis.database().unwrap(), redis.database().unwrap());
    let port = redis.port();
    drop(redis);
    assert!(!listens(port));
}

/// Not a test of its own: the owner that `servers_do_not_outlive_a_killed_owner` kills.
#[tokio::test]
#[ignore = "runs as the child of another test"]
async fn owner() {
    let (postgres, redis) = (Postgres::shared().unwrap(), Redis::shared().unwrap());
    println!("\nowns {} {}", postgres.port(), redis.port());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn servers_do_not_outlive_a_killed_owner() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "servers::owner", "--ignored", "--nocapture"]);
    let home = tempfile::tempdir().unwrap();
    // The user postgres has to get at its own directory inside.
    command.env("TMPDIR", home.path());
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let mut owner = Process::spawn("owner", command).unwrap();
    let line = owner.wait_for_line("owns ", WITHIN).await.unwrap();
    let ports: Vec<u16> = line.split(' ').skip(1).map(|port| port.parse().unwrap()).collect();
    assert_eq!(ports.len(), 2);
    assert!(ports.iter().all(|port| listens(*port)));
    owner.kill().await.unwrap();
    wait::until(WITHIN, || async { !ports.iter().any(|port| listens(*port)) }).await.unwrap();
    let empty = |path: &Path| std::fs::read_dir(path).unwrap().next().is_none();
    wait::until(WITHIN, || async { empty(home.path()) }).await.unwrap();
}

#[tokio::test]
async fn a_child_is_watched_and_signalled() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two >&2; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done"]);
    let mut child = Process::spawn("child", command).unwrap();
    assert_eq!(child.wait_for_line("tw", WITHIN).await.unwrap(), "two");
    assert_eq!(child.wait_for_line("one", WITHIN).await.unwrap(), "one");
    let late = child.wait_for_line("three", Duration::from_millis(100)).await.unwrap_err();
    assert!(late.to_string().contains("has not said `three`"), "{late}");
    child.signal(Signal::Term).unwrap();
    assert_eq!(child.wait(WITHIN).await.unwrap().code(), Some(3));
    child.wait_for_line("bye", WITHIN).await.unwrap();
    let ended = child.wait_for_line("three", WITHIN).await.unwrap_err();
    assert!(ended.to_string().contains("ended its output"), "{ended}");
    assert!(child.signal(Signal::Kill).is_err());
}

#[tokio::test]
async fn a_childs_port_is_waited_for() {
    let port = ports::free().unwrap();
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]);
    let mut child = Process::spawn("server", command).unwrap();
    let address = ([127, 0, 0, 1], port).into();
    child.wait_for_port(address, WITHIN).await.unwrap();
    drop(child);
    wait::until(WITHIN, || async { !listens(port) }).await.unwrap();
    let mut child = Process::spawn("false", Command::new("false")).unwrap();
    let failed = child.wait_for_port(address, WITHIN).await.unwrap_err();
    assert!(failed.to_string().contains("ended with"), "{failed}");
    assert!(Process::spawn("nothing", Command::new("/no/such/program")).is_err());
}
