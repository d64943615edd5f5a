"""Kubernetes manifests of the service, rendered from one dataclass so that their numbers agree.

``python -m labs.lab4_model_serving.manifests`` writes ``manifests/*.yaml`` again. A port, a name of
a metric or a grace period that stands in four files is wrong in one of them sooner or later; here
it stands once, and what must hold between two numbers is checked when the object is made.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, require

FOLDER = Path(__file__).with_name("manifests")
Manifest = dict[str, Any]

HEADER = "# Rendered by labs/lab4_model_serving/manifests.py: change it there.\n"


@dataclass(frozen=True)
class Service:
    """The service, as the cluster and the autoscaler see it."""

    name: str = "intents"
    image: str = "registry.example.com/intents:1.0"
    port: int = 8080
    metric: str = "serving_queue_depth"
    """Gauge that every replica exports: requests that wait."""
    target_queue: int = 8
    """Waiting requests per replica that the autoscaler aims at."""
    queue_size: int = 256
    """Requests that may wait in a replica; then it answers 503."""
    min_replicas: int = 2
    max_replicas: int = 10
    down_window_s: int = 300
    cpu: str = "2"
    memory: str = "1Gi"
    start_s: int = 60
    """A replica must answer within this time of its start."""
    request_timeout_s: int = 5
    pre_stop_s: int = 10
    """Between the decision to end a replica and SIGTERM: time in which balancers hear of it."""
    grace_s: int = 30
    """From the decision to SIGKILL."""
    prometheus: str = "http://prometheus.monitoring:9090"
    gpus: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.port <= 65535, "port", self.port, "must be between 1 and 65535")
        require(
            self.min_replicas >= 2,
            "min_replicas",
            self.min_replicas,
            "must be >= 2",
            "the disruption budget keeps one less than this many, and a lone replica could never "
            "be moved",
        )
        require(
            self.max_replicas >= self.min_replicas,
            "max_replicas",
            self.max_replicas,
            f"must be >= min_replicas = {self.min_replicas}",
        )
        require(
            0 < self.target_queue < self.queue_size,
            "target_queue",
            self.target_queue,
            f"must be > 0 and < queue_size = {self.queue_size}",
            "a queue that is capped below the target never asks for another replica",
        )
        least = self.pre_stop_s + self.request_timeout_s
        require(
            self.grace_s > least,
            "grace_s",
            self.grace_s,
            f"must be > pre_stop_s + request_timeout_s = {least}",
            "or the last requests are killed",
        )
        require(self.gpus >= 0, "gpus", self.gpus, "must be >= 0")

    @property
    def labels(self) -> dict[str, str]:
        return {"app.kubernetes.io/name": self.name}


def deployment(service: Service) -> Manifest:
    """The replicas: probes, resources, and an end without a lost request."""
    resources: dict[str, Any] = {
        # Requests equal to limits: a latency promise cannot be kept on borrowed cores.
        "requests": {"cpu": service.cpu, "memory": service.memory},
        "limits": {"cpu": service.cpu, "memory": service.memory},
    }
    if service.gpus:
        resources["limits"]["nvidia.com/gpu"] = service.gpus
    ping = {"httpGet": {"path": "/ping", "port": "http"}}
    container = {
        "name": service.name,
        "image": service.image,
        "ports": [{"name": "http", "containerPort": service.port}],
        "env": [
            {
                "name": "SERVING_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": f"{service.name}-token", "key": "token"}},
            }
        ],
        "resources": resources,
        # Until it has succeeded once, the others do not run: a slow load is no reason to restart.
        "startupProbe": {**ping, "periodSeconds": 2, "failureThreshold": service.start_s // 2},
        "readinessProbe": {**ping, "periodSeconds": 2, "failureThreshold": 2, "timeoutSeconds": 1},
        # Slower and more patient than readiness: overload must take a replica out, not restart it.
        "livenessProbe": {**ping, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"sleep": {"seconds": service.pre_stop_s}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": service.name, "labels": service.labels},
        # No "replicas": it would fight with the autoscaler at every apply.
        "spec": {
            "selector": {"matchLabels": service.labels},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": service.labels},
                "spec": {
                    "terminationGracePeriodSeconds": service.grace_s,
                    "containers": [container],
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": service.labels},
                        }
                    ],
                },
            },
        },
    }


def cluster_service(service: Service) -> Manifest:
    """One address for the replicas that are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "labels": service.labels},
        "spec": {
            "selector": service.labels,
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def disruption_budget(service: Service) -> Manifest:
    """How many replicas a drain of nodes leaves running."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": service.name, "labels": service.labels},
        "spec": {
            "minAvailable": service.min_replicas - 1,
            "selector": {"matchLabels": service.labels},
        },
    }


def horizontal_pod_autoscaler(service: Service) -> Manifest:
    """The HPA on a metric of the pods; an adapter must publish it (prometheus-adapter)."""
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": service.metric},
            "target": {"type": "AverageValue", "averageValue": str(service.target_queue)},
        },
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": service.name, "labels": service.labels},
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicas": service.min_replicas,
            "maxReplicas": service.max_replicas,
            "metrics": [metric],
            "behavior": _behavior(service),
        },
    }


def scaled_object(service: Service) -> Manifest:
    """KEDA's object on a Prometheus query. KEDA makes its own HPA of it: use one or the other."""
    query = f'sum({service.metric}{{model="{service.name}"}})'
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": service.name, "labels": service.labels},
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicaCount": service.min_replicas,
            "maxReplicaCount": service.max_replicas,
            "pollingInterval": 5,
            # After three failed readings: enough for the peak, rather than whatever runs now.
            "fallback": {"failureThreshold": 3, "replicas": service.max_replicas},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(service)}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": service.prometheus,
                        "query": query,
                        "threshold": str(service.target_queue),
                        # A query without a result is an outage of monitoring, not an empty queue.
                        "ignoreNullValues": "false",
                    },
                }
            ],
        },
    }


def _target(service: Service) -> Manifest:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": service.name}


def _behavior(service: Service) -> Manifest:
    """Up at once, at most double or four more in 15 s; down by one a minute after the window."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": service.down_window_s,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


_NUMBER = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
_COUNT = {"type": "integer", "minimum": 0}
KEDA_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "keda.sh/v1alpha1"},
        "kind": {"const": "ScaledObject"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["scaleTargetRef", "triggers"],
            "additionalProperties": False,
            "properties": {
                "scaleTargetRef": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        name: {"type": "string"}
                        for name in ("apiVersion", "kind", "name", "envSourceContainerName")
                    },
                },
                "pollingInterval": _COUNT,
                "cooldownPeriod": _COUNT,
                "initialCooldownPeriod": _COUNT,
                "idleReplicaCount": {"const": 0},
                "minReplicaCount": _COUNT,
                "maxReplicaCount": _COUNT,
                "fallback": {
                    "type": "object",
                    "required": ["failureThreshold", "replicas"],
                    "additionalProperties": False,
                    "properties": {
                        "failureThreshold": _COUNT,
                        "replicas": _COUNT,
                        "behavior": {"type": "string"},
                    },
                },
                "advanced": {"type": "object"},
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["type", "metadata"],
                        "additionalProperties": False,
                        "properties": {
                            "type": {"const": "prometheus"},
                            "name": {"type": "string"},
                            "useCachedMetrics": {"type": "boolean"},
                            "authenticationRef": {"type": "object", "required": ["name"]},
                            "metricType": {"enum": ["AverageValue", "Value"]},
                            "metadata": {
                                "type": "object",
                                "required": ["serverAddress", "query", "threshold"],
                                # All values are strings: KEDA refuses a bare number.
                                "additionalProperties": {"type": "string"},
                                "properties": {
                                    "serverAddress": {"type": "string", "pattern": "^https?://"},
                                    "query": {"type": "string", "minLength": 1},
                                    "threshold": _NUMBER,
                                    "activationThreshold": _NUMBER,
                                    "ignoreNullValues": {"enum": ["true", "false"]},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The fields of a ScaledObject with a Prometheus trigger that this lab uses, after keda.sh's
reference. The built-in kinds have schemas of Kubernetes; this one is ours."""


def check_scaled_object(manifest: Manifest) -> None:
    """Check a ScaledObject against ``KEDA_SCHEMA``, and its counts against each other.

    Raises
    ------
    InputError
        A field is unknown, missing, or of the wrong type; the message says where.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(KEDA_SCHEMA).iter_errors(manifest))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise InputError(f"ScaledObject, at {where}: {error.message}")
    spec = manifest["spec"]
    least, most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    if least > most:
        raise InputError(f"ScaledObject: minReplicaCount {least} is above maxReplicaCount {most}")


def rendered(service: Service) -> dict[str, str]:
    """File name to YAML text."""
    files = {
        "deployment.yaml": [
            deployment(service),
            cluster_service(service),
            disruption_budget(service),
        ],
        "hpa.yaml": [horizontal_pod_autoscaler(service)],
        "keda.yaml": [scaled_object(service)],
    }
    return {name: HEADER + _yaml(manifests) for name, manifests in files.items()}


def write(service: Service, folder: Path = FOLDER) -> list[Path]:
    """Write the files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in rendered(service).items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _yaml(manifests: list[Manifest]) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        """Repeats a dict that occurs twice, where YAML would write an alias."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    text: str = yaml.dump_all(manifests, Dumper=Plain, sort_keys=False, width=100)
    return text


if __name__ == "__main__":
    print("\n".join(str(path) for path in write(Service())), file=sys.stdout)
