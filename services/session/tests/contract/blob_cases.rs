//! What callers stream in: whole or not there, one for equal bytes, gone at its time.

use std::time::Duration;

use bytes::Bytes;
use mar_session::store::blobs::PIECE;
use mar_session::store::{
    BlobRow, Finished, Opening, Outcome, RequestKey, SessionRow, UploadRow,
    erasure::{Begun, Extent},
    timer::{Timer, TimerKind},
};
use uuid::Uuid;

use crate::rows::{Behind, Subject, TENANT, id, key, noise, session};

const OTHER: &str = "globex";
const MOST: i64 = 1 << 30;
const LONG: Duration = Duration::from_secs(3_600);

pub fn upload(session: Uuid, digest: u8, size: usize) -> UploadRow {
    UploadRow {
        tenant: TENANT.to_owned(),
        session,
        id: id(),
        sha256: [digest; 32],
        media_type: "text/plain".to_owned(),
        size_bytes: size as i64,
    }
}

fn upload_key() -> RequestKey {
    RequestKey { method: "/agentruntime.session.v1.SessionService/CreateBlob", ..key() }
}

impl Subject {
    async fn pieces(&self) -> (i64, i64) {
        let counts = ["uploads", "upload_pieces"].map(|table| match &self.behind {
            Behind::Postgres(_) => format!("SELECT count(*) FROM session.{table}"),
            Behind::Sqlite(_) => format!("SELECT count(*) FROM {table}"),
        });
        let [uploads, pieces] = counts.map(sqlx::AssertSqlSafe);
        match &self.behind {
            Behind::Postgres(pool) => (
                sqlx::query_scalar(uploads).fetch_one(pool).await.unwrap(),
                sqlx::query_scalar(pieces).fetch_one(pool).await.unwrap(),
            ),
            Behind::Sqlite(pool) => (
                sqlx::query_scalar(uploads).fetch_one(pool).await.unwrap(),
                sqlx::query_scalar(pieces).fetch_one(pool).await.unwrap(),
            ),
        }
    }

    async fn begun(&self, upload: &UploadRow) {
        assert_eq!(self.store.blob_begin(upload, MOST, LONG).await.unwrap(), Opening::Open);
    }

    /// Begins an upload and brings its bytes.
    pub async fn brought(&self, upload: &UploadRow) {
        self.begun(upload).await;
        let bytes = noise(u64::from(upload.sha256[0]), upload.size_bytes as usize);
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            let piece = Bytes::copy_from_slice(piece);
            assert!(self.store.blob_piece(TENANT, upload.id, number as i32, &piece).await.unwrap());
        }
    }

    async fn stored(&self, upload: &UploadRow) -> BlobRow {
        self.brought(upload).await;
        match self.store.blob_finish(&upload_key(), upload, LONG).await.unwrap() {
            Finished::Done(blob) => blob,
            other => panic!("{other:?}"),
        }
    }

    async fn ended_with(&self, upload: &UploadRow, session: SessionRow) -> SessionRow {
        self.stored(upload).await;
        let ended = SessionRow { state: 3, version: session.version + 1, ..session };
        self.store.session_change(None, &ended).await.unwrap().unwrap();
        ended
    }
}

pub async fn an_upload_is_whole_or_not_there(subject: Subject) {
    let session = subject.started().await;
    let size = 2 * PIECE + 7;
    let upload = upload(session.id, 1, size);
    subject.brought(&upload).await;
    assert_eq!(subject.store.blob_get(TENANT, session.id, &upload.sha256).await.unwrap(), None);
    assert_eq!(subject.store.blob_keep(TENANT, session.id, &[upload.sha256]).await.unwrap(), []);
    let Finished::Done(blob) = subject.store.blob_finish(&upload_key(), &upload, LONG).await.unwrap() else {
        panic!("it is not whole")
    };
    let known = (blob.id, blob.sha256, blob.media_type.as_str(), blob.size_bytes);
    assert_eq!(known, (upload.id, [1; 32], "text/plain", size as i64));
    assert_eq!(subject.store.blob_get(TENANT, session.id, &upload.sha256).await.unwrap(), Some(blob.clone()));
    let mut bytes = Vec::new();
    for number in 0.. {
        let Some(piece) = subject.store.blob_read(TENANT, blob.id, number).await.unwrap() else { break };
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes, noise(1, size));
    // It changes no more.
    let more = Bytes::from_static(b"more");
    assert!(!subject.store.blob_piece(TENANT, upload.id, 3, &more).await.unwrap());
}

pub async fn equal_bytes_are_one_blob(subject: Subject) {
    let session = subject.started().await;
    let (first, second) = (upload(session.id, 1, 10), upload(session.id, 1, 10));
    let blob = subject.stored(&first).await;
    // Also where the bytes of the second were never brought: whoever asks has seen them.
    let again = upload(session.id, 1, 10);
    let finished = subject.store.blob_finish(&upload_key(), &again, LONG).await.unwrap();
    assert_eq!(finished, Finished::Done(blob.clone()));
    assert_eq!(subject.stored(&second).await, blob);
    // In another session it is another.
    let elsewhere = subject.started().await;
    assert_ne!(subject.stored(&upload(elsewhere.id, 1, 10)).await.id, blob.id);
}

pub async fn uploads_at_a_time_make_one_blob(subject: Subject) {
    let session = subject.started().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let upload = upload(session.id, 1, 10);
        subject.brought(&upload).await;
        let store = std::sync::Arc::clone(&subject.store);
        tasks.spawn(async move { store.blob_finish(&upload_key(), &upload, LONG).await.unwrap() });
    }
    let found = tasks.join_all().await;
    assert!(matches!(found[0], Finished::Done(_)) && found.iter().all(|one| *one == found[0]), "{found:?}");
}

pub async fn an_upload_carries_a_request_id(subject: Subject) {
    let session = subject.started().await;
    let (key, upload_row) = (upload_key(), upload(session.id, 1, 10));
    subject.brought(&upload_row).await;
    let finish = |key: RequestKey, row: UploadRow| {
        let store = &subject.store;
        async move { store.blob_finish(&key, &row, LONG).await.unwrap() }
    };
    let first = finish(key.clone(), upload_row.clone()).await;
    assert!(matches!(first, Finished::Done(_)));
    assert_eq!(finish(key.clone(), upload_row.clone()).await, first, "repeated after a lost answer");
    assert_eq!(finish(key.clone(), upload(session.id, 1, 10)).await, first, "repeated by its caller");
    assert_eq!(subject.store.request_seen(TENANT, &key).await.unwrap(), Some(true));
    let other = upload(session.id, 2, 10);
    subject.brought(&other).await;
    assert_eq!(finish(RequestKey { digest: [8; 32], ..key }, other).await, Finished::Reused);
    assert_eq!(subject.store.blob_get(TENANT, session.id, &[2; 32]).await.unwrap(), None);
}

pub async fn uploads_need_an_open_session(subject: Subject) {
    let absent = upload(Uuid::from_u128(9), 1, 10);
    assert_eq!(subject.store.blob_begin(&absent, MOST, LONG).await.unwrap(), Opening::NotOpen(None));
    for state in [2, 3] {
        let closed = SessionRow { state, ..session() };
        subject.store.session_start(&key(), &closed).await.unwrap();
        let refused = subject.store.blob_begin(&upload(closed.id, 1, 10), MOST, LONG).await.unwrap();
        assert_eq!(refused, Opening::NotOpen(Some(state)));
    }
    // One that ends meanwhile takes no more.
    let session = subject.started().await;
    let late = upload(session.id, 1, 10);
    subject.brought(&late).await;
    let ending = SessionRow { state: 2, version: 2, ..session };
    assert!(matches!(subject.store.session_change(None, &ending).await.unwrap(), Some(Outcome::Done(_))));
    let refused = subject.store.blob_finish(&upload_key(), &late, LONG).await.unwrap();
    assert_eq!(refused, Finished::NotOpen(Some(2)));
}

pub async fn a_session_holds_so_many_bytes(subject: Subject) {
    let session = subject.started().await;
    let first = upload(session.id, 1, 60);
    assert_eq!(subject.store.blob_begin(&first, 100, LONG).await.unwrap(), Opening::Open);
    assert_eq!(subject.store.blob_begin(&first, 100, LONG).await.unwrap(), Opening::Open, "repeated");
    let second = upload(session.id, 2, 41);
    assert_eq!(subject.store.blob_begin(&second, 100, LONG).await.unwrap(), Opening::Full(60));
    assert_eq!(subject.store.blob_begin(&upload(session.id, 3, 40), 100, LONG).await.unwrap(), Opening::Open);
    let elsewhere = subject.started().await;
    assert_eq!(subject.store.blob_begin(&upload(elsewhere.id, 2, 41), 100, LONG).await.unwrap(), Opening::Open);
}

pub async fn what_no_run_names_expires(subject: Subject) {
    let session = subject.started().await;
    let (short, long) = (upload(session.id, 1, PIECE + 1), upload(session.id, 2, 10));
    subject.brought(&short).await;
    let brief = Duration::from_millis(1);
    assert!(matches!(subject.store.blob_finish(&upload_key(), &short, brief).await.unwrap(), Finished::Done(_)));
    subject.stored(&long).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(subject.store.blob_get(TENANT, session.id, &short.sha256).await.unwrap(), None);
    assert_eq!(subject.store.blob_keep(TENANT, session.id, &[short.sha256]).await.unwrap(), []);
    let timer = Timer { tenant: TENANT.to_owned(), session: session.id, kind: TimerKind::Blobs };
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), [timer]);
    subject.store.blob_expire(TENANT, session.id).await.unwrap();
    assert_eq!(subject.pieces().await, (1, 1));
    assert!(subject.store.blob_get(TENANT, session.id, &long.sha256).await.unwrap().is_some());
    // The timer is that of the next one, and there again when its time has come.
    assert_eq!(subject.store.timer_claim(10).await.unwrap(), []);
    subject.let_time_pass().await;
    assert_eq!(subject.store.timer_claim(10).await.unwrap().len(), 1);
    // Bytes that have expired can be brought again.
    let again = upload(session.id, 1, 10);
    assert_eq!(subject.stored(&again).await.id, again.id);
}

pub async fn what_a_run_names_is_kept(subject: Subject) {
    let session = subject.started().await;
    let (named, other) = (upload(session.id, 1, 10), upload(session.id, 2, 10));
    let brief = Duration::from_millis(200);
    for row in [&named, &other] {
        subject.brought(row).await;
        assert!(matches!(subject.store.blob_finish(&upload_key(), row, brief).await.unwrap(), Finished::Done(_)));
    }
    let wanted = [named.sha256, named.sha256, [9; 32]];
    let kept = subject.store.blob_keep(TENANT, session.id, &wanted).await.unwrap();
    assert_eq!(kept.iter().map(|blob| blob.id).collect::<Vec<_>>(), [named.id]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    subject.store.blob_expire(TENANT, session.id).await.unwrap();
    assert_eq!(subject.pieces().await, (1, 1));
    assert!(subject.store.blob_get(TENANT, session.id, &named.sha256).await.unwrap().is_some());
    // Nothing is left to expire, whoever brings the same bytes again.
    let again = upload(session.id, 1, 10);
    let finished = subject.store.blob_finish(&upload_key(), &again, brief).await.unwrap();
    assert!(matches!(finished, Finished::Done(blob) if blob.id == named.id));
    subject.store.blob_abandon(TENANT, session.id, named.id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    subject.store.blob_expire(TENANT, session.id).await.unwrap();
    assert_eq!(subject.pieces().await, (1, 1));
}

pub async fn what_is_given_up_goes(subject: Subject) {
    let session = subject.started().await;
    let (cut, whole) = (upload(session.id, 1, PIECE + 1), upload(session.id, 2, 10));
    subject.brought(&cut).await;
    subject.stored(&whole).await;
    for row in [&cut, &whole] {
        subject.store.blob_abandon(TENANT, session.id, row.id).await.unwrap();
    }
    let piece = Bytes::from_static(b"late");
    assert!(!subject.store.blob_piece(TENANT, cut.id, 5, &piece).await.unwrap());
    assert_eq!(subject.store.timer_claim(10).await.unwrap().len(), 1, "due at once");
    subject.store.blob_expire(TENANT, session.id).await.unwrap();
    assert_eq!(subject.pieces().await, (1, 1));
    assert_eq!(subject.store.blob_finish(&upload_key(), &cut, LONG).await.unwrap(), Finished::Gone);
}

pub async fn an_erasure_takes_uploads(subject: Subject) {
    let session = subject.started().await;
    let ended = subject.ended_with(&upload(session.id, 1, 3 * PIECE), session).await;
    let other = subject.started().await;
    subject.stored(&upload(other.id, 1, 10)).await;
    let begun = subject.store.erasure_begin(None, TENANT, ended.id, Extent::Payloads).await.unwrap();
    assert_eq!(begun, Begun::Going);
    let mut removed = Vec::new();
    loop {
        removed.push(subject.store.erasure_blobs(TENANT, ended.id, 2).await.unwrap());
        if removed.last() == Some(&0) {
            break;
        }
    }
    assert_eq!(removed, [2, 1, 0]);
    assert_eq!(subject.pieces().await, (1, 1), "nothing of another session");
    assert_eq!(subject.store.blob_get(TENANT, ended.id, &[1; 32]).await.unwrap(), None);
}

pub async fn uploads_are_apart(subject: Subject) {
    let session = subject.started().await;
    let mine = upload(session.id, 1, 10);
    let blob = subject.stored(&mine).await;
    assert_eq!(subject.store.blob_get(OTHER, session.id, &mine.sha256).await.unwrap(), None);
    assert_eq!(subject.store.blob_read(OTHER, blob.id, 0).await.unwrap(), None);
    assert_eq!(subject.store.blob_keep(OTHER, session.id, &[mine.sha256]).await.unwrap(), []);
    let theirs = UploadRow { tenant: OTHER.to_owned(), ..upload(session.id, 1, 10) };
    assert_eq!(subject.store.blob_begin(&theirs, MOST, LONG).await.unwrap(), Opening::NotOpen(None));
    assert!(!subject.store.blob_piece(OTHER, mine.id, 7, &Bytes::from_static(b"x")).await.unwrap());
    let unfinished = upload(session.id, 2, 10);
    subject.begun(&unfinished).await;
    subject.store.blob_abandon(OTHER, session.id, unfinished.id).await.unwrap();
    subject.store.blob_expire(OTHER, session.id).await.unwrap();
    assert_eq!(subject.pieces().await, (2, 1));
}
