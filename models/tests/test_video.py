# SPDX-License-Identifier: MPL-2.0
"""Video files: exact frames, colour matrix and tags on both sides."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from skimage import data as pictures

from dvface.data import psnr
from dvface.video import clip_info, count_frames, read_video, write_video

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [128, 128, 128], [235, 16, 128]])


def patches(count: int = 3, height: int = 64) -> np.ndarray:
    """Frames of flat 32-pixel patches, one colour each; frame i is i levels brighter."""
    row = np.repeat(COLOURS.astype(np.uint8), 32, axis=0)[None]
    frame = np.repeat(row, height, axis=0)
    return np.stack([frame + np.uint8(i) for i in range(count)])


def write_untagged(path, planes: np.ndarray, height: int, width: int) -> None:
    """One yuv420p frame (rows of planes as PyAV lays them out), lossless, without any colour tag."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_colours_survive(tmp_path):
    clip = patches()
    write_video(tmp_path / "a.mp4", clip, 25, crf=4)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == clip.shape and back.dtype == np.uint8
    for i in range(len(COLOURS)):
        where = (slice(None), slice(8, -8), slice(32 * i + 8, 32 * i + 24))
        assert np.abs(back[where].astype(int) - clip[where]).max() <= 4
        assert np.abs(back[where].mean(axis=(0, 1, 2)) - clip[where].mean(axis=(0, 1, 2))).max() < 2


def test_photo_survives_without_shift_of_chroma(tmp_path):
    clip = pictures.astronaut()[None, :256, 100:356]
    write_video(tmp_path / "a.mp4", clip, 25, crf=1)
    back = read_video(tmp_path / "a.mp4")
    assert psnr(clip, back) > 37
    assert np.abs(back.mean(axis=(0, 1, 2)) - clip.mean(axis=(0, 1, 2))).max() < 0.5
    chroma = [image[0].astype(float) @ np.array([0.5, -0.4187, -0.0813]) for image in (clip, back)]
    gradient = np.gradient((chroma[0] + chroma[1]) / 2, axis=1)
    displacement = (gradient * (chroma[0] - chroma[1])).sum() / (gradient**2).sum()
    assert abs(displacement) < 0.1


def test_tags_and_info(tmp_path):
    write_video(tmp_path / "a.mp4", patches(5), Fraction(30000, 1001))
    info = clip_info(tmp_path / "a.mp4")
    assert (info.frames, info.height, info.width) == (5, 64, 192)
    assert info.fps == Fraction(30000, 1001)
    assert (info.pix_fmt, info.colorspace) == ("yuv420p", "ITU709")
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]


def test_part_of_a_clip(tmp_path):
    # Grey levels 8 apart tell the frames from each other after compression.
    clip = np.stack([np.full((64, 64, 3), 40 + 8 * i, np.uint8) for i in range(12)])
    write_video(tmp_path / "a.mp4", clip, 25, crf=4)
    part = read_video(tmp_path / "a.mp4", start=5, count=4)
    assert [round((frame.mean() - 40) / 8) for frame in part] == [5, 6, 7, 8]
    assert len(read_video(tmp_path / "a.mp4", start=10)) == 2
    with pytest.raises(ValueError, match="expected 4 frames from 10, found 2"):
        read_video(tmp_path / "a.mp4", start=10, count=4)
    with pytest.raises(ValueError, match="count 0"):
        read_video(tmp_path / "a.mp4", count=0)


@pytest.mark.parametrize(("height", "matrix"), [(64, "ITU601"), (578, "ITU709")])
def test_untagged_is_601_up_to_576_lines_and_709_above(tmp_path, height, matrix):
    width, luma, cb, cr = 64, 81, 90, 240  # pure red in BT.601
    planes = np.concatenate(
        [np.full(height * width, luma), np.full(height * width // 4, cb), np.full(height * width // 4, cr)]
    )
    write_untagged(tmp_path / "a.mp4", planes.astype(np.uint8).reshape(height * 3 // 2, width), height, width)
    assert clip_info(tmp_path / "a.mp4").colorspace == matrix
    y, b, r = (luma - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224
    kr, kb = (0.299, 0.114) if matrix == "ITU601" else (0.2126, 0.0722)
    red, blue = y + 2 * (1 - kr) * r, y + 2 * (1 - kb) * b
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    expected = np.clip([red, green, blue], 0, 255)
    assert np.abs(read_video(tmp_path / "a.mp4")[0, height // 2, width // 2] - expected).max() <= 2


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), "expected uint8"),
        (np.zeros((64, 64, 3), np.uint8), "expected uint8"),
        (np.zeros((1, 63, 64, 3), np.uint8), "even sides, found 63x64"),
    ],
)
def test_other_frames_are_refused(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", frames, 25)
    assert not (tmp_path / "a.mp4").exists()


def test_file_without_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="no video stream"):
        read_video(tmp_path / "a.wav")
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    with pytest.raises(av.error.FFmpegError):
        clip_info(tmp_path / "b.mp4")


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_frames_come_upright(tmp_path, matrix, turns):
    """As phones write them: a matrix in the track's header, a quarter turn clockwise and so on."""
    path = tmp_path / "phone.mp4"
    write_video(path, patches(), 25, crf=0)
    before, content = read_video(path), bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert np.array_equal(read_video(path), np.rot90(before, turns, axes=(1, 2)))


def test_frames_are_counted_where_the_container_does_not_say(tmp_path):
    write_video(tmp_path / "a.mkv", patches(7), 25)
    assert clip_info(tmp_path / "a.mkv").frames is None and count_frames(tmp_path / "a.mkv") == 7


def test_a_file_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "garbled.mp4"
    write_video(path, patches(5), 25)
    content = bytearray(path.read_bytes())
    at = content.index(b"mdat") + 4
    content[at : at + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="garbled.mp4: (cannot be decoded|expected)"):
        read_video(path, 0, 5)
