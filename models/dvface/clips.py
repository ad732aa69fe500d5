# SPDX-License-Identifier: MPL-2.0
"""Samples for training and validation, from a cache of clean and degraded clips (data.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from dvface.backdrop import composite
from dvface.data import CLEAN, INDEX, read_index, shuffled
from dvface.defocus import defocus
from dvface.degradation import PRESETS, Degradation, encode
from dvface.face_region import Box, central_box
from dvface.lighting import random_light, relight
from dvface.overlays import Overlay
from dvface.sources import square, stable_hash

FRESH = ("soft", "ringing")
"""Presets that the cache has not: cheap enough to be made when they are drawn, so no two samples are alike."""
STAGE_LIGHT = 0.06
"""Least gain of a colour in recoloured samples: almost one colour alone, as under stage lights."""
PUBLISHED_BITS = (1e5, 8e5)
"""Bits a 512x512 frame that web video has: what a degradation left is kept, what it was smoothed."""
REDUCED = (0.4, 0.9)
"""Scale of reduced samples."""
VIEWS = ("whole", "halved", "composited")
"""What a held-out clip is turned into before it is degraded."""
DEFAULT_MIX = {"strong": 0.5, "medium": 0.3, "light": 0.1, "clean": 0.1}


def scaled_down(clip: np.ndarray, side: int) -> np.ndarray:
    """A clip u8 [T, n, n, 3] at [T, side, side, 3], each pixel the mean of what it covers; itself where n = side."""
    if clip.shape[1] == side:
        return clip
    return np.stack([square(frame, side) for frame in clip])


def face_of(line: dict) -> Box | None:
    """Box of the face in an index line's clip, in pixels: the detector's, None where that found none; where none was
    asked, the middle, as face crops are."""
    face = line.get("face", central_box(line["size"], line["size"]))
    return face and tuple(face)


def shown_face(line: dict) -> Box:
    """The same, but the middle also where a detector found none."""
    return face_of(line) or central_box(line["size"], line["size"])


def crop_of(face: Box | None, left: int, top: int, scale: float) -> Box | None:
    """The box in a crop whose corner is at (left, top), scaled by `scale`."""
    return face and ((face[0] - left) * scale, (face[1] - top) * scale, face[2] * scale, face[3] * scale)


class ClipDataset:
    """Pairs of clean and degraded clips of one split of a cache, memory-mapped.

    mix: weight of each preset in `sample`; `clean` is the clean clip as its own degraded version, and those of FRESH
    are made from the clean clip, as are all where the cache has clean clips alone. Others that the cache lacks are left
    out. photo_probability: how often a sample comes from a photo rather than from a clip. Shares of samples: mirrored,
    flipped left-right; reversed, backwards in time; recoloured, seen in other colours; defocused, whose clean side is
    partly out of focus; published, whose degraded side goes through one more encoder, as clips do on their way to the
    web. Of the samples from clips, `composited` stand before another one's picture (backdrop.py) and are degraded anew,
    and `reduced` are scaled down and degraded anew: most clips of the web are softer than their pixels allow, and a
    restorer that never saw a sharper one takes what is slightly soft for clean. Photos are sharp enough. Of all
    samples, `overlaid` have bars or a caption (overlays.py), which are degraded with the picture in some and as sharp
    on both sides in most.
    FileNotFoundError if there is no cache, or it has no entry of that split; ValueError for an unknown preset.
    """

    def __init__(
        self,
        cache: str | Path,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        photo_probability: float = 0.4,
        recoloured: float = 0.0,
        defocused: float = 0.0,
        published: float = 0.0,
        reduced: float = 0.0,
        overlaid: float = 0.0,
        composited: float = 0.0,
        mirrored: float = 0.5,
        reversed: float = 0.5,
    ) -> None:
        self.cache, self.split = Path(cache), split
        self.recoloured, self.defocused, self.published, self.reduced = recoloured, defocused, published, reduced
        self.overlaid, self.composited = overlaid, composited
        self.mirrored, self.reversed = mirrored, reversed
        self.mix = dict(DEFAULT_MIX if mix is None else mix)
        unknown = set(self.mix) - set(PRESETS)
        if unknown or any(weight < 0 for weight in self.mix.values()) or sum(self.mix.values()) <= 0:
            raise ValueError(f"mix: expected weights for {', '.join(PRESETS)}, found {self.mix}")
        self.kinds = {"photo": photo_probability, "video": 1 - photo_probability}
        self.refresh()

    def refresh(self) -> int:
        """Read the index again, for a cache that is still being built; returns the number of pairs."""
        found = read_index(self.cache)
        lines = [line for line in found if line["split"] == self.split]
        # The builder's processes finish in any order; this one is the same on every machine.
        self.pairs = sorted(lines, key=lambda line: (shuffled(line["id"]), line["degraded"]))
        self._groups: dict[int, dict[tuple[str, str], tuple[float, list[dict]]]] = {}
        if not self.pairs:
            index = self.cache / INDEX
            if not index.exists():
                raise FileNotFoundError(f"{self.cache}: no such cache: expected {INDEX}, which dvface.data writes")
            why = "it is empty"
            if found:
                who = "everyone" if self.split == "train" else "nobody"
                why = f"{who} is held out (--validation-people and --validation-photos of dvface.data)"
            raise FileNotFoundError(f"{index}: no entry of split {self.split!r}: {why}")
        return len(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def _choices(self, frames: int) -> dict[tuple[str, str], tuple[float, list[dict]]]:
        """Weight and pairs of at least `frames` frames, for each (kind, preset) of the mix that the cache has."""
        if frames not in self._groups:
            groups = {}
            clean_alone = all(line["preset"] == CLEAN for line in self.pairs)
            fresh = tuple(PRESETS) if clean_alone else (CLEAN, *FRESH)
            for kind, share in self.kinds.items():
                pairs = [line for line in self.pairs if line["kind"] == kind and line["frames"] >= frames]
                for preset, weight in self.mix.items():
                    # Any pair has a clean side.
                    lines = pairs if preset in fresh else [x for x in pairs if x["preset"] == preset]
                    if share * weight > 0 and lines:
                        groups[kind, preset] = (share * weight, lines)
            self._groups[frames] = groups
        return self._groups[frames]

    def drawable(self, lengths: Iterable[int]) -> list[dict]:
        """Index lines that samples of these numbers of frames can come from."""
        lines = (line for frames in lengths for _, found in self._choices(frames).values() for line in found)
        return list({line["degraded"]: line for line in lines}.values())

    def notes(self, lengths: Iterable[int]) -> list[str]:
        """What a user should know who wants samples of these numbers of frames: entries that are shorter than all."""
        least, most = min(lengths), max(lengths)
        names = {"photo": ("photos", "--photo-frames"), "video": ("segments of clips", "--segment-frames")}
        short = {(line["kind"], line["frames"], line["id"]) for line in self.pairs if line["frames"] < least}
        counts = Counter((kind, frames) for kind, frames, _ in short if self.kinds[kind] > 0)
        return [
            f"{count} {names[kind][0]} of {frames} frames take part in no phase, the shortest of which has {least}; "
            f"build the cache anew with {names[kind][1]} {most}"
            for (kind, frames), count in sorted(counts.items())
        ]

    def check(self, frames: int, size: int) -> None:
        """Raises ValueError where no entry has that many frames or pixels."""
        if not self._choices(frames) or size > self.pairs[0]["size"]:
            raise ValueError(
                f"{self.cache}: no {self.split} entry of {frames} frames of {size}x{size} for mix {self.mix}"
            )

    def sample(self, rng: np.random.Generator, frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A random crop: (clean, degraded), uint8 [frames, size, size, 3] each, contiguous, at the same place.

        The corner is a multiple of 8 pixels, so that codec blocks keep their place. ValueError if no entry has that
        many frames or pixels.
        """
        self.check(frames, size)
        groups = self._choices(frames)
        keys = list(groups)
        weights = np.array([groups[key][0] for key in keys])
        kind, preset = keys[int(rng.choice(len(keys), p=weights / weights.sum()))]
        lines = groups[kind, preset][1]
        line = lines[int(rng.integers(len(lines)))]
        first = int(rng.integers(line["frames"] - frames + 1))
        # No draw where a share is 0: the samples of a seed stay what they were.
        side = size
        if self.reduced > 0 and kind == "video" and rng.uniform() < self.reduced:
            side = min(round(size / rng.uniform(*REDUCED)), line["size"])
        top, left = (8 * int(v) for v in rng.integers((line["size"] - side) // 8 + 1, size=2))
        where = (slice(first, first + frames), slice(top, top + side), slice(left, left + side))
        mirrored, reverse = rng.uniform(size=2) < (self.mirrored, self.reversed)

        def cut(name: str) -> np.ndarray:
            crop = np.load(self.cache / name, mmap_mode="r")[where][:: -1 if reverse else 1]
            # cv2.flip: NumPy copies a mirrored picture byte by byte.
            return np.stack([cv2.flip(np.ascontiguousarray(frame), 1) if mirrored else frame for frame in crop])

        clean = scaled_down(cut(line["clean"]), size)
        face = crop_of(face_of(line), left, top, size / side)
        if face and mirrored:
            face = (size - face[0] - face[2], *face[1:])
        is_stored = side <= size and line["preset"] == preset
        return self._varied(line, clean, preset, (lambda: cut(line["degraded"])) if is_stored else None, face, rng)

    def _varied(
        self,
        line: dict,
        clean: np.ndarray,
        preset: str,
        stored: Callable[[], np.ndarray] | None,
        face: Box | None,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(clean, degraded) of a clean crop of a line's clip before another picture, in another focus, with an overlay,
        through another encoder, under another light, as the shares say. `stored` reads the cache's degraded side; None
        where that is not of this crop or preset. `face`: its box in the crop, or beside it."""
        # Photos move as a whole under the camera, so their person would slide below the matte.
        if self.composited > 0 and face and line["kind"] == "video" and rng.uniform() < self.composited:
            clean, stored = composite(clean, self._other_picture(line, rng), face, rng), None
        if self.defocused > 0 and rng.uniform() < self.defocused:
            clean, stored = defocus(clean, rng, face), None
        overlay = Overlay(*clean.shape[1:3], rng) if self.overlaid > 0 and rng.uniform() < self.overlaid else None
        if overlay and preset != CLEAN and not stored and rng.uniform() < 0.5:
            clean, overlay = overlay.on(clean), None
        if preset == CLEAN:
            degraded = clean.copy()
        else:
            degraded = stored() if stored else Degradation(preset, int(rng.integers(2**53)))(clean)
        if overlay:  # on what is degraded already
            clean, degraded = overlay.on(clean), overlay.on(degraded)
        if self.published and preset != CLEAN and rng.uniform() < self.published:
            degraded = encode(degraded, np.exp(rng.uniform(*np.log(PUBLISHED_BITS))))
        if self.recoloured and rng.uniform() < self.recoloured:
            light, order = random_light(rng, STAGE_LIGHT), rng.permutation(3)
            clean, degraded = (relight(video[..., order], *light) for video in (clean, degraded))
        return clean, degraded

    def clips(self, frames: int) -> list[dict]:
        """One index line of each clip with at least `frames` frames, in a fixed shuffled order: any has its clean
        side."""
        first: dict[str, dict] = {}
        for line in self.pairs:
            if line["frames"] >= frames:
                first.setdefault(line["id"], line)
        return list(first.values())

    def pairs_of(self, preset: str, frames: int) -> list[dict]:
        """Index lines of a preset with at least `frames` frames, in a fixed shuffled order."""
        if preset in FRESH:
            return self.clips(frames)
        return [line for line in self.pairs if line["frames"] >= frames and line["preset"] == preset]

    def pair(
        self, line: dict, preset: str, frames: int, view: str = "whole", draw: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first `frames` frames (clean, degraded) of a clip's line, whole pictures u8 [frames, H, W, 3].

        `view`, one of VIEWS: as they are; at half their size, as `reduced` samples; before another one's picture, as
        `composited`. `draw`: degrade them anew, each number in another way; None for the line's own degraded side where
        it has that preset and the view is whole. ValueError for another view.
        """
        if view not in VIEWS:
            raise ValueError(f"view: expected one of {', '.join(VIEWS)}, found {view}")
        clean = self._whole(line["clean"], frames)
        if view == "halved":
            clean = scaled_down(clean, line["size"] // 2)
        elif view == "composited":
            rng = np.random.default_rng(stable_hash(f"{line['id']}/backdrop"))
            clean = composite(clean, self._other_picture(line, rng), shown_face(line), rng)
        if draw is None and view == "whole" and preset not in FRESH:
            return clean, self._whole(line["degraded"], frames)
        name = f"{line['id']}/{preset}" if draw is None else f"{line['id']}/{preset}/{draw}"
        return clean, Degradation(preset, stable_hash(name) % 2**53)(clean)

    def _other_picture(self, line: dict, rng: np.random.Generator) -> np.ndarray:
        """The first frame of a clip or photo of another person (where there is one), u8 RGB [H, W, 3]."""
        others = [other for other in self.pairs if other["person"] != line["person"]] or self.pairs
        return self._whole(others[int(rng.integers(len(others)))]["clean"], 1)[0]

    def _whole(self, name: str, frames: int) -> np.ndarray:
        """The first frames of an array of the cache, in memory."""
        return np.array(np.load(self.cache / name, mmap_mode="r")[:frames])
