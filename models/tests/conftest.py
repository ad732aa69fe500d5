# SPDX-License-Identifier: MPL-2.0
"""What every test has: no pretrained weights but those that it makes itself, whatever this machine has."""

import pytest

from dvface import st_lpips


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path_factory.getbasetemp() / "no-weights"))
    monkeypatch.setattr(st_lpips, "PACKAGE", "no_such_package")
