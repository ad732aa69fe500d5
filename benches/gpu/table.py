# SPDX-License-Identifier: MPL-2.0
"""One table of the results of `window-bench` and `dvface.torch_bench`.

    python benches/gpu/table.py [--peak TFLOPS] NAME=FILE.json...

`--peak`: dense TFLOP/s of the device in that type, for the share of the roofline (H200: 790 measured, bf16 and f16).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

GRAPHS = ("encoder", "prior", "dit", "decoder")


def table(reports: dict[str, dict], peak: float | None) -> str:
    """Markdown lines, one for a run; speed relative to the first PyTorch run of the list."""
    reference = next((report["frames_per_second"] for report in reports.values() if "runner" in report), None)
    flops = next((report["tflop_a_window"] for report in reports.values() if "tflop_a_window" in report), None)
    lines = [
        f"| run | {' | '.join(f'{name}, ms' for name in GRAPHS)} | window, ms | frames/s | of PyTorch | of roofline |",
        f"|---|{'---|' * (len(GRAPHS) + 4)}",
    ]
    for name, report in reports.items():
        parts = [report["graphs"].get(graph, {}).get("mean_ms") for graph in GRAPHS]
        shown = ["" if part is None else f"{part:.2f}" for part in parts]
        window, fps = report["window_mean_ms"], report["frames_per_second"]
        ratio = "" if reference is None else f"{fps / reference:.2f}"
        share = "" if flops is None or peak is None else f"{flops / peak * 1e3 / window:.0%}"
        lines.append(f"| {name} | {' | '.join(shown)} | {window:.2f} | {fps:.1f} | {ratio} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE.json")
    args = parser.parse_args()
    pairs = (result.split("=", 1) for result in args.results)
    print(table({name: json.loads(Path(path).read_text()) for name, path in pairs}, args.peak))


if __name__ == "__main__":
    main()
