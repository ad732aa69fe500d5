# SPDX-License-Identifier: MPL-2.0
"""Faces in full frames with a known truth: how well dvfacerestore finds, follows and restores them.

Builds clips of 1280x720 from clips of one face each (512x512): one, two and five people at known, moving places, who
enter, leave, cross, shake their heads and turn away. Prints a table: recall, changes of identity, error and shaking of
the boxes against the truth, for the element and for the same detector frame by frame; with --psnr the PSNR inside the
faces, in and out, with and without `match-colours`.

    cargo build --release --example tracks
    PYTHONPATH=models .venv/bin/python examples/faces/evaluate.py --clips A.mp4 B.mp4 C.mp4 D.mp4 E.mp4 \\
        --turning F.mp4 --detector yunet_n_dynamic.onnx --psnr
"""

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dvface.video import read_video

WIDTH, HEIGHT = 1280, 720
ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "tests/bundles/identity"
MIN_FACE = 48
"""min-face-size of the element, in pixels."""
INTERVAL = 2
"""The element's default of detect-interval."""
MAX_TURN = 1.2
"""The element's default of max-turn."""
TURNING = 5
"""Which of the clips is the one of a head that turns away."""
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""
Path2d = Callable[[float], tuple[float, float]]
"""Centre of a person's square at a frame."""


@dataclass(frozen=True)
class Person:
    """A clip of one face as a square of `side` pixels on a path, from frame `first` to `last`."""

    clip: int
    side: int
    path: Path2d
    first: int = 0
    last: int = 10**9


def detect(network: cv2.FaceDetectorYN, frame: np.ndarray) -> list[Box]:
    """Boxes of the faces in u8 RGB, best first."""
    network.setInputSize((frame.shape[1], frame.shape[0]))
    found = network.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
    return [] if found is None else [tuple(map(float, face[:4])) for face in found]


def truth_of(clip: np.ndarray, network: cv2.FaceDetectorYN) -> np.ndarray:
    """The face's box in each frame of a clip, [T, 4], smoothed over time in both directions: a face does not shake.

    Raises ValueError where no face is found in a frame.
    """
    found = [detect(network, frame) for frame in clip]
    if not all(found):
        raise ValueError(f"no face in frame {[bool(boxes) for boxes in found].index(False)}")
    boxes = np.array([boxes[0] for boxes in found])
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.5) ** 2)
    padded = np.pad(boxes, ((6, 6), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T], axis=1)


def turn_of(clip: np.ndarray, network: cv2.FaceDetectorYN) -> np.ndarray:
    """How far the face is turned away in each frame, [T]: the measure of max-turn (src/face/pose.rs)."""
    network.setInputSize((clip.shape[2], clip.shape[1]))
    turns = []
    for frame in clip:
        left, right, nose, *mouth = network.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1][0][4:14].reshape(5, 2)
        eyes, mouth = (left + right) / 2, sum(mouth) / 2
        down = mouth - eyes
        length = np.hypot(*down)
        out = abs((nose - eyes)[0] * down[1] - (nose - eyes)[1] * down[0]) / length
        turns.append(out / max(np.hypot(*(right - left)) / 2, length / 8))
    return np.array(turns)


def at_frame(index: int, length: int) -> int:
    """Frame of a clip of `length` frames that a scene shows: there and back, so that nothing jumps."""
    at = index % (2 * length - 2)
    return min(at, 2 * length - 2 - at)


def mask_of(side: int) -> np.ndarray:
    """What of a square is pasted: an ellipse with a soft edge, [side, side, 1]."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    return np.clip((1 - np.hypot(x, y)) / 0.15, 0, 1)[..., None].astype(np.float32)


def background() -> np.ndarray:
    """A wall with soft and hard edges, and no face."""
    random = np.random.default_rng(5)
    soft = cv2.resize(
        random.uniform(60, 190, (9, 16, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(30):
        x, y = int(random.integers(0, WIDTH)), int(random.integers(0, HEIGHT))
        colour = random.uniform(40, 210, 3)
        cv2.rectangle(soft, (x, y), (x + int(random.integers(20, 200)), y + int(random.integers(10, 120))), colour, -1)
    return soft


def build(people: list[Person], clips: dict[int, np.ndarray], truths: dict[int, np.ndarray], frames: int):
    """Frames u8 [T, H, W, 3], and for each frame the box of each person who is to be seen, else None.

    Who has less than 0.7 of the face in the picture or beside the squares of those who come later is not to be seen.
    """
    wall = background()
    scene, boxes = [], []
    for index in range(frames):
        picture = wall.copy()
        places: list[Box | None] = []
        for person in people:
            places.append(None)
            if not person.first <= index <= person.last:
                continue
            clip, truth = clips[person.clip], truths[person.clip]
            at = at_frame(index, len(clip))
            scale = person.side / clip.shape[1]
            x, y = (centre - person.side / 2 for centre in person.path(index))
            # Between pixels, too: the path is not rounded.
            matrix = np.float32([[scale, 0, x], [0, scale, y]])
            square = cv2.resize(clip[at], (person.side, person.side), interpolation=cv2.INTER_AREA).astype(np.float32)
            shift = np.float32([[1, 0, x], [0, 1, y]])
            mask = cv2.warpAffine(mask_of(person.side), shift, (WIDTH, HEIGHT))[..., None]
            picture += (cv2.warpAffine(square, shift, (WIDTH, HEIGHT)) - picture) * mask
            left, top, across, down = truth[at]
            box = (left * scale + matrix[0, 2], top * scale + matrix[1, 2], across * scale, down * scale)
            seen = min(box[0] + box[2], WIDTH) - max(box[0], 0), min(box[1] + box[3], HEIGHT) - max(box[1], 0)
            if min(seen) > 0 and seen[0] * seen[1] > 0.7 * box[2] * box[3]:
                places[-1] = box
            square_box = (x, y, float(person.side), float(person.side))
            for earlier, hidden in enumerate(places[:-1]):
                if hidden is not None and shared_area(hidden, square_box) > 0.3 * hidden[2] * hidden[3]:
                    places[earlier] = None
        scene.append(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
        boxes.append(places)
    return np.stack(scene), boxes


def degrade(scene: np.ndarray) -> np.ndarray:
    """Blur, noise and JPEG, as a webcam has them."""
    random = np.random.default_rng(3)
    out = []
    for frame in scene:
        blurred = cv2.GaussianBlur(frame, (0, 0), 1.4).astype(np.float32)
        noisy = np.clip(blurred + random.normal(0, 5, frame.shape), 0, 255).astype(np.uint8)
        jpeg = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        out.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
    return np.ascontiguousarray(np.stack(out))


def scenes() -> dict[str, list[Person]]:
    """Who is where."""

    def still(x: float, y: float) -> Path2d:
        return lambda _: (x, y)

    def line(x: float, y: float, dx: float, dy: float = 0) -> Path2d:
        return lambda frame: (x + dx * frame, y + dy * frame)

    def shaken(frame: float) -> tuple[float, float]:
        return 640 + 90 * np.sin(2 * np.pi * frame / 24), 360

    return {
        "one, still": [Person(0, 500, still(640.3, 360.7))],
        "one, walks": [Person(1, 420, line(330, 360, 5.3))],
        "one, shakes": [Person(2, 480, shaken)],
        "two, cross": [Person(0, 400, line(250, 330, 6.5)), Person(3, 360, line(1030, 380, -6.5))],
        "one enters, one leaves": [Person(4, 420, line(-300, 360, 8)), Person(1, 420, line(760, 360, 8))],
        "one, turns away": [Person(TURNING, 480, still(640.3, 360.7))],
        "five": [
            Person(0, 300, still(180, 200)),
            Person(1, 260, line(480, 220, 0.9)),
            Person(2, 320, line(1100, 240, -1.3)),
            Person(3, 280, line(330, 540, 0, -0.4), first=20),
            Person(4, 300, still(860, 540), last=80),
        ],
    }


def run(frames: np.ndarray, detector: Path, options: list[str], output: Path | None = None) -> list[dict[int, Box]]:
    """The faces that the element tells of, by track, for each frame of u8 RGB; what comes out goes to `output`.

    With `output` the frames stay RGB: a conversion to Y'CbCr and back costs more than what is measured.
    """
    with tempfile.NamedTemporaryFile(suffix=".rgb") as raw:
        frames.tofile(raw)
        raw.flush()
        kind = "RGB" if output else "I420"
        line = f"filesrc location={raw.name} blocksize={WIDTH * HEIGHT * 3} ! ".split()
        line += f"rawvideoparse format=rgb width={WIDTH} height={HEIGHT} framerate=25/1 ! ".split()
        line += f"videoconvert ! video/x-raw,format={kind} ! ".split()
        line += ["dvfacerestore", "region=detect", f"detector={detector}", "max-faces=8", "provider=cpu", *options, "!"]
        line += ["filesink", f"location={output}"] if output else ["fakesink"]
        tool = os.environ.get("DVFACE_TRACKS", str(ROOT / "target/release/examples/tracks"))
        plugin = {"GST_PLUGIN_PATH": str(ROOT / "target/release")}
        run = subprocess.run([tool, *line], check=True, stdout=subprocess.PIPE, text=True, env=plugin | os.environ)
        text = run.stdout
    found: list[dict[int, Box]] = [{} for _ in frames]
    for row in text.splitlines():
        index, track, *box, _ = row.split(",")
        found[int(index)][int(track)] = tuple(map(float, box))
    return found


def shared_area(a: Box, b: Box) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)


def overlap(a: Box, b: Box) -> float:
    shared = shared_area(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def measure(found: list[dict[int, Box]], truth: list[list[Box | None]]) -> dict[str, float]:
    """Recall (share), changes of identity, error and shaking of the centre (root mean squares, pixels)."""
    seen = hits = switches = 0
    errors, steps = [], []
    for person in range(len(truth[0])):
        own = []
        last_track, last_error, last_frame = None, None, None
        for index, boxes in enumerate(truth):
            box = boxes[person]
            if box is None:
                continue
            seen += 1
            track = max(found[index], key=lambda key: overlap(found[index][key], box), default=None)
            if track is None or overlap(found[index][track], box) < 0.4:
                continue
            hits += 1
            switches += last_track not in (None, track)
            other = found[index][track]
            error = np.array(
                [other[0] + other[2] / 2 - box[0] - box[2] / 2, other[1] + other[3] / 2 - box[1] - box[3] / 2]
            )
            own.append(error)
            if last_frame == index - 1:
                steps.append(error - last_error)
            last_track, last_error, last_frame = track, error, index
        # What is constant is the detector's idea of a face, not an error of the path.
        errors += [error - np.mean(own, axis=0) for error in own]
    root = np.sqrt(np.mean(np.square(errors) * 2)) if errors else np.nan
    shaking = np.sqrt(np.mean(np.square(steps) * 2)) if steps else np.nan
    return {"recall": hits / seen, "switches": switches, "error": root, "step": shaking}


def spread(found: list[dict[int, Box]], truth: list[list[Box | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations of the one person's boxes around the truth in heights of the face: x, y, width, height, [4].

    First of all that is not constant; then of what is new in each frame, as noise without memory would be.
    """
    off = []
    for faces, (box,) in zip(found, truth, strict=True):
        if box is None or not faces:
            continue
        own = np.array(max(faces.values(), key=lambda face: overlap(face, box)))
        difference = own - np.array(box)
        difference[:2] += difference[2:] / 2
        off.append(difference / box[3])
    return np.std(off, axis=0), np.std(np.diff(off, axis=0), axis=0) / np.sqrt(2)


def psnr_in_faces(picture: np.ndarray, clean: np.ndarray, truth: list[list[Box | None]]) -> float:
    """PSNR of RGB inside the ellipses of the faces, dB, over all frames together."""
    squares, count = 0.0, 0
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for frame, right, boxes in zip(picture, clean, truth, strict=True):
        for left, top, across, down in filter(None, boxes):
            inside = ((x - left) / across * 2 - 1) ** 2 + ((y - top) / down * 2 - 1) ** 2 <= 1
            difference = frame[inside].astype(np.float64) - right[inside]
            squares += np.square(difference).sum()
            count += difference.size
    return 10 * np.log10(255**2 * count / squares)


def report(name: str, method: str, values: dict[str, float], *psnr: float) -> None:
    numbers = f"{values['recall']:.3f} | {values['switches']} | {values['error']:.2f} | {values['step']:.2f}"
    cells = "".join(f" | {value:.2f}" for value in psnr)
    print(f"| {name} | {method} | {numbers}{cells} |", flush=True)


def report_turn(found: list[dict[int, Box]], turns: np.ndarray) -> None:
    """Prints in how many frames a face that turns away was restored: turned beyond the limit, and not."""
    shown = np.array([bool(faces) for faces in found])
    now = np.array([turns[at_frame(index, len(turns))] for index in range(len(found))])
    away = now > MAX_TURN
    print(f"turned away (> {MAX_TURN}): {shown[away].sum()} of {away.sum()} frames restored; ", end="")
    print(f"else: {shown[~away].sum()} of {(~away).sum()}; frames restored: {''.join('.#'[int(s)] for s in shown)}")
    print(f"turned away by frame: {' '.join(f'{turn:.1f}' for turn in now)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs=TURNING, required=True, help="clips of five people")
    parser.add_argument("--turning", type=Path, required=True, help="a clip of someone who turns away")
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--intervals", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of the clips to make")
    parser.add_argument("--psnr", action="store_true", help="restore with dvface-nano, and measure")
    parser.add_argument("--noise", action="store_true", help="print how far the detector's boxes spread")
    parser.add_argument("--pictures", type=Path, help="folder for input and output of some frames (with --psnr)")
    args = parser.parse_args()
    network = cv2.FaceDetectorYN.create(str(args.detector), "", (320, 320), 0.7)
    wanted = {name: people for name, people in scenes().items() if any(part in name for part in args.only)}
    paths = [*args.clips, args.turning]
    clips = {at: read_video(paths[at]) for at in {person.clip for people in wanted.values() for person in people}}
    if TURNING in clips:
        # It turns to the camera; shown from the last frame backwards it turns away, and back where frames are enough.
        clips[TURNING] = clips[TURNING][::-1]
    truths = {at: truth_of(clip, network) for at, clip in clips.items()}
    psnr = " PSNR in | matched colours | own colours |" if args.psnr else ""
    print(f"| clip | method | recall | changes of identity | error, px | step, px |{psnr}")
    print("|---|---|---|---|---|---|" + "---|" * 3 * args.psnr)
    for name, people in wanted.items():
        clean, truth = build(people, clips, truths, args.frames)
        scene = degrade(clean)
        small = [cv2.resize(frame, (320, 180), interpolation=cv2.INTER_LINEAR) for frame in scene]
        # The detector's boxes by their order, best first, as who has no tracker takes them.
        alone = [
            {at: tuple(value * 4 for value in box) for at, box in enumerate(detect(network, frame))} for frame in small
        ]
        report(name, "boxes frame by frame", measure(alone, truth))
        if args.noise and len(people) == 1:
            for what, values in zip(("all", "new in each frame"), spread(alone, truth), strict=True):
                print(f"spread of x, y, width, height in heights of the face, {what}: {values.round(4)}", flush=True)
        for interval in args.intervals:
            options = [f"detect-interval={interval}", f"model={BUNDLE}", f"min-face-size={MIN_FACE}"]
            found = run(scene, args.detector, options)
            psnrs = psnr_of(name, scene, clean, truth, args) if args.psnr and interval == INTERVAL else []
            report(name, f"region=detect, every {interval}", measure(found, truth), *psnrs)
            if interval == INTERVAL and people[0].clip == TURNING:
                report_turn(found, turn_of(clips[TURNING], network))


def psnr_of(
    name: str, scene: np.ndarray, clean: np.ndarray, truth: list[list[Box | None]], args: argparse.Namespace
) -> list[float]:
    """The PSNR inside the faces of the input, and of what comes out with match-colours on and off, dB."""
    results = [psnr_in_faces(scene, clean, truth)]
    for matches in ("true", "false"):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out.rgb"
            run(scene, args.detector, [f"model={ROOT / 'models/dvface-nano'}", f"match-colours={matches}"], output)
            restored = np.fromfile(output, np.uint8).reshape(scene.shape)
        results.append(psnr_in_faces(restored, clean, truth))
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            for index in range(0, len(scene), max(len(scene) // 3, 1)):
                pair = np.concatenate([scene[index], restored[index]])[..., ::-1]
                cv2.imwrite(str(args.pictures / f"{name}, match-colours={matches}, {index}.png"), pair)
    return results


if __name__ == "__main__":
    main()
