# SPDX-License-Identifier: MPL-2.0
"""The bundles that the plugin's tests load (tests/bundles): what is committed is what the script writes, each valid
bundle does in ONNX Runtime what its name promises, and each broken one has its one fault."""

import hashlib
import re
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "bundles"
sys.path.insert(0, str(FOLDER))
import generate  # noqa: E402

GRAPHS = ("encoder", "prior", "dit", "decoder")
VALID = sorted(path.parent.name for path in FOLDER.glob("*/bundle.toml"))
BROKEN = sorted(path.parent.name for path in FOLDER.glob("broken/*/bundle.toml"))


def files_below(root: Path) -> dict[str, bytes]:
    """Content of the bundles' files by path; the scripts and the README lie directly in `root`."""
    paths = (path for path in root.glob("*/**/*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def manifest_of(folder: Path) -> dict:
    return tomllib.loads((folder / "bundle.toml").read_text())


def lengths_of(manifest: dict) -> list[int]:
    frames = manifest["window"]["frames"]
    return frames if isinstance(frames, list) else [frames]


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def sessions_of(folder: Path) -> dict[str, ort.InferenceSession]:
    return {name: session_of(folder / f"{name}.onnx") for name in GRAPHS if (folder / f"{name}.onnx").exists()}


def run_graph(session: ort.InferenceSession, values: dict, options: ort.RunOptions | None = None) -> None:
    """Runs a graph on the tensors of `values` and adds its outputs there, under their names."""
    inputs = {tensor.name: values[tensor.name] for tensor in session.get_inputs()}
    names = [tensor.name for tensor in session.get_outputs()]
    values.update(zip(names, session.run(names, inputs, options), strict=True))


def restore(folder: Path, frames: np.ndarray) -> np.ndarray:
    """One window of frames, u8 [T,H,W,3], through the graphs of a bundle."""
    values = {"frames": frames, "degraded_frames": frames}
    for session in sessions_of(folder).values():
        run_graph(session, values)
    return values["frames"]


def noise(manifest: dict, length: int, high: int = 256) -> np.ndarray:
    size = (length, manifest["frame"]["height"], manifest["frame"]["width"], 3)
    return np.random.default_rng(length).integers(0, high, size, dtype=np.uint8)


def plus(frames: np.ndarray, amount: int | np.ndarray) -> np.ndarray:
    return np.minimum(frames.astype(np.int64) + amount, 255)


def listed_files(manifest: dict) -> list[dict]:
    entries = list(manifest["graphs"].values())
    return entries + [weight for entry in entries for weight in entry.get("weights", [])]


def wrong_checksums(folder: Path) -> list[str]:
    """Paths in the manifest whose file is not there or has another checksum."""
    wrong = []
    for entry in listed_files(manifest_of(folder)):
        path = folder / entry["path"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            wrong.append(entry["path"])
    return wrong


def tensors_of(folder: Path) -> dict[str, dict[str, tuple[int, tuple]]]:
    """Inputs and outputs of each graph: "encoder.latent" gives (ONNX element type, shape)."""
    found = {}
    for name in GRAPHS:
        graph = onnx.load(folder / f"{name}.onnx", load_external_data=False).graph
        for value in (*graph.input, *graph.output):
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
            found[f"{name}.{value.name}"] = (tensor.elem_type, shape)
    return found


def locations_of(folder: Path) -> list[str]:
    """Files that the dit names as external data."""
    graph = onnx.load(folder / "dit.onnx", load_external_data=False).graph
    entries = [entry for tensor in graph.initializer for entry in tensor.external_data]
    return [entry.value for entry in entries if entry.key == "location"]


def test_committed_bundles_are_what_the_script_writes(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    committed, written = files_below(FOLDER), files_below(tmp_path)
    assert sorted(committed) == sorted(written)
    assert [path for path in written if committed[path] != written[path]] == []
    assert sum(map(len, written.values())) < 300_000


def test_every_bundle_is_in_the_readme() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(VALID + [f"broken/{name}" for name in BROKEN])


@pytest.mark.parametrize("name", VALID)
def test_valid_bundle_follows_the_contract(name: str) -> None:
    manifest = manifest_of(FOLDER / name)
    assert wrong_checksums(FOLDER / name) == []
    assert manifest["name"] == name
    assert set(manifest["graphs"]) == set(GRAPHS) - ({"prior"} if name == "brighter-noprior" else set())
    priors = ["spatial_prior", "temporal_prior"] if "prior" in manifest["graphs"] else []
    names = {
        "encoder": (["frames"], ["latent"]),
        "prior": (["frames"], priors),
        "dit": (["latent", *priors], ["restored_latent"]),
        "decoder": (["restored_latent"] + ["degraded_frames"] * (name == "brighter-frames"), ["frames"]),
    }
    latent, frame, lengths = manifest["latent"], manifest["frame"], lengths_of(manifest)
    stride = latent["spatial_stride"]
    static = len(lengths) == 1
    latent_length = (lengths[0] - 1) // latent["temporal_stride"] + 1
    latent_size = [frame["height"] // stride, frame["width"] // stride]
    float_type = "tensor(float16)" if name == "brighter-f16" else "tensor(float)"
    shapes = {
        "frames": [lengths[0] if static else "frames", frame["height"], frame["width"], 3],
        "latent": [1, latent["channels"], latent_length if static else "latent_frames", *latent_size],
    }
    shapes |= {"degraded_frames": shapes["frames"], "restored_latent": shapes["latent"]}
    for graph, session in sessions_of(FOLDER / name).items():
        onnx.checker.check_model(FOLDER / name / f"{graph}.onnx", full_check=True)
        tensors = (session.get_inputs(), session.get_outputs())
        assert tuple([tensor.name for tensor in side] for side in tensors) == names[graph]
        for tensor in (*tensors[0], *tensors[1]):
            assert tensor.type == ("tensor(uint8)" if "frames" in tensor.name else float_type)
            assert tensor.shape == shapes.get(tensor.name, tensor.shape)
            assert len(tensor.shape) == (4 if "frames" in tensor.name else 5)


# slow-very takes 20 s; it differs from slow in one number, and its interruption is tested below.
@pytest.mark.parametrize("name", [name for name in VALID if name != "slow-very"])
def test_valid_bundle_gives_the_promised_pixels(name: str) -> None:
    manifest = manifest_of(FOLDER / name)
    amounts = {"identity": 0, "blend": 10 * np.arange(5).reshape(-1, 1, 1, 1)}
    for length in lengths_of(manifest):
        # `failing` works on dark frames only: here their mean is about 60.
        frames = noise(manifest, length, high=120 if name == "failing" else 256)
        restored = restore(FOLDER / name, frames)
        assert restored.dtype == np.uint8
        np.testing.assert_array_equal(restored, plus(frames, amounts.get(name, 1)))


def test_brighter_frames_takes_the_pixels_from_the_degraded_frames() -> None:
    frames = noise(manifest_of(FOLDER / "brighter-frames"), 5)
    sessions = sessions_of(FOLDER / "brighter-frames")
    values = {"frames": 255 - frames}
    run_graph(sessions["encoder"], values)
    values |= {"restored_latent": values["latent"], "degraded_frames": frames}
    run_graph(sessions["decoder"], values)
    np.testing.assert_array_equal(values["frames"], plus(frames, 1))


@pytest.mark.parametrize("value, fails", [(128, False), (129, True)])
def test_failing_fails_on_bright_frames(value: int, fails: bool) -> None:
    frames = np.full((5, 32, 32, 3), value, np.uint8)
    if fails:
        with pytest.raises(Exception, match="Gather.*indices element out of data bounds"):
            restore(FOLDER / "failing", frames)
    else:
        np.testing.assert_array_equal(restore(FOLDER / "failing", frames), plus(frames, 1))


def test_slow_very_can_be_interrupted() -> None:
    sessions = sessions_of(FOLDER / "slow-very")
    values = {"frames": noise(manifest_of(FOLDER / "slow-very"), 5)}
    run_graph(sessions["encoder"], values)
    run_graph(sessions["prior"], values)
    options = ort.RunOptions()
    timer = threading.Timer(1.0, setattr, (options, "terminate", True))
    started = time.monotonic()
    timer.start()
    with pytest.raises(Exception, match="terminate"):
        run_graph(sessions["dit"], values, options)
    timer.join()
    assert 1.0 <= time.monotonic() - started < 3.0


FILE_FAULTS = {
    "missing-file": ["encoder.onnx"],
    "wrong-checksum": ["encoder.onnx"],
    "absolute-path": ["/encoder.onnx"],
}
SMALL_FRAME = {"width": 32, "height": 32}
MANIFEST_FAULTS = {
    "wrong-format": lambda manifest: manifest.update(format=1),
    "unknown-key": lambda manifest: manifest["frame"].pop("depth"),
    "missing-field": lambda manifest: manifest["frame"].update(height=32),
    "bad-overlap": lambda manifest: manifest["window"].update(overlap=1),
    "escaping-path": lambda manifest: manifest["graphs"]["encoder"].update(path="encoder.onnx"),
    "absolute-path": lambda manifest: manifest["graphs"]["encoder"].update(path="encoder.onnx"),
    "huge-dimensions": lambda manifest: manifest.update(window={"frames": 5, "overlap": 1}, frame=SMALL_FRAME),
}
# Tensors that differ from those of `brighter`.
TENSOR_FAULTS = {
    "wrong-type": {"encoder.frames"},
    "wrong-type-latent": {
        "prior.spatial_prior",
        "prior.temporal_prior",
        "dit.latent",
        "dit.spatial_prior",
        "dit.temporal_prior",
        "dit.restored_latent",
        "decoder.restored_latent",
    },
    "wrong-rank": {"encoder.latent"},
    "wrong-name": {"encoder.frames", "encoder.images"},
    "wrong-t": {
        "encoder.frames",
        "encoder.latent",
        "prior.frames",
        "prior.temporal_prior",
        "dit.latent",
        "dit.temporal_prior",
        "dit.restored_latent",
        "decoder.restored_latent",
        "decoder.frames",
    },
    "prior-missing-input": {"dit.spatial_prior", "dit.temporal_prior"},
}
UNREADABLE = ("truncated-graph", "not-onnx")
EXTERNAL_FAULTS = {"escaping-external": "../../external/dit.onnx.data", "unlisted-external": "dit.onnx.data"}


def test_every_broken_bundle_has_a_check() -> None:
    checked = {*FILE_FAULTS, *MANIFEST_FAULTS, *TENSOR_FAULTS, *UNREADABLE, *EXTERNAL_FAULTS, "not-toml"}
    assert sorted(checked) == BROKEN


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "not-toml"])
def test_broken_bundle_lists_its_files(name: str) -> None:
    """Checksums are right wherever they are not the fault, so that the plugin gets as far as the fault."""
    assert wrong_checksums(FOLDER / "broken" / name) == FILE_FAULTS.get(name, [])


def test_not_toml() -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        manifest_of(FOLDER / "broken" / "not-toml")


@pytest.mark.parametrize("name", MANIFEST_FAULTS)
def test_broken_manifest_has_one_fault(name: str) -> None:
    """Without its fault the manifest is that of `brighter`."""
    ignored = ("name", "description", "graphs")
    broken, right = manifest_of(FOLDER / "broken" / name), manifest_of(FOLDER / "brighter")

    def comparable(manifest: dict) -> dict:
        paths = [entry["path"] for entry in manifest["graphs"].values()]
        return {key: value for key, value in manifest.items() if key not in ignored} | {"paths": paths}

    assert comparable(broken) != comparable(right)
    MANIFEST_FAULTS[name](broken)
    assert comparable(broken) == comparable(right)


@pytest.mark.parametrize("name", TENSOR_FAULTS)
def test_broken_graph_differs_in_the_promised_tensors(name: str) -> None:
    broken, right = tensors_of(FOLDER / "broken" / name), tensors_of(FOLDER / "brighter")
    assert {tensor for tensor in broken | right if broken.get(tensor) != right.get(tensor)} == TENSOR_FAULTS[name]
    for graph in GRAPHS:
        session_of(FOLDER / "broken" / name / f"{graph}.onnx")


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_graph_is_refused_by_onnx_runtime(name: str) -> None:
    with pytest.raises(Exception, match="encoder.onnx failed"):
        session_of(FOLDER / "broken" / name / "encoder.onnx")


@pytest.mark.parametrize("name", EXTERNAL_FAULTS)
def test_external_data_is_not_in_the_manifest(name: str) -> None:
    folder = FOLDER / "broken" / name
    listed = [entry["path"] for entry in listed_files(manifest_of(folder))]
    (location,) = locations_of(folder)
    assert location == EXTERNAL_FAULTS[name]
    assert location not in listed
    # The file is there and is the right one: a loader that does not look at the location would find nothing wrong.
    assert (folder / location).read_bytes() == (FOLDER / "external" / "dit.onnx.data").read_bytes()


def test_huge_dimensions_agree_with_the_graphs() -> None:
    folder = FOLDER / "broken" / "huge-dimensions"
    frame, length = manifest_of(folder)["frame"], lengths_of(manifest_of(folder))[0]
    assert tensors_of(folder)["encoder.frames"][1] == (length, frame["height"], frame["width"], 3)
    assert length * frame["height"] * frame["width"] * 3 > 2**64
