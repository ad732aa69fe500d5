# SPDX-License-Identifier: MPL-2.0

import os

# ONNX Runtime's own releases tell Microsoft of every process that imports them. The element sets it, too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
