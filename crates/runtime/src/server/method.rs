//! What is known of a method by its path.

use std::collections::HashMap;
use std::sync::OnceLock;

use mar_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Whether the method answers with one message. Methods that are not ours (health, reflection) count as streams: they
/// get no default deadline.
pub(crate) fn is_unary(path: &str) -> bool {
    static METHODS: OnceLock<HashMap<String, bool>> = OnceLock::new();
    let methods = METHODS.get_or_init(|| unary_methods().unwrap_or_default());
    methods.get(path).copied().unwrap_or(false)
}

/// Whether the method needs no credential: health and reflection, which tell nothing that belongs to a tenant.
pub(crate) fn is_open(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.v1")
}

fn unary_methods() -> Option<HashMap<String, bool>> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).ok()?;
    let mut methods = HashMap::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, !method.server_streaming() && !method.client_streaming());
            }
        }
    }
    Some(methods)
}
