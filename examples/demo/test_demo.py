# SPDX-License-Identifier: MPL-2.0
"""The demo's parts, and whole runs through gst-launch-1.0 with the release plugin that `make build` makes.

`brighter-long` (tests/bundles) adds 1 to every sample, so a restored file shows that it was restored.
"""

import os
import shlex
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

import clip
import demo
import media
import pipeline

ROOT = Path(__file__).resolve().parents[2]
PLUGIN_PATH = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
BRIGHTER = f"dvfacerestore model={ROOT}/tests/bundles/brighter-long"


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    """Skipping would hide that nothing was tested."""
    if not (PLUGIN_PATH / "libgstdvface.so").is_file():
        pytest.fail(f"{PLUGIN_PATH}/libgstdvface.so is missing: run `make build`")


def write(
    path: Path,
    times: list[float],
    size: tuple[int, int] = (96, 64),
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    audio: str | None = None,
) -> Path:
    """A video with a moving gradient, frames at `times` (seconds), and a tone as long."""
    width, height = size
    base = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        tone = container.add_stream(audio, rate=48000) if audio else None
        for index, time in enumerate(times):
            x, y = np.meshgrid(np.arange(width), np.arange(height))
            gray = (64 + (x + 2 * y + 3 * index) % 128).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.stack([gray] * 3, axis=-1), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            layout = tone.codec_context.layout.name
            channels = tone.codec_context.layout.nb_channels
            for start in range(0, int(times[-1] * 48000), 960):
                wave = np.sin(2 * np.pi * 440 * np.arange(start, start + 960) / 48000) * 8000
                samples = np.repeat(wave.astype(np.int16)[None], channels, axis=1).reshape(1, -1)
                sound = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
                sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
                container.mux(tone.encode(sound))
            container.mux(tone.encode(None))
    return path


def even_times(count: int) -> list[float]:
    return [index / 30 for index in range(count)]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def run(source: Path | None, folder: Path, element: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(ROOT)
    arguments = ["--output", str(folder), "--plugin-path", str(PLUGIN_PATH), "--element", element]
    monkeypatch.setattr("sys.argv", ["demo.py", *arguments, *([str(source)] if source else [])])
    return demo.main()


def assert_brighter(source: Path, restored: Path, by: float = 1.0) -> None:
    """Mean over all pixels; encoding moves single pixels but not the mean."""
    before = np.mean([frame.mean() for _, frame in media.frames(source)])
    after = np.mean([frame.mean() for _, frame in media.frames(restored)])
    assert after - before == pytest.approx(by, abs=0.5)


def test_clip_moves_and_keeps_the_face_in_sight() -> None:
    frames = clip.clean_clip(8)
    assert frames.shape == (8, 512, 512, 3) and frames.dtype == np.uint8
    for index in range(8):
        left, top, side = clip.face_square(index, 8)
        assert left >= 0 and top >= 0 and side > 150 and left + side <= 512 and top + side <= 512
        assert peak_signal_noise_ratio(frames[index], frames[index - 1]) < 30, "the camera stands still"


def test_degradation_is_repeatable_and_visible() -> None:
    frames = clip.clean_clip(4)
    degraded = clip.degrade(frames)
    assert np.array_equal(degraded, clip.degrade(frames))
    assert 20 < peak_signal_noise_ratio(frames, degraded) < 30


@pytest.mark.parametrize("name", ["plain.mp4", "a b.mp4", 'it\'s "x" (1)!.mp4', "back\\slash.mp4", "a=b;c,d.mp4"])
def test_file_names_reach_gstreamer_and_the_shell(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / name, even_times(3))
    line = pipeline.restore_line(media.probe(source), tmp_path / f"out {name}", "identity", False)
    result = pipeline.run(line, PLUGIN_PATH, tmp_path / "log")
    assert result.status == 0, result.messages
    assert media.probe(tmp_path / f"out {name}").width == 96
    shown = shlex.split(pipeline.shell_line(line, PLUGIN_PATH).replace("\\\n", " "))
    assert shown[3:] == pipeline._words(line)


def test_stats_are_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "0:00:01.0 1 0x1 INFO dvfacerestore imp.rs:1:stop:<d> statistics: dvfacerestore-stats, frames-in=(guint64)7, "
        'provider=(string)"a, b", dit-mean-ms=(double)12.5, windows=(guint64)2;\n'
    )
    assert pipeline.read_stats(log) == {"frames-in": 7, "provider": "a, b", "dit-mean-ms": 12.5, "windows": 2}


@pytest.mark.parametrize("audio", [None, "aac"])
def test_a_variable_frame_rate_and_the_audio_stay(
    audio: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    steps = np.random.default_rng(3).choice([1 / 60, 1 / 30, 1 / 15, 1 / 10], 70)
    times = [0.0, *np.cumsum(steps).tolist()]
    source = write(tmp_path / "vfr.mp4", times, audio=audio)
    out = tmp_path / "out"
    assert run(source, out, BRIGHTER, monkeypatch) == 0
    restored = [time for time, _ in media.frames(out / "restored.mp4")]
    assert restored == pytest.approx(times, abs=1e-3)
    assert_brighter(source, out / "restored.mp4")
    if audio:
        # The edit list leaves out the first packet, which only primes the decoder.
        assert packets(out / "restored.mp4") in (packets(source), packets(source)[1:])
    else:
        assert not media.probe(out / "restored.mp4").audio
    assert f"{'frames':<22}{71:>10}{71:>10}" in capsys.readouterr().out
    for name in ("side_by_side.mp4", "contact.png"):
        assert (out / name).stat().st_size > 1000
    assert len(list(media.frames(out / "side_by_side.mp4"))) == 71


def test_audio_that_mp4_does_not_take_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write(tmp_path / "flac.mkv", even_times(40), audio="flac")
    assert run(source, tmp_path / "out", BRIGHTER, monkeypatch) == 0
    assert media.probe(tmp_path / "out" / "restored.mp4").audio == ("aac",)
    assert "Audio (flac) is encoded as AAC" in capsys.readouterr().out


def test_an_odd_size_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    source = write(tmp_path / "odd.mkv", even_times(20), size=(97, 63), codec="ffv1", pix_fmt="yuv420p")
    assert run(source, tmp_path / "out", BRIGHTER, monkeypatch) == 0
    restored = media.probe(tmp_path / "out" / "restored.mp4")
    assert (restored.width, restored.height) == (97, 63)
    assert "Odd width or height" in capsys.readouterr().out


def test_a_rotated_clip_comes_out_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rotated.mp4", even_times(20))
    data = bytearray(source.read_bytes())
    # ISO 14496-12, 8.3.2: the matrix of `tkhd` is at byte 40 of a version 0 box's content; by 90 degrees, clockwise.
    at = data.index(b"tkhd") + 4 + 40
    assert int.from_bytes(data[at : at + 4]) == 0x10000, "not the unit matrix"
    data[at : at + 20] = b"".join((n & 0xFFFFFFFF).to_bytes(4) for n in (0, 0x10000, 0, -0x10000, 0))
    source.write_bytes(data)
    assert run(source, tmp_path / "out", BRIGHTER, monkeypatch) == 0
    restored = media.probe(tmp_path / "out" / "restored.mp4")
    assert (restored.width, restored.height, restored.rotated) == (64, 96, False)
    for (_, before), (_, after) in zip(
        media.frames(source), media.frames(tmp_path / "out" / "restored.mp4"), strict=True
    ):
        assert peak_signal_noise_ratio(before, after) > 25, "turned the wrong way"


def test_an_interlaced_clip_keeps_its_frame_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "interlaced.mp4"
    line = (  # 30 frames of two fields
        "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,format=I420,width=96,height=64,framerate=50/1 ! "
        "interlace field-pattern=1:1 top-field-first=true ! x264enc interlaced=true ! mp4mux ! "
        f"filesink location={path}"
    )
    assert pipeline.run([line], PLUGIN_PATH, tmp_path / "log").status == 0
    facts = media.probe(path)
    assert facts.interlaced
    assert run(path, tmp_path / "out", BRIGHTER, monkeypatch) == 0
    assert not media.probe(tmp_path / "out" / "restored.mp4").interlaced


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"hello", "not a video file"),
        ("audio", "no video track"),
        ("own", "under another name"),
    ],
)
def test_what_cannot_be_restored_is_said(
    content: bytes | str | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    source = tmp_path / "source.mp4"
    if content == "own":
        source = write(tmp_path / "restored.mp4", even_times(3))
    elif content == "audio":
        with av.open(str(source), "w") as container:
            stream = container.add_stream("aac", rate=48000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="stereo")
            sound.sample_rate = 48000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    elif content is not None:
        source.write_bytes(content)
    assert run(source, tmp_path, BRIGHTER, monkeypatch) == 1
    assert expected in capsys.readouterr().err


def test_an_error_of_the_element_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source = write(tmp_path / "a.mp4", even_times(5), audio="aac")
    assert run(source, tmp_path / "out", "dvfacerestore model=no-such-bundle", monkeypatch) == 1
    captured = capsys.readouterr()
    assert "no-such-bundle" in captured.out, "the element's message"
    assert "Trying again" not in captured.out, "the audio is not to blame"
    assert "gst-launch-1.0 failed" in captured.err


def test_the_shipped_bundle_improves_the_demo_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(None, tmp_path, "dvfacerestore", monkeypatch) == 0
    output = capsys.readouterr().out
    table = {words[0].strip(","): words[1:] for words in map(str.split, output.splitlines()) if words}
    assert table["frames"] == ["100", "100"]
    before, after = (float(word) for word in table["PSNR"][1:3])
    assert after - before >= 0.3, output
    for name in demo.written(True):
        assert (tmp_path / name).stat().st_size > 1000
