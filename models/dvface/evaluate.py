"""Measures a bundle on clean clips: degrades them, restores them through the GStreamer element, compares with the
clean ones.

    python -m dvface.evaluate --model models/dvface-nano --data DIR [--presets strong medium light clean]

What is measured is what ships: the frames go through `gst-launch-1.0 … ! dvfacerestore ! …` as raw RGB, without a
codec.
The element must be found (GST_PLUGIN_PATH).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from .degradation import PRESETS, Degradation
from .video import read_video


@dataclass
class Result:
    """Means over a clip's frames."""

    clip: str
    preset: str
    psnr_input: float
    psnr_restored: float
    ssim_input: float
    ssim_restored: float


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames of the PSNR in dB of u8 clips [T, H, W, 3]; a frame without error counts as 100 dB."""
    error = np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, axis=(1, 2, 3))
    return float(np.mean(np.minimum(100.0, 10.0 * np.log10(255.0**2 / np.maximum(error, 1e-10)))))


def ssim(a: np.ndarray, b: np.ndarray, every: int = 4) -> float:
    """Mean SSIM (Gaussian window, sigma 1.5, as Wang 2004) of every fourth frame of u8 clips [T, H, W, 3]."""
    settings = dict(channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    return float(
        np.mean([structural_similarity(x, y, **settings) for x, y in zip(a[::every], b[::every], strict=True)])
    )


def restore(model: str, frames: np.ndarray, fps: int = 25, properties: tuple[str, ...] = ()) -> np.ndarray:
    """Restores u8 RGB frames [T, H, W, 3] through the element, in a process of gst-launch-1.0.

    Raises RuntimeError, with what gst-launch-1.0 printed, where it fails or loses frames.
    """
    _, height, width, _ = frames.shape
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.rgb"), Path(folder, "out.rgb")
        frames.tofile(source)
        parse = f"rawvideoparse format=rgb width={width} height={height} framerate={fps}/1"
        if width * 3 % 4:
            parse += f" plane-strides=<{width * 3}>"
        element = f"dvfacerestore model={model} {' '.join(properties)}"
        line = f"filesrc location={source} ! {parse} ! {element} ! filesink location={target}"
        run = subprocess.run(["gst-launch-1.0", "-q", *line.split()], capture_output=True, text=True, env=os.environ)
        if run.returncode:
            raise RuntimeError(f"gst-launch-1.0 {line}: {run.stdout}{run.stderr}")
        restored = np.fromfile(target, np.uint8)
    if restored.size != frames.size:
        raise RuntimeError(f"gst-launch-1.0 {line}: {frames.size} bytes in, {restored.size} out")
    return restored.reshape(frames.shape)


def measure(model: str, clip: Path, preset: str, limit: int | None) -> Result:
    """Degrades, restores and compares one clip; the degradation's seed follows from the file's name."""
    clean = read_video(clip, count=limit)
    degraded = Degradation(preset, zlib.crc32(f"{clip.name}:{preset}".encode()))(clean)
    restored = restore(model, degraded)
    return Result(
        clip.name, preset, psnr(degraded, clean), psnr(restored, clean), ssim(degraded, clean), ssim(restored, clean)
    )


def table(results: list[Result]) -> str:
    """Markdown: a row a clip, and the mean of each preset."""
    lines = ["| preset | clip | PSNR in | PSNR out | gain dB | SSIM in | SSIM out |", "|---|---|---|---|---|---|---|"]

    def row(preset: str, name: str, rows: list[Result]) -> str:
        a, b, c, d = (
            float(np.mean([getattr(r, field) for r in rows]))
            for field in ("psnr_input", "psnr_restored", "ssim_input", "ssim_restored")
        )
        return f"| {preset} | {name} | {a:.2f} | {b:.2f} | {b - a:+.2f} | {c:.4f} | {d:.4f} |"

    for preset in dict.fromkeys(result.preset for result in results):
        rows = [result for result in results if result.preset == preset]
        lines += [row(preset, result.clip, [result]) for result in rows]
        lines.append(row(f"**{preset}**", "**mean**", rows))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="bundle: a name or the path of a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of clean clips")
    parser.add_argument("--pattern", default="*.mp4", help="which files of it (default *.mp4)")
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["strong", "medium", "light", "clean"])
    parser.add_argument("--frames", type=int, help="only the first frames of each clip")
    args = parser.parse_args()
    clips = sorted(args.data.glob(args.pattern))
    if not clips:
        print(f"error: no {args.pattern} in {args.data}", file=sys.stderr)
        return 1
    model = str(Path(args.model).resolve()) if os.sep in args.model else args.model
    results = [measure(model, clip, preset, args.frames) for preset in args.presets for clip in clips]
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
