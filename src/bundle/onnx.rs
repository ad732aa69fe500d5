// SPDX-License-Identifier: MPL-2.0

//! Which files an ONNX model reads besides itself.
//!
//! ONNX Runtime opens whatever file a tensor's external data names. So that a bundle's graph reads only files that its
//! manifest lists, this walks the model's protobuf messages (onnx.proto of ONNX 1.23; the field numbers never change) down
//! to the tensors, without building them: a model of 2 GiB takes no more memory than a small one, and weights are
//! stepped over, not read.

use std::io::{self, BufReader, Read, Seek};

use super::error::quote;

/// Largest model, in bytes: protobuf has this limit.
pub(super) const MODEL_LIMIT: u64 = (1 << 31) - 1;

/// How deep messages may nest. A subgraph is three levels.
const DEPTH_LIMIT: usize = 64;
/// Most messages of the kinds below. The largest models have some ten thousand.
const MESSAGES_LIMIT: usize = 1 << 22;
/// Longest text that is read, in bytes.
const TEXT_LIMIT: u64 = 4096;

/// Why a model cannot be used.
#[derive(Debug)]
pub(super) enum ModelError<E> {
    Read(io::Error),
    Invalid {
        expected: &'static str,
        found: String,
    },
    /// From the check of a location.
    Refused(E),
}

impl<E> From<io::Error> for ModelError<E> {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Gives the location of each tensor with external data in the ONNX model that is the first `length` bytes of `reader`
/// to `check`, as written there: relative to the folder of the model, if it is what ONNX asks for.
///
/// # Errors
/// Fails if the model cannot be read, is not a complete ONNX model, is nested too deeply, has a node that reads a file
/// of its own, or if `check` fails.
pub(super) fn for_each_location<E>(
    reader: impl Read + Seek,
    length: u64,
    check: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), ModelError<E>> {
    if length > MODEL_LIMIT {
        return Err(invalid("an ONNX model of at most 2 GiB", format!("{length} bytes")));
    }
    let reader = BufReader::with_capacity(1 << 16, reader);
    let mut walk = Walk {
        reader,
        position: 0,
        messages: 0,
        graphs: 0,
        check,
    };
    walk.message(Message::Model, length, 0)?;
    if walk.graphs == 0 {
        return Err(invalid("an ONNX model", "no graph in it".into()));
    }
    Ok(())
}

fn invalid<E>(expected: &'static str, found: String) -> ModelError<E> {
    ModelError::Invalid { expected, found }
}

/// The messages that lead to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Graph,
    Function,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    /// `StringStringEntryProto` of a tensor's external data.
    Entry,
}

impl Message {
    /// The message in field number `field` of this one.
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Training, 1 | 2) => Self::Graph,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) => Self::Tensor,
            (Self::Graph, 15) => Self::SparseTensor,
            (Self::Function, 7) => Self::Node,
            (Self::Function, 11) => Self::Attribute,
            (Self::Node, 5) => Self::Attribute,
            (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Tensor, 13) => Self::Entry,
            _ => return None,
        })
    }

    /// Whether field number `field` of this message is a text that matters here.
    fn is_text(self, field: u64) -> bool {
        matches!((self, field), (Self::Node, 4) | (Self::Entry, 1 | 2))
    }
}

struct Walk<R, F> {
    reader: BufReader<R>,
    position: u64,
    messages: usize,
    graphs: usize,
    check: F,
}

impl<R: Read + Seek, F> Walk<R, F> {
    /// Walks the message that goes on until `end`.
    fn message<E>(&mut self, message: Message, end: u64, depth: usize) -> Result<(), ModelError<E>>
    where
        F: FnMut(&str) -> Result<(), E>,
    {
        self.messages += 1;
        if depth > DEPTH_LIMIT || self.messages > MESSAGES_LIMIT {
            let found = format!("{} messages, nested {depth} deep", self.messages);
            return Err(invalid("at most 4194304 messages, nested at most 64 deep", found));
        }
        if message == Message::Graph {
            self.graphs += 1;
        }
        let (mut key, mut value) = (String::new(), String::new());
        while self.position < end {
            let tag = self.varint(end)?;
            let (field, wire_type) = (tag >> 3, tag & 7);
            // protobuf keeps 32 bits of a tag: one with more would be another field there than here.
            if tag > u64::from(u32::MAX) || field == 0 {
                return Err(self.broken(format!("field tag {tag}")));
            }
            let length = match wire_type {
                0 => {
                    self.varint(end)?;
                    continue;
                }
                1 => 8,
                2 => self.varint(end)?,
                5 => 4,
                _ => return Err(self.broken(format!("wire type {wire_type}"))),
            };
            let rest = end - self.position;
            if length > rest {
                return Err(self.broken(format!("a field of {length} bytes where {rest} are left")));
            }
            let child = message.child(field).filter(|_| wire_type == 2);
            if let Some(child) = child {
                self.message(child, self.position + length, depth + 1)?;
            } else if wire_type == 2 && message.is_text(field) {
                let text = self.text(length)?;
                match (message, field) {
                    (Message::Entry, 1) => key = text,
                    (Message::Entry, _) => value = text,
                    // Compiled parts of another program, often in a file that the node names.
                    _ if text == "EPContext" => {
                        let found = format!("a node of type {}", quote(&text));
                        return Err(invalid("an ONNX model without nodes compiled for one provider", found));
                    }
                    _ => {}
                }
            } else {
                self.skip(length)?;
            }
        }
        if message == Message::Entry && key == "location" {
            (self.check)(&value).map_err(ModelError::Refused)?;
        }
        Ok(())
    }

    fn varint<E>(&mut self, end: u64) -> Result<u64, ModelError<E>> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.position == end {
                return Err(self.broken("its end within a number".into()));
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7F) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(self.broken("a number of more than 64 bits".into()))
    }

    fn text<E>(&mut self, length: u64) -> Result<String, ModelError<E>> {
        if length > TEXT_LIMIT {
            return Err(self.broken(format!("a text of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        self.position += length;
        // Other text than UTF-8 is no name that matters, and no path that a manifest lists.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        // At most 2 GiB, so it fits.
        self.reader.seek_relative(length as i64)?;
        self.position += length;
        Ok(())
    }

    fn broken<E>(&self, found: String) -> ModelError<E> {
        invalid("a complete ONNX model", format!("{found}, at byte {}", self.position))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A field of bytes.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    /// A tensor with external data at `location`, between fields of every other wire type.
    fn tensor(location: &str) -> Vec<u8> {
        let location = [field(2, location.as_bytes()), field(1, b"location")].concat();
        let offset = [field(1, b"offset"), field(2, b"64")].concat();
        let number = [varint(2 << 3), varint(1)].concat();
        let fixed = [varint(100 << 3 | 5), vec![1; 4], varint(101 << 3 | 1), vec![1; 8]].concat();
        let external = [varint(14 << 3), varint(1)].concat();
        [
            number,
            field(13, &offset),
            fixed,
            field(13, &location),
            field(9, &[7; 300]),
            external,
        ]
        .concat()
    }

    #[test]
    fn a_tag_that_protobuf_would_cut_is_refused() {
        // Field 13 (external_data) with bits above the 32nd: protobuf drops them and reads external data.
        let tag = (1 << 32) | (13 << 3 | 2);
        let location = [field(1, b"location"), field(2, b"../secret")].concat();
        let tensor = [varint(tag), varint(location.len() as u64), location].concat();
        assert!(locations(&model(&field(5, &tensor))).is_err());
        assert!(locations(&model(&field(5, &[0, 0]))).is_err());
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [vec![0x08, 10], field(2, b"test"), field(7, graph)].concat()
    }

    fn locations(model: &[u8]) -> Result<Vec<String>, ModelError<()>> {
        let mut locations = Vec::new();
        for_each_location(Cursor::new(model), model.len() as u64, |location| {
            locations.push(location.to_owned());
            Ok(())
        })?;
        Ok(locations)
    }

    /// One tensor in each place where ONNX has one.
    fn everywhere() -> Vec<u8> {
        let sparse = |values: &str, indices: &str| [field(1, &tensor(values)), field(2, &tensor(indices))].concat();
        let subgraph = |name: &str| field(5, &tensor(name));
        let attributes = [
            field(5, &field(5, &tensor("t"))),
            field(5, &field(6, &subgraph("g"))),
            field(5, &field(10, &tensor("tensors"))),
            field(5, &field(11, &subgraph("graphs"))),
            field(5, &field(22, &sparse("sparse", "sparse indices"))),
            field(5, &field(23, &sparse("sparses", "sparses indices"))),
        ]
        .concat();
        let node = [field(4, b"If"), attributes].concat();
        let graph = [
            field(1, &node),
            field(5, &tensor("initializer")),
            field(15, &sparse("sparse init", "sparse init indices")),
        ]
        .concat();
        let function = [
            field(
                7,
                &[field(4, b"Constant"), field(5, &field(5, &tensor("body")))].concat(),
            ),
            field(11, &field(5, &tensor("default"))),
        ]
        .concat();
        let training = [field(1, &subgraph("start")), field(2, &subgraph("step"))].concat();
        [model(&graph), field(20, &training), field(25, &function)].concat()
    }

    #[test]
    fn finds_external_data_wherever_a_tensor_can_be() {
        let expected = [
            "t",
            "g",
            "tensors",
            "graphs",
            "sparse",
            "sparse indices",
            "sparses",
            "sparses indices",
            "initializer",
            "sparse init",
            "sparse init indices",
            "start",
            "step",
            "body",
            "default",
        ];
        assert_eq!(locations(&everywhere()).unwrap(), expected);
        assert!(locations(&model(&field(5, &field(9, &[1; 100])))).unwrap().is_empty());
    }

    #[test]
    fn what_check_refuses_ends_the_walk() {
        let model = model(&field(5, &tensor("weights")));
        let result = for_each_location(Cursor::new(&model), model.len() as u64, |location| {
            Err(location.to_owned())
        });
        assert!(matches!(result, Err(ModelError::Refused(location)) if location == "weights"));
    }

    fn found(model: &[u8]) -> String {
        match locations(model) {
            Err(ModelError::Invalid { expected, found }) => format!("{expected}: {found}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_model() {
        // Cut anywhere inside its one graph, a model is broken.
        let model = field(7, &[field(5, &tensor("weights")), vec![0x50, 0x01]].concat());
        for length in 0..model.len() {
            found(&model[..length]);
        }
        assert!(locations(&model).is_ok());
    }

    #[test]
    fn other_data_is_no_model() {
        assert!(found(b"").contains("no graph"));
        assert!(found(b"<html>").contains("wire type"));
        assert!(found(b"version https://git-lfs.github.com/spec/v1\n").starts_with("a complete"));
        assert!(found(&[0xFF; 20]).contains("64 bits"));
        assert!(found(&field(7, &field(1, &field(4, &[b'x'; 5000])))).contains("5000 bytes"));
        // A length near the largest number must not pass for a small one.
        assert!(found(&[varint(7 << 3 | 2), varint(u64::MAX - 3)].concat()).contains("are left"));
    }

    #[test]
    fn nodes_compiled_for_a_provider_are_refused() {
        assert!(found(&model(&field(1, &field(4, b"EPContext")))).contains("EPContext"));
    }

    #[test]
    fn nesting_and_number_are_bounded() {
        let mut graph = field(2, b"innermost");
        for _ in 0..40 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert!(found(&model(&graph)).contains("nested 65 deep"));
        let nodes = [0x0A, 0x00].repeat(MESSAGES_LIMIT);
        assert!(found(&model(&nodes)).contains("4194305 messages"));
        let error = for_each_location(Cursor::new([]), MODEL_LIMIT + 1, |_| Ok::<(), ()>(()));
        assert!(matches!(error, Err(ModelError::Invalid { .. })));
    }

    #[test]
    fn file_shorter_than_it_says_is_a_read_error() {
        let model = model(&field(5, &tensor("weights")));
        let error = for_each_location(Cursor::new(&model[..20]), model.len() as u64, |_| Ok::<(), ()>(()));
        assert!(matches!(error, Err(ModelError::Read(_))), "{error:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = locations(&bytes);
        }

        #[test]
        fn any_damage_gives_an_answer(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = everywhere();
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            let _ = locations(&bytes);
        }
    }
}
