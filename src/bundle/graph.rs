// SPDX-License-Identifier: MPL-2.0

//! The graphs' inputs and outputs, against the manifest.

use std::collections::BTreeMap;
use std::fmt;

use super::error::{BundleError, alternatives, plain};
use super::manifest::{Manifest, TENSOR_LIMIT};

/// The four graphs of a bundle, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GraphKind {
    Encoder,
    Prior,
    Dit,
    Decoder,
}

impl GraphKind {
    pub const ALL: [Self; 4] = [Self::Encoder, Self::Prior, Self::Dit, Self::Decoder];

    /// Name of the graph in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Prior => "prior",
            Self::Dit => "dit",
            Self::Decoder => "decoder",
        }
    }
}

impl fmt::Display for GraphKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Type of a tensor's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementType {
    U8,
    F32,
    F16,
    /// Any other, by its name.
    Other(String),
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8 => formatter.write_str("u8"),
            Self::F32 => formatter.write_str("f32"),
            Self::F16 => formatter.write_str("f16"),
            Self::Other(name) => formatter.write_str(&plain(name)),
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub element: ElementType,
    /// -1 for a dynamic dimension.
    pub dims: Vec<i64>,
}

/// Inputs and outputs of a graph, as the runtime reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphInfo {
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
}

/// What the graphs of a bundle leave open, once they are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The bundle has a prior graph, and the DiT takes both priors.
    pub has_prior: bool,
    /// The decoder takes the degraded frames besides the latent.
    pub decoder_takes_frames: bool,
    /// Type of `latent`, f32 or f16.
    pub latent: ElementType,
    /// Type of `restored_latent`, f32 or f16.
    pub restored_latent: ElementType,
    /// `spatial_prior` and `temporal_prior`. Their time axis may be -1 where the bundle allows several window lengths.
    pub priors: Option<[TensorInfo; 2]>,
}

const FRAMES: &str = "frames";
/// A graph's values have one name each, so a decoder that gives `frames` cannot also take them under that name.
const DEGRADED_FRAMES: &str = "degraded_frames";
const LATENT: &str = "latent";
const RESTORED_LATENT: &str = "restored_latent";
const PRIORS: [&str; 2] = ["spatial_prior", "temporal_prior"];
const FLOATS: [ElementType; 2] = [ElementType::F32, ElementType::F16];

/// The inputs, or the outputs, of one graph.
#[derive(Clone, Copy)]
struct Side<'a> {
    graph: GraphKind,
    is_input: bool,
    tensors: &'a [TensorInfo],
}

impl<'a> Side<'a> {
    fn error(&self, name: &str, expected: impl Into<String>, found: impl Into<String>) -> BundleError {
        BundleError::Graph {
            graph: self.graph,
            tensor: format!("{} {}", self.word(), plain(name)),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn word(&self) -> &'static str {
        if self.is_input { "input" } else { "output" }
    }

    /// Checks that all of `required` are there once, and nothing else but `optional`.
    fn names(&self, required: &[&str], optional: &[&str]) -> Result<(), BundleError> {
        let count = |name: &str| self.tensors.iter().filter(|tensor| tensor.name == name).count();
        for name in required.iter().chain(optional) {
            let found = count(name);
            if found > 1 || (found == 0 && required.contains(name)) {
                let expected = format!("one {} of this name", self.word());
                let found = if found == 0 { "none".into() } else { found.to_string() };
                return Err(self.error(name, expected, found));
            }
        }
        let known = |tensor: &&TensorInfo| required.contains(&&*tensor.name) || optional.contains(&&*tensor.name);
        match self.tensors.iter().find(|tensor| !known(tensor)) {
            Some(tensor) => {
                let allowed: Vec<&str> = required.iter().chain(optional).copied().collect();
                let expected = format!("no {} but {}", self.word(), allowed.join(", "));
                Err(self.error(&tensor.name, expected, show(&tensor.element.to_string(), &tensor.dims)))
            }
            None => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Option<&'a TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The tensor `name`, which has the dimensions `dims` and one of the types `elements`.
    fn tensor(&self, name: &str, dims: &[i64], elements: &[ElementType]) -> Result<&'a TensorInfo, BundleError> {
        let expected = || show(&alternatives(elements), dims);
        let tensor = self.get(name).ok_or_else(|| self.error(name, expected(), "none"))?;
        if tensor.dims != dims || !elements.contains(&tensor.element) {
            return Err(self.error(name, expected(), show(&tensor.element.to_string(), &tensor.dims)));
        }
        Ok(tensor)
    }
}

/// `f32 [1, 16, ?, 64, 64]`.
fn show(element: &str, dims: &[i64]) -> String {
    const LIMIT: usize = 12;
    let mut list: Vec<String> = dims
        .iter()
        .take(LIMIT)
        .map(|dim| if *dim == -1 { "?".into() } else { dim.to_string() })
        .collect();
    if dims.len() > LIMIT {
        list.push(format!("… {} dimensions", dims.len()));
    }
    format!("{element} [{}]", list.join(", "))
}

/// Checks all graphs of `manifest`: names, types, ranks and dimensions.
pub(super) fn check(manifest: &Manifest, graphs: &BTreeMap<GraphKind, GraphInfo>) -> Result<Contract, BundleError> {
    for kind in GraphKind::ALL {
        let (listed, loaded) = (manifest.graphs.contains_key(&kind), graphs.contains_key(&kind));
        if listed != loaded {
            let words = |there: bool| if there { "a graph" } else { "no graph" };
            return Err(BundleError::Graph {
                graph: kind,
                tensor: "graph".into(),
                expected: format!("{} as in the manifest", words(listed)),
                found: words(loaded).into(),
            });
        }
    }
    let inputs = |graph| Side {
        graph,
        is_input: true,
        tensors: graphs.get(&graph).map_or(&[], |info| &info.inputs),
    };
    let outputs = |graph| Side {
        graph,
        is_input: false,
        tensors: graphs.get(&graph).map_or(&[], |info| &info.outputs),
    };

    // A bundle with several window lengths has a dynamic time axis, any other has a fixed one.
    let is_dynamic = manifest.frames.len() > 1;
    let time = |frames: u32| if is_dynamic { -1 } else { i64::from(frames) };
    let longest = manifest.longest();
    let [channels, latent_frames, latent_height, latent_width] = manifest.latent_dims(longest);
    let (height, width) = (manifest.height.into(), manifest.width.into());
    let frame_dims = [time(longest), height, width, 3];
    let latent_dims = [
        1,
        channels.into(),
        time(latent_frames),
        latent_height.into(),
        latent_width.into(),
    ];
    let u8_only = [ElementType::U8];

    let encoder = (inputs(GraphKind::Encoder), outputs(GraphKind::Encoder));
    encoder.0.names(&[FRAMES], &[])?;
    encoder.0.tensor(FRAMES, &frame_dims, &u8_only)?;
    encoder.1.names(&[LATENT], &[])?;
    let latent = encoder.1.tensor(LATENT, &latent_dims, &FLOATS)?;

    let has_prior = manifest.graphs.contains_key(&GraphKind::Prior);
    let priors = if has_prior {
        let prior = (inputs(GraphKind::Prior), outputs(GraphKind::Prior));
        prior.0.names(&[FRAMES], &[])?;
        prior.0.tensor(FRAMES, &frame_dims, &u8_only)?;
        prior.1.names(&PRIORS, &[])?;
        let [spatial, temporal] = PRIORS;
        let check = |name| check_prior(&prior.1, name, is_dynamic, longest);
        Some([check(spatial)?, check(temporal)?])
    } else {
        None
    };

    let dit = (inputs(GraphKind::Dit), outputs(GraphKind::Dit));
    match &priors {
        Some(priors) => {
            dit.0.names(&[LATENT, PRIORS[0], PRIORS[1]], &[])?;
            for prior in priors {
                dit.0
                    .tensor(&prior.name, &prior.dims, std::slice::from_ref(&prior.element))?;
            }
        }
        None => dit.0.names(&[LATENT], &[])?,
    }
    dit.0
        .tensor(LATENT, &latent_dims, std::slice::from_ref(&latent.element))?;
    dit.1.names(&[RESTORED_LATENT], &[])?;
    let restored = dit.1.tensor(RESTORED_LATENT, &latent_dims, &FLOATS)?;

    let decoder = (inputs(GraphKind::Decoder), outputs(GraphKind::Decoder));
    decoder.0.names(&[RESTORED_LATENT], &[DEGRADED_FRAMES])?;
    decoder
        .0
        .tensor(RESTORED_LATENT, &latent_dims, std::slice::from_ref(&restored.element))?;
    let decoder_takes_frames = decoder.0.get(DEGRADED_FRAMES).is_some();
    if decoder_takes_frames {
        decoder.0.tensor(DEGRADED_FRAMES, &frame_dims, &u8_only)?;
    }
    decoder.1.names(&[FRAMES], &[])?;
    decoder.1.tensor(FRAMES, &frame_dims, &u8_only)?;

    Ok(Contract {
        has_prior,
        decoder_takes_frames,
        latent: latent.element.clone(),
        restored_latent: restored.element.clone(),
        priors,
    })
}

/// A prior has sizes of its own: `[1, t', h', w', d]`.
fn check_prior(outputs: &Side, name: &str, is_dynamic: bool, longest: u32) -> Result<TensorInfo, BundleError> {
    let time = if is_dynamic { "t' or ?" } else { "t'" };
    let expected = format!("f32 or f16 [1, {time}, h', w', d], all positive, at most {TENSOR_LIMIT} bytes");
    let error = |found: String| outputs.error(name, expected.clone(), found);
    let tensor = outputs.get(name).ok_or_else(|| error("none".into()))?;
    // A dynamic time axis is never longer than the window.
    let frames = |dim: i64| {
        if dim == -1 && is_dynamic {
            i64::from(longest)
        } else {
            dim
        }
    };
    let bytes = match tensor.dims[..] {
        [1, t, h, w, d] => byte_size(&tensor.element, [frames(t), h, w, d]),
        _ => None,
    };
    match bytes {
        Some(bytes) if bytes <= TENSOR_LIMIT => Ok(tensor.clone()),
        _ => Err(error(show(&tensor.element.to_string(), &tensor.dims))),
    }
}

/// Bytes of a float tensor whose dimensions are all positive.
fn byte_size(element: &ElementType, dims: [i64; 4]) -> Option<u64> {
    let element_bytes = match element {
        ElementType::F32 => 4,
        ElementType::F16 => 2,
        ElementType::U8 | ElementType::Other(_) => return None,
    };
    dims.into_iter().try_fold(element_bytes, |bytes: u64, dim| {
        let dim = u64::try_from(dim).ok().filter(|dim| *dim > 0)?;
        bytes.checked_mul(dim)
    })
}
