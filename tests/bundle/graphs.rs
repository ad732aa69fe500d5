// SPDX-License-Identifier: MPL-2.0

//! The graphs' inputs and outputs against the manifest.

use std::collections::BTreeMap;

use gstdvface::bundle::{BundleError, Contract, ElementType, GraphInfo, GraphKind, TensorInfo};

use super::{changed, manifest, open};

type Graphs = BTreeMap<GraphKind, GraphInfo>;

fn tensor(name: &str, element: ElementType, dims: &[i64]) -> TensorInfo {
    TensorInfo {
        name: name.into(),
        element,
        dims: dims.into(),
    }
}

/// The graphs of a bundle with `frames` and `latent_frames` as time axes, -1 if dynamic.
fn graphs(frames: i64, latent_frames: i64) -> Graphs {
    let video = || tensor("frames", ElementType::U8, &[frames, 48, 64, 3]);
    let latent = |name| tensor(name, ElementType::F16, &[1, 16, latent_frames, 6, 8]);
    let spatial = || tensor("spatial_prior", ElementType::F32, &[1, latent_frames, 3, 4, 32]);
    let temporal = || tensor("temporal_prior", ElementType::F16, &[1, 2, 1, 1, 8]);
    let graph = |inputs, outputs| GraphInfo { inputs, outputs };
    BTreeMap::from([
        (GraphKind::Encoder, graph(vec![video()], vec![latent("latent")])),
        (GraphKind::Prior, graph(vec![video()], vec![temporal(), spatial()])),
        (
            GraphKind::Dit,
            graph(
                vec![spatial(), latent("latent"), temporal()],
                vec![latent("restored_latent")],
            ),
        ),
        (
            GraphKind::Decoder,
            graph(vec![latent("restored_latent")], vec![video()]),
        ),
    ])
}

fn get<'a>(graphs: &'a mut Graphs, kind: GraphKind, name: &str) -> &'a mut TensorInfo {
    let graph = graphs.get_mut(&kind).unwrap();
    graph
        .inputs
        .iter_mut()
        .chain(&mut graph.outputs)
        .find(|tensor| tensor.name == name)
        .unwrap()
}

#[test]
fn matching_graphs_give_the_contract() {
    let bundle = open(&manifest()).unwrap();
    let mut graphs = graphs(17, 5);
    let expected = Contract {
        has_prior: true,
        decoder_takes_frames: false,
        latent: ElementType::F16,
        restored_latent: ElementType::F16,
        priors: Some([
            tensor("spatial_prior", ElementType::F32, &[1, 5, 3, 4, 32]),
            tensor("temporal_prior", ElementType::F16, &[1, 2, 1, 1, 8]),
        ]),
    };
    assert_eq!(bundle.check_graphs(&graphs).unwrap(), expected);
    let mut degraded = get(&mut graphs, GraphKind::Encoder, "frames").clone();
    degraded.name = "degraded_frames".into();
    graphs.get_mut(&GraphKind::Decoder).unwrap().inputs.push(degraded);
    assert!(bundle.check_graphs(&graphs).unwrap().decoder_takes_frames);
}

#[test]
fn dynamic_time_is_for_several_lengths_only() {
    let several = open(&changed("frames = 17", "frames = [9, 17]")).unwrap();
    let contract = several.check_graphs(&graphs(-1, -1)).unwrap();
    assert_eq!(contract.priors.unwrap()[0].dims, [1, -1, 3, 4, 32]);
    let error = several.check_graphs(&graphs(17, 5)).unwrap_err().to_string();
    assert!(
        error.contains("expected u8 [?, 48, 64, 3], found u8 [17, 48, 64, 3]"),
        "{error}"
    );
    let one = open(&manifest()).unwrap();
    for (frames, latent_frames) in [(-1, 5), (17, -1), (-1, -1), (13, 4), (17, 4)] {
        assert!(
            one.check_graphs(&graphs(frames, latent_frames)).is_err(),
            "{frames} {latent_frames}"
        );
    }
}

#[test]
fn bundle_without_prior() {
    let text = manifest();
    let (before, after) = text.split_once("[graphs.prior]").unwrap();
    let bundle = open(&format!("{before}{}", &after[after.find("[graphs.dit]").unwrap()..])).unwrap();
    let mut graphs = graphs(17, 5);
    let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
    assert!(
        error.contains("graph prior") && error.contains("expected no graph"),
        "{error}"
    );
    graphs.remove(&GraphKind::Prior);
    let error = bundle.check_graphs(&graphs).unwrap_err();
    let BundleError::Graph {
        graph,
        tensor,
        expected,
        found,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((*graph, tensor.as_str()), (GraphKind::Dit, "input spatial_prior"));
    assert_eq!(
        (expected.as_str(), found.as_str()),
        ("no input but latent", "f32 [1, 5, 3, 4, 32]")
    );
    graphs
        .get_mut(&GraphKind::Dit)
        .unwrap()
        .inputs
        .retain(|tensor| tensor.name == "latent");
    let contract = bundle.check_graphs(&graphs).unwrap();
    assert_eq!((contract.has_prior, contract.priors), (false, None));
    graphs.remove(&GraphKind::Dit);
    assert!(
        bundle
            .check_graphs(&graphs)
            .unwrap_err()
            .to_string()
            .contains("found no graph")
    );
}

#[test]
fn wrong_graphs_name_graph_tensor_expected_and_found() {
    let bundle = open(&manifest()).unwrap();
    type Change = fn(&mut TensorInfo);
    let wrong_type: Change = |tensor| tensor.element = ElementType::Other("i64".into());
    let wrong_rank: Change = |tensor| tensor.dims.push(1);
    let no_rank: Change = |tensor| tensor.dims.clear();
    let wrong_name: Change = |tensor| tensor.name.push('2');
    let wrong_size: Change = |tensor| tensor.dims[3] = -10;
    let all = [
        (GraphKind::Encoder, "input frames"),
        (GraphKind::Encoder, "output latent"),
        (GraphKind::Prior, "input frames"),
        (GraphKind::Prior, "output spatial_prior"),
        (GraphKind::Prior, "output temporal_prior"),
        (GraphKind::Dit, "input latent"),
        (GraphKind::Dit, "input spatial_prior"),
        (GraphKind::Dit, "input temporal_prior"),
        (GraphKind::Dit, "output restored_latent"),
        (GraphKind::Decoder, "input restored_latent"),
        (GraphKind::Decoder, "output frames"),
    ];
    for (kind, at) in all {
        let (_, name) = at.split_once(' ').unwrap();
        let found = ["i64", ", 1]", "[]", "none", "-10"];
        for (change, found) in [wrong_type, wrong_rank, no_rank, wrong_name, wrong_size]
            .into_iter()
            .zip(found)
        {
            let mut graphs = graphs(17, 5);
            change(get(&mut graphs, kind, name));
            let error = bundle.check_graphs(&graphs).unwrap_err();
            let BundleError::Graph {
                graph,
                tensor,
                expected,
                found: finds,
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!((*graph, tensor.as_str()), (kind, at), "{error}");
            assert!(finds.contains(found) && expected != finds, "{error}");
        }
    }
}

#[test]
fn both_sides_of_a_handover_agree() {
    let bundle = open(&manifest()).unwrap();
    for (kind, name) in [
        (GraphKind::Dit, "latent"),
        (GraphKind::Dit, "temporal_prior"),
        (GraphKind::Decoder, "restored_latent"),
    ] {
        let mut graphs = graphs(17, 5);
        get(&mut graphs, kind, name).element = ElementType::F32;
        let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
        assert!(
            error.contains("expected f16 [") && error.contains("found f32 ["),
            "{error}"
        );
    }
    let mut other_size = graphs(17, 5);
    get(&mut other_size, GraphKind::Dit, "spatial_prior").dims[4] = 16;
    assert!(bundle.check_graphs(&other_size).is_err());
    let mut other_type = graphs(17, 5);
    get(&mut other_type, GraphKind::Encoder, "latent").element = ElementType::F32;
    get(&mut other_type, GraphKind::Dit, "latent").element = ElementType::F32;
    assert_eq!(bundle.check_graphs(&other_type).unwrap().latent, ElementType::F32);
}

#[test]
fn priors_are_bounded_and_names_unique() {
    let bundle = open(&manifest()).unwrap();
    for dims in [
        [1, 1 << 20, 1 << 20, 1 << 20, 1 << 20],
        [1, 1, 1 << 29, 1, 1],
        [1, 0, 1, 1, 1],
        [1, -1, 1, 1, 1],
        [2, 1, 1, 1, 1],
    ] {
        let mut graphs = graphs(17, 5);
        for kind in [GraphKind::Prior, GraphKind::Dit] {
            get(&mut graphs, kind, "spatial_prior").dims = dims.into();
        }
        let error = bundle.check_graphs(&graphs).unwrap_err().to_string();
        assert!(error.contains("graph prior: output spatial_prior"), "{error}");
    }
    let mut doubled = graphs(17, 5);
    let video = get(&mut doubled, GraphKind::Encoder, "frames").clone();
    doubled.get_mut(&GraphKind::Encoder).unwrap().inputs.push(video);
    let error = bundle.check_graphs(&doubled).unwrap_err().to_string();
    assert!(error.contains("expected one input of this name, found 2"), "{error}");
    let mut extra = graphs(17, 5);
    let output = tensor("debug\0\n", ElementType::F32, &[1; 40]);
    extra.get_mut(&GraphKind::Decoder).unwrap().outputs.push(output);
    let error = bundle.check_graphs(&extra).unwrap_err().to_string();
    assert!(
        error.contains("no output but frames") && !error.contains(['\0', '\n']),
        "{error}"
    );
}
