//! `mar certs`: certificates to try TLS with.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mar_runtime::ServiceName;
use mar_runtime::clock::{Clock as _, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::args::{CertsCommand, DevCertsArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::keys::make_private_folder;
use crate::out::Out;

/// How long the certificates hold.
const LASTS: Duration = Duration::days(365);
/// For machines whose clocks are behind.
const BEFORE: Duration = Duration::hours(1);
/// Names that every certificate is for.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// `mar certs`.
///
/// # Errors
/// Files cannot be written, or a host is none.
pub fn certs(command: CertsCommand, out: Out) -> Result<Exit, Failure> {
    let CertsCommand::Dev(args) = command;
    let files = ["ca.pem", "tls.pem", "tls.key"].map(|name| args.folder.join(name));
    match files.iter().filter(|file| file.exists()).count() {
        0 => make(&args, &files)?,
        3 => out.note("They are there already, and stay as they are."),
        _ => {
            let text = format!("{} holds only some of ca.pem, tls.pem and tls.key", args.folder.display());
            return Err(Failure::usage(text).hint("Restore the others, or remove these to have new ones made."));
        }
    }
    for file in &files {
        out.line(file.display());
    }
    let [ca, certificate, key] = files.map(|file| format!("{:?}", file.display().to_string()));
    out.note(format!(
        "\nFor the configuration:\n\n[runtime.tls]\nca_file = {ca}\ncertificate_file = {certificate}\nkey_file = {key}\n\
         client_certificates = \"required\""
    ));
    Ok(Exit::Done)
}

/// An authority, whose key is thrown away, and one certificate that a server and a client can show.
fn make(args: &DevCertsArgs, [ca, certificate, key]: &[std::path::PathBuf; 3]) -> Result<(), Failure> {
    make_private_folder(&args.folder)?;
    let now = SystemClock::new().now();
    let authority = authority(now).map_err(internal)?;
    let services = ServiceName::ALL.iter().map(|name| name.as_str());
    let hosts = LOCAL.into_iter().chain(services).map(str::to_owned).chain(args.hosts.iter().cloned());
    let mut params = CertificateParams::new(hosts.collect::<Vec<_>>())
        .map_err(|error| Failure::usage(format!("a --host is no name that a certificate can have: {error}")))?;
    describe(&mut params, "mcp-agent-runtime", now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::generate().map_err(internal)?;
    let signed = params.signed_by(&own, &authority.issuer).map_err(internal)?;
    for (file, text, mode) in
        [(ca, &authority.pem, 0o644), (certificate, &signed.pem(), 0o644), (key, &own.serialize_pem(), 0o600)]
    {
        write(file, text, mode)
            .map_err(|error| Failure::usage(format!("{} cannot be written: {error}", file.display())))?;
    }
    Ok(())
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(now: OffsetDateTime) -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::default();
    describe(&mut params, "mcp-agent-runtime, for development", now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok(Authority { pem, issuer: Issuer::new(params, key) })
}

fn describe(params: &mut CertificateParams, name: &str, now: OffsetDateTime) {
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (now - BEFORE, now + LASTS);
}

fn write(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?.write_all(text.as_bytes())
}

fn internal(error: rcgen::Error) -> Failure {
    Failure::new(Exit::Internal, format!("no certificate can be made: {error}"))
}
