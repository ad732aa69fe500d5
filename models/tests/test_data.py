# SPDX-License-Identifier: MPL-2.0
"""The cache: split by person, evaluation data refused, resumable, and the crops that come out of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_files import OPTIONS, moving, save_png, write_data
from skimage import data as pictures

from dvface import data
from dvface.camera import camera_path, photo_clip
from dvface.clips import ClipDataset, crop_of, face_of
from dvface.data import BuildOptions, build, plan, psnr, read_index
from dvface.degradation import Degradation
from dvface.lighting import LUMA, random_light, relight
from dvface.sources import scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cache")
    build(scan(folder / "train"), out, OPTIONS, workers=2)
    return out


def test_split_by_person_is_disjoint(cache):
    lines = read_index(cache)
    people = {split: {x["person"] for x in lines if x["split"] == split} for split in ("train", "validation")}
    assert people["train"] and people["validation"] and not people["train"] & people["validation"]
    videos = {x["person"] for x in lines if x["kind"] == "video"}
    assert videos == {"a", "b", "c"}
    assert len(videos & people["validation"]) == 1
    assert len({x["person"] for x in lines if x["kind"] == "photo"} & people["validation"]) == 2


def test_index_lines(cache):
    for line in read_index(cache):
        clean, degraded = np.load(cache / line["clean"]), np.load(cache / line["degraded"])
        assert clean.shape == degraded.shape == (line["frames"], 64, 64, 3)
        assert clean.dtype == degraded.dtype == np.uint8
        assert line["psnr"] == pytest.approx(psnr(clean, degraded), abs=0.01)
        assert np.array_equal(Degradation(line["preset"], line["seed"])(clean), degraded)
    presets = {x["preset"] for x in read_index(cache) if x["split"] == "validation"}
    assert presets == {"strong", "medium", "light"}


def test_segments_do_not_overlap(cache):
    lines = read_index(cache)
    starts = {(x["source"], x["start"]) for x in lines if x["split"] == "train" and x["kind"] == "video"}
    for source in {source for source, _ in starts}:
        assert sorted(start for s, start in starts if s == source) == [0, 7]


def test_second_build_does_nothing(folder, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    lines = build(scan(folder / "train"), cache, OPTIONS, workers=1)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == before
    assert len(lines) == len({line["degraded"] for line in lines}) == len(read_index(cache))


def test_stopped_build_is_resumed(folder, cache, tmp_path):
    sources = [source for source in scan(folder / "train") if source.kind == "video"]
    options = BuildOptions(**{**vars(OPTIONS), "validation_photos": 0})
    whole = build(sources, tmp_path, options, workers=1)
    index = tmp_path / data.INDEX
    texts = index.read_text().splitlines()
    index.write_text("\n".join(texts[:3]) + "\n" + texts[3][:40])  # the last line is cut off
    lost = tmp_path / json.loads(texts[0])["degraded"]
    lost.unlink()
    stale = tmp_path / json.loads(texts[-1])["clean"]
    np.save(stale, np.zeros((1, 2, 2, 3), np.uint8))  # a clean array without a line in the index is not trusted
    again = build(sources, tmp_path, options, workers=1)
    assert sorted(x["degraded"] for x in again) == sorted(x["degraded"] for x in whole)
    assert lost.exists() and np.load(stale).shape[1:] == (64, 64, 3)
    assert len(index.read_text().splitlines()) == len(whole)
    assert not list(tmp_path.rglob("*.tmp"))


def test_other_options_need_another_folder(folder, cache):
    with pytest.raises(ValueError, match="built with other options"):
        build(scan(folder / "train"), cache, BuildOptions(**{**vars(OPTIONS), "segment_frames": 6}), workers=1)


def test_other_light_needs_another_folder(folder, tmp_path):
    """A cache that says nothing of it, as they were before, is taken as it is."""
    sources = scan(folder / "train")
    lines = build(sources, tmp_path, OPTIONS, workers=1)
    assert {line["relit"] for line in lines} == {True, False}
    natural = BuildOptions(**{**vars(OPTIONS), "relit_every": 0})
    with pytest.raises(ValueError, match="built with other options"):
        build(sources, tmp_path, natural, workers=1)
    data.write_index(tmp_path, [{k: v for k, v in line.items() if k != "relit"} for line in lines])
    assert len(build(sources, tmp_path, natural, workers=1)) == len(lines)


def test_order_of_the_build(folder):
    jobs, notes = plan(scan(folder / "train"), OPTIONS)
    kinds = ["validation" if j.split == "validation" else f"{j.source.kind} {j.variants[0][1]}" for j in jobs]
    first_video, first_photo = kinds.index("video strong"), min(i for i, k in enumerate(kinds) if "photo" in k)
    assert kinds[0] == "validation" and max(i for i, k in enumerate(kinds) if k == "validation") < first_video
    assert first_video < first_photo
    assert notes == []


def test_size_is_bounded(folder):
    sources = scan(folder / "train")
    jobs, _ = plan(sources, OPTIONS)

    def total(jobs: list) -> int:
        clean = {j.id: j.frames for j in jobs}
        return (sum(clean.values()) + sum(j.frames * len(j.variants) for j in jobs)) * 64 * 64 * 3

    limit = total(jobs) - 1
    fewer, notes = plan(sources, BuildOptions(**{**vars(OPTIONS), "max_gib": limit / 2**30}))
    assert total(fewer) <= limit and len(fewer) == len(jobs) - 1
    assert "1 of 6 photos left out" in notes[0]
    # A byte less than the training clips need: one segment makes room, which photos fill; those held out stay.
    train = [job for job in jobs if job.split == "train" and job.source.kind == "video"]
    most = limit - total([job for job in jobs if job.source.kind == "photo" and job.split == "train"]) - 1
    fewest, notes = plan(sources, BuildOptions(**{**vars(OPTIONS), "max_gib": most / 2**30}))
    assert total(fewest) <= most
    assert [job for job in fewest if job.split == "validation"] == [job for job in jobs if job.split == "validation"]
    segments = len({job.id for job in train})
    assert f"1 of {segments} segments of clips left out: beyond" in notes[0] and "of 6 photos left out" in notes[1]
    held_out = total([job for job in jobs if job.split == "validation"])
    more = f"max_gib 0.0001: the held-out clips alone need {(held_out - 0.0001 * 2**30) / 2**10:.1f} KiB more$"
    with pytest.raises(ValueError, match=more):
        plan(sources, BuildOptions(**{**vars(OPTIONS), "max_gib": 0.0001}))


def test_size_counts_what_the_cache_has(folder, tmp_path, capsys):
    """A second command's data come on top of the first one's."""
    sources = scan(folder / "train")
    clips, photos = ([s for s in sources if (s.kind == "photo") == is_photo] for is_photo in (False, True))
    first = build(clips, tmp_path, OPTIONS, workers=1)

    def bytes_of(lines: list[dict]) -> int:
        return sum(x["frames"] * 64 * 64 * 3 for x in {x[s]: x for x in lines for s in ("clean", "degraded")}.values())

    def bounded(size: float) -> BuildOptions:
        return BuildOptions(**{**vars(OPTIONS), "max_gib": size / 2**30})

    jobs, notes = plan(clips, bounded(bytes_of(first)), first)
    assert notes == [] and len(jobs) == len(plan(clips, OPTIONS)[0]), "what is there needs no more room"
    half = [line for line in first if line["preset"] != "medium"]
    assert plan(clips, bounded(bytes_of(first)), half) == (jobs, notes), "nor does a build that was stopped"
    assert plan(clips, bounded(1), first) == (jobs, notes), "nor where it is too much already"
    alone = sum(sum(job.arrays.values()) for job in plan(photos, OPTIONS)[0])
    assert len(plan(photos, bounded(bytes_of(first) + alone), first)[0]) == len(plan(photos, OPTIONS)[0])
    limit = bytes_of(first) + alone - 1
    assert bytes_of(build(photos, tmp_path, bounded(limit), workers=1)) <= limit
    assert "note: 1 of 6 photos left out: beyond" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"held-out clips alone need .* more beside [0-9.]+ MiB that the cache has"):
        plan(photos, bounded(bytes_of(first)), first)


@pytest.mark.parametrize(("size", "words"), [(51, "0.0 KiB"), (2**20 - 1, "1024.0 KiB"), (3 * 2**29, "1.5 GiB")])
def test_sizes_have_the_unit_that_suits_them(size, words):
    assert data._in_words(size) == words


def test_a_plan_that_leaves_nobody_to_train_with_says_so(folder):
    sources = scan(folder / "train")
    options = {**vars(OPTIONS), "validation_people": 6, "validation_photos": 8}
    jobs, notes = plan(sources, BuildOptions(**options))
    assert {job.split for job in jobs} == {"validation"}
    assert notes == [
        "all 3 people of clips are held out; give a smaller --validation-people",
        "all 8 people of photos are held out; give a smaller --validation-photos",
    ]
    _, notes = plan(sources, BuildOptions(**options | {"validation_people": 2, "validation_photos": 7}))
    assert notes == []


def test_presets_of_training_clips_are_chosen(folder, tmp_path):
    lines = build(scan(folder / "train"), tmp_path, BuildOptions(**{**vars(OPTIONS), "presets": ("strong",)}))
    assert {line["preset"] for line in lines if line["split"] == "train"} == {"strong"}
    assert {line["preset"] for line in lines if line["split"] == "validation"} == {"strong", "medium", "light"}
    for wrong in ((), ("heavy",), ("light", "light")):
        with pytest.raises(ValueError, match="presets: expected some of strong, medium, light"):
            BuildOptions(presets=wrong)


def test_clean_clips_alone_are_degraded_when_drawn(folder, tmp_path):
    """A cache of clean clips has no second file for each, and gives samples of every preset."""
    options = BuildOptions(**{**vars(OPTIONS), "presets": ("clean",)})
    lines = build(scan(folder / "train"), tmp_path, options)
    train = [line for line in lines if line["split"] == "train"]
    assert all(line["degraded"] == line["clean"] for line in train)
    assert {file.name for file in (tmp_path / "train").rglob("*.npy")} == {"clean.npy"}
    assert build(scan(folder / "train"), tmp_path, options) == lines, "nothing is built twice"
    for preset in ("strong", "light"):
        dataset = ClipDataset(tmp_path, mix={preset: 1.0})
        pairs = [dataset.sample(np.random.default_rng(i), 3, 48) for i in range(4)]
        assert all(psnr(clean, degraded) < 45 for clean, degraded in pairs)


def test_a_wrong_preset_is_an_error_of_the_command_line(folder, tmp_path, capsys):
    command = ["--data", str(folder / "train"), "--out", str(tmp_path / "cache"), "--presets", "soft"]
    assert data.main(command) == 1
    assert "presets: expected some of strong, medium, light, found soft" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_short_clips_are_reported(folder):
    jobs, notes = plan(scan(folder / "train"), BuildOptions(**{**vars(OPTIONS), "segment_frames": 13}))
    assert not [job for job in jobs if job.source.kind == "video" and job.split == "train"]
    short = {f"video_clip{i} (12 of 13 frames)" for i in range(5)}
    before, named = notes[0].split(": ")
    assert before == "clips shorter than a segment left out" and set(named.split(", ")) < short
    _, notes = plan(scan(folder / "train"), BuildOptions(**{**vars(OPTIONS), "validation_frames": 14}))
    assert notes[0].endswith("(12 of 14 frames)")


def test_files_that_cannot_be_read_are_named_and_the_rest_is_built(tmp_path, capsys):
    root = tmp_path / "in"
    for n in range(6):
        save_png(root / f"good{n}.png", moving(1, n)[0])
    (root / "empty.jpg").write_bytes(b"")
    (root / "broken.mp4").write_bytes(b"no video")
    arguments = ["--data", root, "--out", tmp_path / "out", "--size", 64, "--photo-frames", 3]
    arguments += ["--validation-frames", 3, "--validation-people", 0, "--validation-photos", 1]
    assert data.main(list(map(str, arguments))) == 1
    told = capsys.readouterr().err
    assert "broken.mp4 left out: " in told and "all is built but what cannot be read: " in told
    assert "empty.jpg: not an image" in told
    assert len({line["person"] for line in read_index(tmp_path / "out")}) == 6


def test_unreadable_photo_stops_the_build(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no picture")
    assert data.main(["--data", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--size", "64"]) == 1
    assert "a.png: not an image" in capsys.readouterr().err


def test_photo_becomes_a_smooth_clip():
    photo = cv2.resize(pictures.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    corners = np.array([[0, 0, 1], [127, 0, 1], [0, 127, 1], [127, 127, 1]], float).T
    for seed in range(20):
        places = np.stack([m @ corners for m in camera_path(17, 128, np.random.default_rng(seed))])
        speed = np.diff(places, axis=0)
        assert np.abs(speed).max() < 0.03 * 128  # pixels a frame, at the corners
        assert np.abs(np.diff(speed, axis=0)).max() < 0.01 * 128
    clip = photo_clip(photo, 5, 1)
    assert clip.shape == (5, 128, 128, 3)
    assert np.array_equal(clip, photo_clip(photo, 5, 1)) and not np.array_equal(clip, photo_clip(photo, 5, 2))
    assert all(not np.array_equal(a, b) for a, b in zip(clip, clip[1:], strict=False))


def test_sample_is_the_same_place_of_both(cache):
    dataset = ClipDataset(cache, mix={"strong": 1.0})
    assert len(dataset) == len([x for x in read_index(cache) if x["split"] == "train"])
    arrays = {}
    for line in dataset.pairs:
        if line["preset"] == "strong":
            arrays[line["degraded"]] = (np.load(cache / line["clean"]), np.load(cache / line["degraded"]))
    rng = np.random.default_rng(0)
    for _ in range(10):
        clean, degraded = dataset.sample(rng, 3, 32)
        assert clean.shape == degraded.shape == (3, 32, 32, 3) and clean.flags.c_contiguous

        def places(crop, whole):
            return {
                (t, y, x, r, m)
                for r in (1, -1)
                for m in (1, -1)
                for t in range(len(whole) - 2)
                for y in range(0, 33, 8)
                for x in range(0, 33, 8)
                if np.array_equal(crop[::r, :, ::m], whole[t : t + 3, y : y + 32, x : x + 32])
            }

        assert any(places(clean, a) & places(degraded, b) for a, b in arrays.values())


def test_sample_varies_and_repeats_by_seed(cache):
    dataset = ClipDataset(cache)
    first = [dataset.sample(np.random.default_rng(s), 3, 32)[0] for s in range(12)]
    again = [dataset.sample(np.random.default_rng(s), 3, 32)[0] for s in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({crop.tobytes() for crop in first}) > 6


def test_mix(cache):
    rng = np.random.default_rng(0)
    for _ in range(5):
        clean, degraded = ClipDataset(cache, mix={"clean": 1.0}).sample(rng, 2, 64)
        assert np.array_equal(clean, degraded) and not np.shares_memory(clean, degraded)
    dataset = ClipDataset(cache, mix={"strong": 0.5, "clean": 0.5})
    equal = sum(np.array_equal(*dataset.sample(rng, 2, 32)) for _ in range(300))
    assert 110 < equal < 190
    # Photos have 3 frames here, so 5 frames can only come from a clip.
    assert ClipDataset(cache, photo_probability=0.9).sample(rng, 5, 32)[0].shape == (5, 32, 32, 3)
    with pytest.raises(ValueError, match="no train entry of 6 frames"):
        dataset.sample(rng, 6, 32)
    with pytest.raises(ValueError, match="no train entry of 2 frames of 72x72"):
        dataset.sample(rng, 2, 72)
    with pytest.raises(ValueError, match="mix: expected weights"):
        ClipDataset(cache, mix={"heavy": 1.0})


@pytest.mark.parametrize("preset", ["soft", "ringing"])
def test_fresh_samples_are_made_when_they_are_drawn(cache, preset):
    dataset = ClipDataset(cache, mix={preset: 1.0})
    pairs = [dataset.sample(np.random.default_rng(s), 3, 64) for s in range(24)]
    again = dataset.sample(np.random.default_rng(3), 3, 64)
    assert all(np.array_equal(a, b) for a, b in zip(pairs[3], again, strict=True))
    stored = {np.load(cache / line["degraded"])[:3].tobytes() for line in dataset.pairs}
    assert not any(degraded.tobytes() in stored for _, degraded in pairs)
    assert all(clean.shape == degraded.shape == (3, 64, 64, 3) for clean, degraded in pairs)
    rough = [np.abs(np.diff(video.astype(int), axis=2)).mean() for pair in pairs for video in pair]
    assert np.mean(rough[1::2]) < 0.95 * np.mean(rough[::2]), "blurred"


def test_defocused_samples_lose_detail_in_parts_of_the_clean_side(cache):
    sharp, soft = (ClipDataset(cache, mix={"clean": 1.0}, defocused=share) for share in (0.0, 1.0))
    for seed in range(8):
        # The draw of the share comes after the draw of the crop: both see the same crop.
        before, _ = sharp.sample(np.random.default_rng(seed), 3, 64)
        clean, degraded = soft.sample(np.random.default_rng(seed), 3, 64)
        changed = np.abs(clean.astype(int) - before).max(axis=(0, 3)) > 0
        assert 0.05 < changed.mean() <= 1.0
        assert np.abs(np.diff(clean.astype(int), axis=2)).sum() < np.abs(np.diff(before.astype(int), axis=2)).sum()
        assert np.array_equal(clean, degraded)


def test_defocused_samples_are_degraded_anew(cache):
    dataset = ClipDataset(cache, mix={"light": 1.0}, defocused=1.0)
    for seed in range(4):
        clean, degraded = dataset.sample(np.random.default_rng(seed), 3, 64)
        again = dataset.sample(np.random.default_rng(seed), 3, 64)
        assert np.array_equal(clean, again[0]) and np.array_equal(degraded, again[1])
        # Made of this clean side: they are of one brightness in all parts, and not the same.
        assert np.abs(clean.mean(axis=(0, 3)) - degraded.mean(axis=(0, 3))).mean() < 6
        assert not np.array_equal(clean, degraded)


def test_reduced_samples_of_clips_are_scaled_down_and_degraded_anew(cache):
    """Sharper than those cut out, and the degraded side is made of them."""
    plain, reduced = (
        ClipDataset(cache, mix={"light": 1.0}, photo_probability=0.0, reduced=share) for share in (0.0, 1.0)
    )
    edges = [0.0, 0.0]
    for seed in range(12):
        clean, degraded = reduced.sample(np.random.default_rng(seed), 3, 32)
        again = reduced.sample(np.random.default_rng(seed), 3, 32)
        assert np.array_equal(clean, again[0]) and np.array_equal(degraded, again[1])
        assert clean.shape == degraded.shape == (3, 32, 32, 3)
        coarse = [video.reshape(3, 4, 8, 4, 8, 3).mean(axis=(0, 2, 4)) for video in (clean, degraded)]
        assert np.abs(coarse[0] - coarse[1]).mean() < 6, "the same place"
        assert not np.array_equal(clean, degraded)
        cut = plain.sample(np.random.default_rng(seed), 3, 32)[0]
        for index, video in enumerate((cut, clean)):
            edges[index] += np.abs(np.diff(video.astype(int), axis=2)).mean()
    assert edges[1] > 1.1 * edges[0]


def test_overlaid_samples_have_what_is_sharp_on_both_sides(cache):
    """As sharp on the degraded side, where that is not made from the clean one."""
    plain, overlaid = (ClipDataset(cache, mix={"medium": 1.0}, overlaid=share) for share in (0.0, 1.0))
    changed = 0
    for seed in range(8):
        pairs = [dataset.sample(np.random.default_rng(seed), 3, 64) for dataset in (plain, overlaid)]
        where = [(before != after).any(axis=(0, 3)) for before, after in zip(*pairs, strict=True)]
        both = where[0] & where[1]
        if both.any():
            changed += 1
            covered = [video[:, both].astype(int) for video in pairs[1]]
            assert np.median(np.abs(covered[0] - covered[1])) <= 1
    assert changed >= 6
    soft = ClipDataset(cache, mix={"soft": 1.0}, overlaid=1.0)
    clean, degraded = soft.sample(np.random.default_rng(0), 3, 64)
    assert clean.shape == degraded.shape == (3, 64, 64, 3)


def test_composited_samples_keep_the_face_and_are_degraded_anew(cache):
    plain, staged = (
        ClipDataset(cache, mix={"clean": 1.0}, photo_probability=0.0, composited=share) for share in (0.0, 1.0)
    )
    changed = []
    for seed in range(12):
        before, _ = plain.sample(np.random.default_rng(seed), 3, 64)
        clean, degraded = staged.sample(np.random.default_rng(seed), 3, 64)
        assert np.array_equal(clean, degraded)
        where = (before != clean).any(axis=(0, 3))
        assert not where[20:40, 26:38].any(), "the middle, where the face is as long as no detector said another place"
        changed.append(where.mean())
    assert np.mean(changed) > 0.2
    light = ClipDataset(cache, mix={"light": 1.0}, photo_probability=0.0, composited=1.0)
    clean, degraded = light.sample(np.random.default_rng(0), 3, 64)
    assert not np.array_equal(clean, degraded)
    coarse = [video.reshape(3, 8, 8, 8, 8, 3).mean(axis=(0, 2, 4)) for video in (clean, degraded)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 6, "of this clean side"


def test_a_composited_held_out_clip_keeps_its_person(cache):
    dataset = ClipDataset(cache, "validation")
    line = dataset.pairs_of("light", 3)[0]
    whole, _ = dataset.pair(line, "light", 3)
    clean, degraded = dataset.pair(line, "light", 3, view="composited")
    assert np.array_equal(clean[:, 20:40, 26:38], whole[:, 20:40, 26:38]) and not np.array_equal(clean, whole)
    again = dataset.pair(line, "light", 3, view="composited")
    assert np.array_equal(clean, again[0]) and np.array_equal(degraded, again[1])
    with pytest.raises(ValueError, match="view: expected one of whole, halved, composited, found upright"):
        dataset.pair(line, "light", 3, view="upright")


def test_a_face_stays_where_it_is_in_a_crop():
    face = crop_of((100.0, 60.0, 80.0, 120.0), 64, 32, 0.5)
    assert face == (18.0, 14.0, 40.0, 60.0)
    assert crop_of(None, 64, 32, 0.5) is None
    assert face_of({"size": 200, "face": [1.0, 2.0, 3.0, 4.0]}) == (1.0, 2.0, 3.0, 4.0)
    assert face_of({"size": 200, "face": None}) is None
    assert face_of({"size": 200}) == pytest.approx((55.0, 40.0, 90.0, 124.0))


def test_the_box_of_a_face_follows_the_crop(cache, tmp_path, monkeypatch):
    """Where the box says, the crop shows what the whole picture has there: cut, mirrored, scaled down."""
    root = tmp_path / "cache"
    (root / "train").mkdir(parents=True)
    clean = np.zeros((3, 64, 64, 3), np.uint8)
    clean[:, 12:20, 36:52] = 255  # the face: off the centre both ways
    np.save(root / "train/clean.npy", clean)
    line = read_index(cache)[0] | {"clean": "train/clean.npy", "degraded": "train/clean.npy", "preset": "light"}
    line |= {"frames": 3, "size": 64, "split": "train", "kind": "video", "face": [36.0, 12.0, 16.0, 8.0]}
    (root / "index.jsonl").write_text(json.dumps(line) + "\n")
    seen = []
    monkeypatch.setattr("dvface.clips.composite", lambda clip, picture, face, rng: seen.append((clip, face)) or clip)
    dataset = ClipDataset(root, mix={"clean": 1.0}, photo_probability=0.0, reduced=0.5, composited=1.0)
    for seed in range(40):
        dataset.sample(np.random.default_rng(seed), 2, 32)
    whole = 0
    for clip, (left, top, across, down) in seen:
        rows, columns = np.nonzero(clip[0, :, :, 0] > 127)
        if len(rows) == 0 or left < 0 or top < 0 or left + across > 32 or top + down > 32:
            continue
        whole += 1
        found = columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()
        assert np.abs(np.array(found) - (left, top, across, down)).max() <= 1
    assert len(seen) == 40 and whole >= 10
    assert len({round(face[2]) for _, face in seen}) > 3, "some are scaled down"


def test_new_entries_of_a_known_clip_have_its_face(folder, tmp_path, capsys):
    sources = scan(folder / "train")
    build(sources, tmp_path, OPTIONS, workers=1, detect=lambda frame: (1.0, 2.0, 30.0, 40.0))
    lines = read_index(tmp_path)
    assert all(line["face"] == [1.0, 2.0, 30.0, 40.0] for line in lines)
    several = next(line["clean"] for line in lines if line["split"] == "validation")
    kept = [line for line in lines if line["clean"] != several or line["preset"] == "strong"]
    assert len(kept) < len(lines)
    data.write_index(tmp_path, kept)
    capsys.readouterr()
    assert all("face" in line for line in build(sources, tmp_path, OPTIONS, workers=1))
    assert "--detector" not in capsys.readouterr().err
    data.write_index(tmp_path, [{k: v for k, v in line.items() if k != "face" or line is lines[0]} for line in lines])
    build(sources, tmp_path, OPTIONS, workers=1)
    assert f"note: {len(lines) - 1} entries do not say where the face is" in capsys.readouterr().err


def test_the_index_says_where_the_detector_found_faces(cache, tmp_path):
    """One look at each clean clip, as many lines as it has."""
    (tmp_path / "cache").mkdir()
    for folder in ("train", "validation"):
        (tmp_path / "cache" / folder).symlink_to(cache / folder)
    lines = read_index(cache)
    looks = []

    def detect(frame):
        looks.append(frame.shape)
        return None if len(looks) <= 3 else (len(looks) % 3 + 1.04, 2.0, 30.0, 40.0)

    data.add_faces(tmp_path / "cache", lines, detect)
    found = read_index(tmp_path / "cache")
    assert len(found) == len(lines) and all("face" in line for line in found)
    clips = {line["clean"]: line["face"] for line in found}
    assert len(looks) == 3 * len(clips)
    assert list(clips.values()).count(None) == 1 and [2.0, 2.0, 30.0, 40.0] in clips.values()
    data.add_faces(tmp_path / "cache", found, detect)
    assert len(looks) == 3 * len(clips), "not looked for twice"


@pytest.mark.parametrize("share", ["reduced", "composited"])
def test_photos_are_neither_reduced_nor_composited(cache, share):
    plain, reduced = (
        ClipDataset(cache, mix={"light": 1.0}, photo_probability=1.0, **{share: value}) for value in (0.0, 1.0)
    )
    for seed in range(4):
        pairs = [dataset.sample(np.random.default_rng(seed), 3, 32) for dataset in (plain, reduced)]
        assert all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))


def test_a_halved_pair_shows_the_whole_picture_smaller(cache):
    dataset = ClipDataset(cache, "validation")
    line = dataset.pairs_of("light", 3)[0]
    whole, _ = dataset.pair(line, "light", 3)
    clean, degraded = dataset.pair(line, "light", 3, view="halved")
    side = line["size"] // 2
    assert clean.shape == degraded.shape == (3, side, side, 3)
    blocks = whole.reshape(3, side, 2, side, 2, 3).mean(axis=(2, 4))
    assert np.abs(clean - blocks).max() <= 1.0
    assert np.array_equal(degraded, dataset.pair(line, "light", 3, view="halved")[1])


def test_published_samples_are_encoded_once_more(cache):
    plain, published = (ClipDataset(cache, mix={"medium": 1.0}, published=share) for share in (0.0, 1.0))
    for seed in range(4):
        clean, before = plain.sample(np.random.default_rng(seed), 3, 64)
        same, after = published.sample(np.random.default_rng(seed), 3, 64)
        assert np.array_equal(clean, same)
        assert not np.array_equal(before, after) and psnr(before, after) > 24
    clean, degraded = ClipDataset(cache, mix={"clean": 1.0}, published=1.0).sample(np.random.default_rng(0), 3, 64)
    assert np.array_equal(clean, degraded)


def test_held_out_soft_clips_are_the_same_each_time(cache):
    dataset = ClipDataset(cache, "validation")
    lines = dataset.pairs_of("soft", 3)
    assert [line["id"] for line in lines] == list(dict.fromkeys(line["id"] for line in dataset.pairs))
    clean, degraded = dataset.pair(lines[0], "soft", 3)
    assert np.array_equal(clean, np.load(cache / lines[0]["clean"])[:3]) and not np.array_equal(clean, degraded)
    assert np.array_equal(degraded, dataset.pair(lines[0], "soft", 3)[1])
    strong = dataset.pairs_of("strong", 3)
    assert {line["preset"] for line in strong} == {"strong"}
    assert np.array_equal(dataset.pair(strong[0], "strong", 2)[1], np.load(cache / strong[0]["degraded"])[:2])


def test_recoloured_samples_have_other_colours_on_both_sides(cache):
    plain, coloured = (ClipDataset(cache, mix={"clean": 1.0}, recoloured=share) for share in (0.0, 1.0))
    for seed in range(12):
        clean, degraded = coloured.sample(np.random.default_rng(seed), 2, 64)
        assert np.array_equal(clean, degraded) and clean.flags.c_contiguous
        assert not np.array_equal(clean, plain.sample(np.random.default_rng(seed), 2, 64)[0])
    half = ClipDataset(cache, mix={"clean": 1.0}, recoloured=0.5)
    crops = [[data.sample(np.random.default_rng(s), 2, 64)[0] for s in range(60)] for data in (half, plain)]
    assert 15 < sum(np.array_equal(a, b) for a, b in zip(*crops, strict=True)) < 45


def test_validation(cache):
    dataset = ClipDataset(cache, "validation")
    for preset in ("strong", "medium", "light"):
        lines = dataset.pairs_of(preset, 4)
        assert len({line["id"] for line in lines}) == len(lines) >= 3
        for line in lines:
            clean, degraded = dataset.pair(line, preset, 4)
            assert clean.shape == degraded.shape == (4, 64, 64, 3) and not np.array_equal(clean, degraded)
        assert dataset.pairs_of(preset, 5) == []


def test_a_share_of_the_segments_is_seen_under_other_light(folder, tmp_path):
    sources = scan(folder / "train")
    lit, natural = (
        {job.id: job for job in plan(sources, BuildOptions(**{**vars(OPTIONS), "relit_every": n}))[0]} for n in (2, 0)
    )
    changed = {name for name, job in lit.items() if not np.array_equal(job.load(), natural[name].load())}
    assert changed == {name for name, job in lit.items() if job.is_relit}
    assert 0 < len(changed) < len(lit)
    assert np.array_equal(lit[min(changed)].load(), lit[min(changed)].load())


def test_light_keeps_grey_grey_and_frames_alike():
    clip = np.repeat(moving(1, 3), 2, axis=0)
    same = relight(clip, np.float32([1, 1, 1]), 1.0, 1.0)
    gain = 0.8 ** (1 / 2.2)
    assert np.abs(same - gain * clip.astype(np.float32)).max() <= 0.51
    grey = relight(clip, np.float32([1, 1, 1]), 0.0, 1.0)
    assert np.ptp(grey.astype(int), axis=-1).max() <= 1
    red = relight(clip, np.float32([1, 0.5, 0.5]), 1.0, 1.0)
    assert (red[0] == red[1]).all() and red[..., 0].mean() > red[..., 1].mean() + 20
    for seed in range(50):
        tint, saturation, exposure = random_light(np.random.default_rng(seed))
        assert tint.max() == 1 and tint.min() >= 0.25 and 0.4 <= saturation <= 2.2 and 0.7 <= exposure <= 1.43
        brightness = [float((frames @ LUMA).mean()) for frames in (relight(clip, tint, 1.0, 1.0), clip)]
        assert 0.5 < brightness[0] / brightness[1] < 1.5
