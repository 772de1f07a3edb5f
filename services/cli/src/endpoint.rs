//! Where the runtime answers, and the clients that call it there.

use mar_proto::agent::agent_generator_service_client::AgentGeneratorServiceClient;
use mar_proto::router::router_service_client::RouterServiceClient;
use mar_proto::session::session_service_client::SessionServiceClient;
use mar_proto::tool::tool_gateway_service_client::ToolGatewayServiceClient;
use mar_runtime::ServiceName;
use mar_runtime::config::{ByteSize, LimitsConfig};
use mar_runtime::peer::Peer;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use crate::args::EndpointArgs;
use crate::failure::Failure;

/// Where `mar up` serves unless it is told otherwise.
pub const DEFAULT: &str = "127.0.0.1:7410";

/// An endpoint with its credential. The connection is made at the first call, and again when it was lost.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    key: Option<MetadataValue<Ascii>>,
    named: bool,
    limits: LimitsConfig,
}

impl Endpoint {
    /// The endpoint that the arguments name, else the default.
    ///
    /// # Errors
    /// The key cannot be a header, or the URL is none.
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
        let url = match address {
            Some(address) if address.contains("://") => address.to_owned(),
            Some(address) => format!("http://{address}"),
            None => format!("http://{DEFAULT}"),
        };
        Ok(Self { url, key, named: address.is_some(), limits })
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
        if !(self.url.starts_with("http://") || self.url.starts_with("https://")) {
            return Err(Failure::usage(format!("the endpoint {} is no http or https URL", self.url)));
        }
        Peer::tcp(name, &self.url, &self.limits).map_err(|_| {
            Failure::usage(format!("the endpoint {} is not valid", self.url)).hint("Such as 127.0.0.1:7410.")
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

    /// A refused call, with what to do where nothing answered.
    pub fn failure(&self, status: tonic::Status) -> Failure {
        let failure = Failure::from(status);
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
