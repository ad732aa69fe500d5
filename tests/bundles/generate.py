# SPDX-License-Identifier: MPL-2.0
"""Writes the tiny ONNX bundles that the plugin's tests load: see README.md.

    python tests/bundles/generate.py [folder]

The output depends on nothing but this code. Needs the Python package `onnx`.
"""

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from onnx import TensorProto

import graphs
from graphs import CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, Spec

# Loop steps: about 1 s and 20 s on one core of a server.
SLOW_STEPS = 600_000
SLOW_VERY_STEPS = 12_000_000

# Mean of a window's pixels above which `failing` fails.
FAILING_MEAN = 128.0

Files = dict[str, bytes]
"""A bundle: the content of its files by their path in the folder."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(name: str, description: str, spec: Spec, files: Files) -> bytes:
    """bundle.toml (DESIGN.md section 4) for the graphs in `files`; `<graph>.onnx.data` is that graph's weight file."""
    lengths = str(list(spec.lengths) if len(spec.lengths) > 1 else spec.lengths[0])
    text = f"""\
format = 1
name = "{name}"
version = "1.0.0"
license = "MPL-2.0"
description = "{description}"
trained_on = "nothing: generated for tests"

[window]
frames = {lengths}
overlap = {spec.overlap}

[frame]
width = {spec.width}
height = {spec.height}

[latent]
channels = {CHANNELS}
spatial_stride = {SPATIAL_STRIDE}
temporal_stride = {TEMPORAL_STRIDE}

[diffusion]
timestep = 0.4
"""
    for graph in ("encoder", "prior", "dit", "decoder"):
        path = f"{graph}.onnx"
        if path not in files:
            continue
        text += f'\n[graphs.{graph}]\npath = "{path}"\nsha256 = "{sha256(files[path])}"\n'
        data = f"{path}.data"
        if data in files:
            text += f'weights = [{{ path = "{data}", sha256 = "{sha256(files[data])}" }}]\n'
    return text.encode()


def bundle(name: str, description: str, spec: Spec, **changed: bytes | None) -> Files:
    """A bundle that adds one to every pixel; `changed` replaces graphs (encoder, prior, dit, decoder), None omits."""
    built = {
        "encoder": graphs.encoder(spec),
        "prior": graphs.prior(spec),
        "dit": graphs.dit(spec, graphs.fixed(1.0)),
        "decoder": graphs.decoder(spec),
    }
    files = {f"{graph}.onnx": data for graph, data in (built | changed).items() if data is not None}
    return with_manifest(name, description, spec, files)


def with_manifest(name: str, description: str, spec: Spec, files: Files) -> Files:
    return files | {"bundle.toml": manifest(name, description, spec, files)}


def external_bundle(name: str, description: str, spec: Spec, location: str) -> Files:
    """`brighter` whose dit reads its weights from `location`; dit.onnx.data is in the folder and in the manifest."""
    files = bundle(name, description, spec, dit=graphs.dit(spec, graphs.external(location)))
    return with_manifest(name, description, spec, files | {"dit.onnx.data": graphs.external_weights()})


def valid_bundles() -> dict[str, Files]:
    spec = Spec()
    long = Spec(lengths=(17,), overlap=4, width=64, height=64)
    half = replace(spec, float_type=TensorProto.FLOAT16)
    dynamic = replace(spec, lengths=(5, 9, 13))
    wide_overlap = replace(spec, overlap=2)
    same = graphs.dit(spec, graphs.fixed(0.0))

    bundles = {}

    def add(name: str, description: str, spec: Spec, **changed: bytes | None) -> None:
        bundles[name] = bundle(name, description, spec, **changed)

    add("identity", "gives every frame back as it was", spec, dit=same)
    add("brighter", "adds one to every value", spec)
    add("brighter-long", "adds one to every value, 17 frames of 64x64", long)
    add(
        "brighter-frames",
        "adds one to every value in a decoder that also takes the degraded frames",
        spec,
        dit=same,
        decoder=graphs.fidelity_decoder(spec, 1.0),
    )
    no_priors = graphs.dit(spec, graphs.fixed(1.0), priors=False)
    add("brighter-noprior", "adds one to every value, without a prior graph", spec, prior=None, dit=no_priors)
    add("brighter-f16", "adds one to every value, with float16 latents and priors", half)
    add("brighter-dynamic", "adds one to every value, 5, 9 or 13 frames", dynamic)
    add(
        "blend",
        "adds ten times the frame's place in the window",
        wide_overlap,
        dit=same,
        decoder=graphs.decoder(spec, slot_step=10),
    )
    bundles["external"] = external_bundle(
        "external", "adds one to every value, with an external weight file", spec, "dit.onnx.data"
    )
    slow, slow_very = (graphs.dit(spec, graphs.one_after(steps)) for steps in (SLOW_STEPS, SLOW_VERY_STEPS))
    add("slow", "adds one to every value in about a second", spec, dit=slow)
    add("slow-very", "adds one to every value in about twenty seconds", spec, dit=slow_very)
    failing = graphs.dit(spec, graphs.one_if_dark(FAILING_MEAN))
    add("failing", "adds one to every value, fails on bright frames", spec, dit=failing)
    return bundles


def edited(files: Files, old: str, new: str) -> Files:
    """The same bundle with `old`, which must be there once, replaced in its manifest."""
    text = files["bundle.toml"].decode()
    if text.count(old) != 1:
        raise ValueError(f"{old!r} is in the manifest {text.count(old)} times")
    return files | {"bundle.toml": text.replace(old, new).encode()}


def broken_bundles(valid: dict[str, Files]) -> dict[str, Files]:
    """Bundles with exactly one fault each, by name."""
    spec = Spec()
    half = replace(spec, float_type=TensorProto.FLOAT16)
    # The largest multiple of 8, and of the form 4n + 1, below 2^32: a product of two no longer fits 64 bits of bytes.
    huge = Spec(lengths=(2**32 - 3,), width=2**32 - 8, height=2**32 - 8)
    bundles = {}

    def add(name: str, *, spec: Spec = spec, **changed: bytes | None) -> Files:
        bundles[name] = bundle(name, f"broken: {name}", spec, **changed)
        return bundles[name]

    def edit(name: str, old: str, new: str) -> None:
        bundles[name] = edited(add(name), old, new)

    # Files.
    del add("missing-file")["encoder.onnx"]
    whole = graphs.encoder(spec)
    add("truncated-graph", encoder=whole[: len(whole) // 2])
    noise = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(8))
    add("not-onnx", encoder=noise)
    right = sha256(whole)
    edit("wrong-checksum", right, ("0" if right[0] != "0" else "1") + right[1:])
    # Both targets are there and have the right checksum, so only the path itself can be the reason to refuse.
    edit("escaping-path", 'path = "encoder.onnx"', 'path = "../../identity/encoder.onnx"')
    assert sha256(valid["identity"]["encoder.onnx"]) == right
    bundles["escaping-external"] = external_bundle(
        "escaping-external", "broken: escaping-external", spec, "../../external/dit.onnx.data"
    )
    edit("absolute-path", 'path = "encoder.onnx"', 'path = "/encoder.onnx"')
    unlisted = add("unlisted-external", dit=graphs.dit(spec, graphs.external("dit.onnx.data")))
    unlisted["dit.onnx.data"] = graphs.external_weights()

    # Graphs against the contract, and against the manifest.
    add("wrong-type", encoder=graphs.encoder(spec, elem_type=TensorProto.FLOAT))
    half_dit = graphs.dit(half, graphs.fixed(1.0))
    add("wrong-type-latent", prior=graphs.prior(half), dit=half_dit, decoder=graphs.decoder(half))
    add("wrong-rank", encoder=graphs.encoder(spec, rank=4))
    add("wrong-name", encoder=graphs.encoder(spec, name="images"))
    bundles["wrong-t"] = edited(add("wrong-t", spec=replace(spec, lengths=(9,))), "frames = 9\n", "frames = 5\n")
    add("prior-missing-input", dit=graphs.dit(spec, graphs.fixed(1.0), priors=False))
    # Manifest and graphs agree here: only the sizes are absurd.
    add("huge-dimensions", spec=huge)

    # Manifests.
    add("not-toml")["bundle.toml"] = b"<bundle format='1'><name>not-toml</name></bundle>\n"
    edit("wrong-format", "format = 1\n", "format = 2\n")
    edit("unknown-key", "height = 32\n", "height = 32\ndepth = 3\n")
    edit("missing-field", "height = 32\n", "")
    edit("bad-overlap", "overlap = 1\n", "overlap = 5\n")
    return bundles


def all_bundles() -> dict[str, Files]:
    """Every bundle by its folder."""
    valid = valid_bundles()
    return valid | {f"broken/{name}": files for name, files in broken_bundles(valid).items()}


def generate(root: Path) -> None:
    """Writes every bundle below `root`, each into an emptied folder."""
    for folder, files in all_bundles().items():
        path = root / folder
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        for name, data in files.items():
            (path / name).write_bytes(data)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
