//! Where the runtime answers, and the clients that call it there.

use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_runtime::ServiceName;
use mar_runtime::config::{ByteSize, LimitsConfig};
use mar_runtime::peer::{self, Peer};
use mar_runtime::status::chain;
use mar_runtime::tls::TlsConfig;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Uri;
use tonic::{Code, Request};

use crate::args::EndpointArgs;
use crate::failure::Failure;

/// Where `mar up` serves unless it is told otherwise.
pub const DEFAULT: &str = "127.0.0.1:7410";

/// What is at which endpoint.
const ENDPOINTS: &str = "With four processes, MAR_ENDPOINT or --endpoint has to name the one that the command needs: session for \
                         run, runs, sessions, approvals, blobs and hooks, router for models, tool-gateway for tools, \
                         agent-generator for render.";

/// An endpoint with its credential. The connection is made at the first call, and again when it was lost.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    key: Option<MetadataValue<Ascii>>,
    named: bool,
    limits: LimitsConfig,
    tls: TlsConfig,
}

impl Endpoint {
    /// The endpoint that the arguments name, else the default.
    ///
    /// # Errors
    /// The key cannot be a header, or the address is none.
    pub fn try_new(args: &EndpointArgs) -> Result<Self, Failure> {
        let key = match &args.key {
            Some(key) => {
                let header = format!("Bearer {key}");
                let mut value: MetadataValue<Ascii> =
                    header.parse().map_err(|_| Failure::usage("--key holds characters that a key cannot have"))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        // Answers may be large: the session sends what the run is made of.
        let limits = LimitsConfig { max_message: ByteSize::mib(64), ..LimitsConfig::default() };
        let address = args.endpoint.as_deref().filter(|address| !address.is_empty());
        let url = url(address.unwrap_or(DEFAULT)).map_err(|wrong| {
            let address = address.unwrap_or(DEFAULT);
            Failure::usage(format!("the endpoint {address} {wrong}")).hint("Such as 127.0.0.1:7410.")
        })?;
        let tls = TlsConfig {
            certificate_file: args.certificate.clone(),
            key_file: args.certificate_key.clone(),
            ca_file: args.ca.clone(),
            ..TlsConfig::default()
        };
        if tls != TlsConfig::default() && !url.starts_with("https://") {
            return Err(Failure::usage(format!("the endpoint {url} is not https://, so no certificate is of use")));
        }
        Ok(Self { url, key, named: address.is_some(), limits, tls })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it was named, rather than taken by default.
    pub fn is_named(&self) -> bool {
        self.named
    }

    fn peer(&self, name: ServiceName) -> Result<Peer, Failure> {
        Peer::with_tls(name, &self.url, &self.limits, &self.tls).map_err(|error| match error {
            peer::Error::Tls(error) => Failure::usage(chain(&error)),
            _ => Failure::usage(format!("the endpoint {} is not valid", self.url)).hint("Such as 127.0.0.1:7410."),
        })
    }

    /// Sessions, runs and events.
    ///
    /// # Errors
    /// The URL is not valid; the same holds for the others.
    pub fn sessions(&self) -> Result<SessionServiceClient<Peer>, Failure> {
        let peer = self.peer(ServiceName::Session)?;
        let max = peer.max_message();
        Ok(SessionServiceClient::new(peer).max_decoding_message_size(max))
    }

    /// Models.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn models(&self) -> Result<RouterServiceClient<Peer>, Failure> {
        let peer = self.peer(ServiceName::Router)?;
        let max = peer.max_message();
        Ok(RouterServiceClient::new(peer).max_decoding_message_size(max))
    }

    /// Tools.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn tools(&self) -> Result<ToolGatewayServiceClient<Peer>, Failure> {
        let peer = self.peer(ServiceName::ToolGateway)?;
        let max = peer.max_message();
        Ok(ToolGatewayServiceClient::new(peer).max_decoding_message_size(max))
    }

    /// Prompts and agents.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn agents(&self) -> Result<AgentGeneratorServiceClient<Peer>, Failure> {
        let peer = self.peer(ServiceName::AgentGenerator)?;
        let max = peer.max_message();
        Ok(AgentGeneratorServiceClient::new(peer).max_decoding_message_size(max))
    }

    /// A message with the credential.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("authorization", key.clone());
        }
        request
    }

    /// A refused call, with what to do where nothing answered, or somebody else did.
    pub fn failure(&self, status: tonic::Status) -> Failure {
        let elsewhere = status.code() == Code::Unimplemented;
        let failure = Failure::from(status);
        if elsewhere {
            return failure.hint(format!("{} does not serve this. {ENDPOINTS}", self.url));
        }
        if !failure.is_unreachable() {
            return failure;
        }
        let failure = failure.hint(format!("Nothing answers at {}.", self.url));
        if self.named {
            failure
        } else {
            failure.hint("Start the runtime with `mar up`, or name one with --endpoint or MAR_ENDPOINT.")
        }
    }
}

/// The URL of `HOST:PORT`, or of a URL as it is; else what is wrong with it. A word alone is no address: looked up as a
/// name it would only be "not available", which sounds as if waiting helped.
fn url(address: &str) -> Result<String, &'static str> {
    let (url, is_bare) = match address.split_once("://") {
        Some(("http" | "https", _)) => (address.to_owned(), false),
        Some(_) => return Err("is no http or https URL"),
        None => (format!("http://{address}"), true),
    };
    let uri: Uri = url.parse().map_err(|_| "is neither HOST:PORT nor a URL")?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or("names no host")?;
    if authority.as_str().contains('@') {
        return Err("must not hold a user; a credential is given as --key");
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err("must be a host and a port, without a path");
    }
    match authority.as_str().strip_prefix(authority.host()) {
        Some("") if is_bare => Err("names no port"),
        Some("") => Ok(url),
        _ => authority.port_u16().filter(|port| *port > 0).map(|_| url).ok_or("names no port from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_of_another_service_is_told_apart() {
        let endpoint = Endpoint::try_new(&EndpointArgs::default()).unwrap();
        let hints = |status| endpoint.failure(status).to_json()["error"]["hints"].to_string();
        let elsewhere = hints(tonic::Status::unimplemented("x"));
        for part in [endpoint.url(), "MAR_ENDPOINT", "--endpoint", "router for models"] {
            assert!(elsewhere.contains(part), "{part} in {elsewhere}");
        }
        assert_eq!(hints(tonic::Status::not_found("x")), "[]");
    }

    #[test]
    fn an_address_becomes_a_url() {
        for (address, wanted) in [
            ("127.0.0.1:7410", "http://127.0.0.1:7410"),
            ("localhost:7410", "http://localhost:7410"),
            ("[::1]:7410", "http://[::1]:7410"),
            ("http://runtime.example:80/", "http://runtime.example:80/"),
            ("https://runtime.example", "https://runtime.example"),
        ] {
            assert_eq!(url(address).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (address, part) in [
            ("garbage", "no port"),
            ("127.0.0.1", "no port"),
            ("[::1]", "no port"),
            ("localhost:", "port from"),
            ("localhost:0", "port from"),
            ("localhost:99999", "port from"),
            ("localhost:http", "port from"),
            (":7410", "no host"),
            ("two words:1", "HOST:PORT"),
            ("ftp://localhost:1", "http or https"),
            ("http://", "HOST:PORT"),
            ("me@localhost:1", "--key"),
            ("localhost:1/v1", "path"),
            ("localhost:1?x", "path"),
        ] {
            let wrong = url(address).unwrap_err();
            assert!(wrong.contains(part), "{address}: {wrong}");
        }
    }
}
