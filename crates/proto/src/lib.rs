//! The messages, clients and servers generated from `proto/agentruntime`, and nothing else.
//!
//! Each package is a module under [`agentruntime`] and has a short name at the root: [`types`] is
//! `agentruntime.type.v1`, [`session`] is `agentruntime.session.v1`, and so on. Maps are `BTreeMap`s, so that a message
//! always encodes to the same bytes; `bytes` fields are [`bytes::Bytes`].

include!(concat!(env!("OUT_DIR"), "/tree.rs"));

/// Every file of the API with its imports and comments, as an encoded `google.protobuf.FileDescriptorSet`: what server
/// reflection answers from.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/file_descriptor_set.bin"));
