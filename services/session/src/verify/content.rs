//! The payloads of an event as they are stored, without reading them: a commitment is over these bytes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use mar_descriptor::{Commitment, SaltKey};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_types::FileDescriptorSet;

/// The fields of `EventContent` by their number.
static NAMES: LazyLock<BTreeMap<u32, String>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(mar_proto::FILE_DESCRIPTOR_SET).unwrap_or_default().file;
    let session = files.into_iter().filter(|file| file.package() == "agentruntime.session.v1");
    let content = session.flat_map(|file| file.message_type).find(|message| message.name() == "EventContent");
    let fields = content.map(|message| message.field).unwrap_or_default();
    fields.iter().filter_map(|field| Some((u32::try_from(field.number()).ok()?, field.name().to_owned()))).collect()
});

/// The fields of an encoded `EventContent`, by name, as their bytes. `None` where the bytes are not in the form in which they
/// are written: each field once, by rising numbers, nothing that is not needed.
pub(super) fn fields(content: &Bytes) -> Option<Vec<(&'static str, Bytes)>> {
    let mut rest = content.clone();
    let mut found = Vec::new();
    let mut written = Vec::with_capacity(content.len());
    let mut last = 0;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        if wire != WireType::LengthDelimited || number <= last || length > rest.len() {
            return None;
        }
        let value = rest.split_to(length);
        encode_key(number, wire, &mut written);
        encode_varint(length as u64, &mut written);
        written.extend_from_slice(&value);
        found.push((NAMES.get(&number)?.as_str(), value));
        last = number;
    }
    (written == content.as_ref()).then_some(found)
}

/// Where commitments were made, and the key that opens them.
pub(super) struct Commitments<'a> {
    pub run: &'a str,
    pub seq: i64,
    /// `None` opens nothing: only names are compared.
    pub salt_key: Option<&'a SaltKey>,
}

impl Commitments<'_> {
    /// What does not fit between payloads and commitments.
    pub(super) fn faults(&self, payloads: &[(&str, Bytes)], committed: &[(&str, &[u8])]) -> Vec<String> {
        let mut faults = Vec::new();
        for (at, (field, hmac)) in committed.iter().enumerate() {
            if committed[..at].iter().any(|(other, _)| other == field) {
                faults.push(format!("it commits to its {field} twice"));
                continue;
            }
            let Ok(commitment) = Commitment::try_from(*hmac) else {
                faults.push(format!("its commitment to its {field} is not 32 bytes"));
                continue;
            };
            let Some((_, payload)) = payloads.iter().find(|(name, _)| name == field) else {
                faults.push(format!("its {field} is missing among its payloads"));
                continue;
            };
            let opens = |key: &SaltKey| key.salt(self.run, self.seq, field).opens(&commitment, payload);
            if self.salt_key.is_some_and(|key| !opens(key)) {
                faults.push(format!("its {field} is not the one that its leaf commits to"));
            }
        }
        let stray = payloads.iter().filter(|(field, _)| !committed.iter().any(|(name, _)| name == field));
        faults.extend(stray.map(|(field, _)| format!("its leaf does not commit to its {field}")));
        faults
    }
}

#[cfg(test)]
mod tests {
    use mar_proto::session::EventContent;
    use prost_types::field_descriptor_proto::{Label, Type};

    use super::*;
    use crate::log::payloads;

    /// What is committed to when an event is written is what is read here, for every field that there is.
    #[test]
    fn the_raw_fields_are_the_payloads_that_are_committed_to() {
        let files = FileDescriptorSet::decode(mar_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let messages = files.into_iter().flat_map(|file| file.message_type);
        let fields: Vec<_> = messages.filter(|message| message.name() == "EventContent").collect();
        let mut all = Vec::new();
        for field in &fields[0].field {
            assert!(matches!(field.r#type(), Type::String | Type::Message), "{} has another form", field.name());
            assert_ne!(field.label(), Label::Repeated, "{}", field.name());
            let value: &[u8] = if field.r#type() == Type::String { b"x" } else { b"" };
            encode_key(field.number() as u32, WireType::LengthDelimited, &mut all);
            encode_varint(value.len() as u64, &mut all);
            all.extend_from_slice(value);
        }
        let content = EventContent::decode(&all[..]).unwrap();
        let committed = payloads(&content);
        assert_eq!(committed.len(), fields[0].field.len(), "a field is not committed to");
        let mut raw: Vec<(&str, Vec<u8>)> =
            super::fields(&all.into()).unwrap().into_iter().map(|(name, value)| (name, value.to_vec())).collect();
        let mut committed = committed;
        raw.sort();
        committed.sort();
        assert_eq!(raw, committed);
    }

    #[test]
    fn another_spelling_of_the_same_content_is_none() {
        let content = EventContent { principal: "a".into(), problems: "b".into(), ..EventContent::default() };
        let bytes = content.encode_to_vec();
        assert_eq!(fields(&bytes.clone().into()).unwrap().len(), 2);
        let mut long = bytes.clone();
        // The first length in two bytes instead of one.
        long.splice(1..2, [0x81, 0x00]);
        assert_eq!(EventContent::decode(&long[..]).unwrap(), content);
        assert!(fields(&long.into()).is_none());
        let swapped = [&bytes[3..], &bytes[..3]].concat();
        assert_eq!(EventContent::decode(&swapped[..]).unwrap(), content);
        assert!(fields(&swapped.into()).is_none());
        let twice = [&bytes[..3], &bytes[..]].concat();
        assert!(fields(&twice.into()).is_none());
    }
}
