//! Calls over TLS: who is trusted, who has to show a certificate, and files that are replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mar_proto::router::GetModelResponse;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::router::router_service_server::RouterServiceServer;
use mar_proto::types::ErrorReason;
use mar_runtime::ServiceName;
use mar_runtime::clock::{ManualClock, SystemIds};
use mar_runtime::config::{LimitsConfig, RuntimeConfig, Validate as _};
use mar_runtime::peer::{Peer, never_sent};
use mar_runtime::server::{Server, Stack};
use mar_runtime::status::Reason;
use mar_runtime::tls::{ClientCertificates, TlsConfig};
use mar_runtime::violations::Violations;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Response, Status};

use crate::harness::{Probe, ask};

/// An authority, and a folder where its certificates are put.
struct Authority {
    home: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(home.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { home, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Puts a certificate for loopback into `folder`.
    fn issue(&self, folder: &Path, lasts: time::Duration) {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        (params.not_before, params.not_after) = (now, now + lasts);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.join("tls.pem"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    }

    /// What a process shows that has a certificate of this authority, and trusts it.
    fn config(&self, client_certificates: ClientCertificates) -> TlsConfig {
        self.issue(self.home.path(), time::Duration::weeks(2_000));
        TlsConfig {
            certificate_file: Some(self.file("tls.pem")),
            key_file: Some(self.file("tls.key")),
            client_certificates,
            ..self.trusted()
        }
    }

    /// What a process needs that shows nothing.
    fn trusted(&self) -> TlsConfig {
        TlsConfig { ca_file: Some(self.file("ca.pem")), ..TlsConfig::default() }
    }
}

/// A server whose time stands.
struct Host {
    port: u16,
    clock: Arc<ManualClock>,
    _tasks: JoinSet<()>,
}

impl Host {
    async fn start(tls: TlsConfig) -> Self {
        let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH));
        let config = RuntimeConfig { tls, ..RuntimeConfig::default() };
        let stack = Stack::with_clock(ServiceName::Router, &config, clock.clone(), Arc::new(SystemIds)).unwrap();
        let server = Server::try_new(stack, Routes::new(RouterServiceServer::new(Probe::default()))).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.serve(listener, CancellationToken::new()).await.unwrap() });
        Self { port, clock, _tasks: tasks }
    }

    /// A call over a connection of its own.
    async fn ask(&self, scheme: &str, tls: &TlsConfig) -> Result<Response<GetModelResponse>, Status> {
        let url = format!("{scheme}://127.0.0.1:{}", self.port);
        let peer = Peer::with_tls(ServiceName::Router, &url, &LimitsConfig::default(), tls).unwrap();
        RouterServiceClient::new(peer).get_model(ask("ok")).await
    }
}

fn assert_refused(answer: Result<Response<GetModelResponse>, Status>) -> Status {
    let status = answer.unwrap_err();
    let seen = (status.code(), Reason::of(&status));
    assert_eq!(seen, (Code::Unavailable, Some(ErrorReason::PeerUnavailable)), "{status:?}");
    status
}

#[tokio::test]
async fn a_call_goes_through_where_the_authority_is_trusted() {
    let authority = Authority::new();
    let host = Host::start(authority.config(ClientCertificates::None)).await;
    host.ask("https", &authority.trusted()).await.unwrap();
    for stranger in [Authority::new().trusted(), TlsConfig::default()] {
        let status = assert_refused(host.ask("https", &stranger).await);
        assert!(never_sent(&status), "nothing may go to a server that nobody vouches for");
        assert!(status.message().contains("invalid peer certificate"), "{status:?}");
    }
}

#[tokio::test]
async fn plain_text_and_tls_do_not_understand_each_other() {
    let authority = Authority::new();
    let secured = Host::start(authority.config(ClientCertificates::None)).await;
    assert_refused(secured.ask("http", &authority.trusted()).await);
    let plain = Host::start(TlsConfig::default()).await;
    assert!(never_sent(&assert_refused(plain.ask("https", &authority.trusted()).await)));
    plain.ask("http", &TlsConfig::default()).await.unwrap();
}

#[tokio::test]
async fn who_has_to_show_a_certificate_and_has_none_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let host = Host::start(authority.config(ClientCertificates::Required)).await;
    let known = authority.config(ClientCertificates::None);
    host.ask("https", &known).await.unwrap();
    assert_refused(host.ask("https", &authority.trusted()).await);
    let other = TlsConfig { ca_file: known.ca_file.clone(), ..stranger.config(ClientCertificates::None) };
    assert_refused(host.ask("https", &other).await);

    let asking = Host::start(authority.config(ClientCertificates::Optional)).await;
    asking.ask("https", &authority.trusted()).await.unwrap();
    assert_refused(asking.ask("https", &other).await);
}

#[tokio::test]
async fn an_expired_certificate_is_not_trusted() {
    let authority = Authority::new();
    let config = authority.config(ClientCertificates::None);
    authority.issue(authority.home.path(), time::Duration::HOUR);
    let host = Host::start(config).await;
    let status = assert_refused(host.ask("https", &authority.trusted()).await);
    assert!(status.message().contains("certificate expired"), "{status:?}");
}

#[tokio::test]
async fn replaced_files_count_for_the_next_connection() {
    let (before, after) = (Authority::new(), Authority::new());
    let config = before.config(ClientCertificates::None);
    let host = Host::start(config.clone()).await;
    host.ask("https", &before.trusted()).await.unwrap();

    // Half of a replacement makes no sense, and changes nothing.
    std::fs::write(before.file("tls.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    host.clock.advance(Duration::from_secs(6));
    host.ask("https", &before.trusted()).await.unwrap();

    after.issue(before.home.path(), time::Duration::weeks(2_000));
    host.ask("https", &before.trusted()).await.unwrap();
    host.clock.advance(Duration::from_secs(6));
    host.ask("https", &after.trusted()).await.unwrap();
    assert_refused(host.ask("https", &before.trusted()).await);
}

fn problems(config: &TlsConfig) -> Vec<String> {
    let mut found = Violations::new();
    config.validate(&mut found);
    found.iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (one, other) = (Authority::new(), Authority::new());
    let config = one.config(ClientCertificates::Required);
    assert_eq!(problems(&config), [""; 0]);

    let lone = TlsConfig { key_file: None, ..config.clone() };
    assert_eq!(problems(&lone), ["key_file: must be set where certificate_file is, and nowhere else"]);
    let blind = TlsConfig { ca_file: None, ..config.clone() };
    assert_eq!(problems(&blind), ["client_certificates: must be used with certificate_file and ca_file"]);
    let foreign = TlsConfig { key_file: other.config(ClientCertificates::None).key_file, ..config.clone() };
    let [problem] = &problems(&foreign)[..] else { panic!("one problem") };
    assert!(problem.starts_with("key_file: the certificate and its key cannot be used: "), "{problem}");
    let gone = TlsConfig { certificate_file: Some(one.file("nothing.pem")), ..config.clone() };
    let [problem] = &problems(&gone)[..] else { panic!("one problem") };
    assert!(problem.starts_with("certificate_file: ") && problem.contains("nothing.pem cannot be read"), "{problem}");
    let swapped = TlsConfig { ca_file: config.key_file.clone(), ..config };
    let [problem] = &problems(&swapped)[..] else { panic!("one problem") };
    assert!(problem.starts_with("ca_file: ") && problem.contains("holds no certificate in PEM form"), "{problem}");
}
