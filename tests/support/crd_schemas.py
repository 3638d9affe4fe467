"""The JSON schemas of PodMonitor, PrometheusRule and ConfigMap, from packages made of the custom resource definitions.

The packages lie in a directory of their own, and are read by a process of its own: they would meddle with pytest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = Path(sys.prefix) / "crd"
_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from cloudcoil.models.kubernetes.core.v1 import ConfigMap
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule
kinds = (PodMonitor, PrometheusRule, ConfigMap)
print(json.dumps({kind.__name__: kind.model_json_schema(by_alias=True) for kind in kinds}))
"""


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each kind. Strict: a field that it does not name is refused, and the cluster would drop it."""
    assert PACKAGES.is_dir(), f"Expected the schemas in {PACKAGES}. Run `make test`, which brings them."
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(PACKAGES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for schema in found.values():
        _close(schema)
        schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata"})
    return dict(found)


def _close(schema: Any) -> None:
    """Forbid fields without a name wherever some have one, and write Go's patterns as Python's."""
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _close(inner)
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    if isinstance(schema, dict) and "(?i)" in str(schema.get("pattern")):
        schema["pattern"] = "(?i)" + schema["pattern"].replace("(?i)", "")  # Python has it at the beginning only
