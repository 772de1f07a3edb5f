//! What the store keeps of budgets.

use mar_session::counters::budget::Spend;
use mar_session::store::{BudgetKey, SliceRow};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::rows::{Subject, TENANT, id};

fn window(name: &str, day: i64) -> BudgetKey {
    BudgetKey { budget: name.into(), day }
}

fn spend(cost_nano_usd: i64) -> Spend {
    Spend { cost_nano_usd, runs: 1 }
}

fn slice(key: &BudgetKey, run: Uuid, cost: i64) -> SliceRow {
    SliceRow { id: id(), key: key.clone(), run, granted: spend(cost) }
}

pub async fn a_window_has_generations(subject: Subject) {
    let (store, key) = (&subject.store, window("tenant:acme", 7));
    assert_eq!(store.budget_generation(TENANT, &key).await.unwrap(), 0);
    assert_eq!(store.budget_raise(TENANT, &key, 0).await.unwrap().unwrap().generation, 1);
    // Somebody was faster.
    assert_eq!(store.budget_raise(TENANT, &key, 0).await.unwrap(), None);
    assert_eq!(store.budget_raise(TENANT, &key, 1).await.unwrap().unwrap().generation, 2);
    assert_eq!(store.budget_raise(TENANT, &key, 7).await.unwrap(), None);
    assert_eq!(store.budget_generation(TENANT, &key).await.unwrap(), 2);
    for other in [window("tenant:acme", 8), window("session:acme", 7), window("tenant:acme", -1)] {
        assert_eq!(store.budget_generation(TENANT, &other).await.unwrap(), 0, "{other:?}");
    }
    assert_eq!(store.budget_generation("globex", &key).await.unwrap(), 0);
}

pub async fn slices_are_stored_in_their_generation(subject: Subject) {
    let (store, key, run) = (&subject.store, window("tenant:acme", 7), id());
    let first = slice(&key, run, 100);
    assert!(!store.slice_put(TENANT, &first, 0, [0, 0]).await.unwrap(), "no window has begun");
    store.budget_raise(TENANT, &key, 0).await.unwrap();
    assert!(store.slice_put(TENANT, &first, 1, [50, 0]).await.unwrap());
    assert!(store.slice_put(TENANT, &first, 1, [50, 0]).await.unwrap(), "a repetition");
    assert!(!store.slice_put(TENANT, &slice(&key, run, 1), 2, [0, 0]).await.unwrap());
    let second = slice(&key, run, 30);
    assert!(store.slice_put(TENANT, &second, 1, [0, 80]).await.unwrap());
    assert!(store.slice_put(TENANT, &slice(&window("tenant:acme", 8), run, 5), 0, [0, 0]).await.is_ok_and(|put| !put));
    let mut open = store.slice_list(TENANT, run).await.unwrap();
    open.sort_by_key(|row| -row.granted.cost_nano_usd);
    assert_eq!(open, [first.clone(), second.clone()]);
    assert_eq!(store.slice_list("globex", run).await.unwrap(), []);
    assert_eq!(store.slice_list(TENANT, id()).await.unwrap(), []);

    store.slice_close("globex", first.id, spend(1)).await.unwrap();
    store.slice_close(TENANT, first.id, spend(40)).await.unwrap();
    store.slice_close(TENANT, first.id, spend(99)).await.unwrap();
    assert_eq!(store.slice_list(TENANT, run).await.unwrap(), std::slice::from_ref(&second));
    let ledger = store.budget_raise(TENANT, &key, 1).await.unwrap().unwrap();
    assert_eq!((ledger.generation, ledger.closed), (2, spend(40)), "closed once, at what it used");
    assert_eq!((ledger.open, ledger.reached), (vec![(second.id, second.granted)], [50, 80]));
}

/// Whoever rebuilds a budget sees every slice that was stored in an earlier generation.
pub async fn no_slice_slips_past_a_rebuild(subject: Subject) {
    let (key, run) = (window("session:s", -1), id());
    subject.store.budget_raise(TENANT, &key, 0).await.unwrap();
    let mut puts = JoinSet::new();
    for _ in 0..12 {
        let (store, row) = (subject.store.clone(), slice(&key, run, 1));
        puts.spawn(async move { store.slice_put(TENANT, &row, 1, [50, 50]).await.unwrap() });
    }
    let ledger = subject.store.budget_raise(TENANT, &key, 1).await.unwrap().unwrap();
    let stored = puts.join_all().await.into_iter().filter(|stored| *stored).count();
    assert_eq!(ledger.open.len(), stored, "those that came later were refused");
}
