"""The manifests: valid for Kubernetes and KEDA, agreeing with each other and with the server."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from common.errors import InputError
from labs.lab4_model_serving import manifests
from labs.lab4_model_serving.manifests import Service

SERVICE = Service()
VERSION = "1.33"
BUILT_IN = [
    manifests.deployment,
    manifests.cluster_service,
    manifests.disruption_budget,
    manifests.horizontal_pod_autoscaler,
]


@pytest.mark.parametrize("make", BUILT_IN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("service", [SERVICE, Service(gpus=1)], ids=["cpu", "gpu"])
def test_a_manifest_is_valid_for_kubernetes(make, service: Service) -> None:
    """Strictly: a misspelt field is an error here, where the cluster would drop it in silence."""
    kubernetes_validate.validate(make(service), VERSION, strict=True)


def test_the_hpa_of_a_removed_version_is_refused() -> None:
    """autoscaling/v2beta2 is what many examples still show, TorchServe's own among them."""
    old = manifests.horizontal_pod_autoscaler(SERVICE)
    old["apiVersion"] = "autoscaling/v2beta2"
    with pytest.raises(kubernetes_validate.SchemaNotFoundError) as caught:
        kubernetes_validate.validate(old, VERSION, strict=True)
    assert "autoscaling/v2beta2" in caught.value.message


def test_a_misspelt_field_is_refused() -> None:
    """What makes the strict check worth having."""
    wrong = manifests.horizontal_pod_autoscaler(SERVICE)
    wrong["spec"]["maxReplica"] = wrong["spec"].pop("maxReplicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_the_files_are_what_the_code_renders() -> None:
    """``python -m labs.lab4_model_serving.manifests`` after a change, and they are again."""
    rendered = manifests.rendered(SERVICE)
    assert set(rendered) == {path.name for path in manifests.FOLDER.glob("*.yaml")}
    for name, text in rendered.items():
        assert (manifests.FOLDER / name).read_text(encoding="utf-8") == text, name


def test_rendered_yaml_reads_back_as_the_manifests(tmp_path: Path) -> None:
    """No alias, no lost type: a threshold stays a string."""
    paths = manifests.write(SERVICE, tmp_path)
    found = {path.name: list(yaml.safe_load_all(path.read_text())) for path in paths}
    assert found["keda.yaml"] == [manifests.scaled_object(SERVICE)]
    assert [each["kind"] for each in found["deployment.yaml"]] == [
        "Deployment",
        "Service",
        "PodDisruptionBudget",
    ]


def test_ports_names_and_targets_agree() -> None:
    """What the HPA scales exists, the service reaches the container, both autoscalers aim alike."""
    deployment = manifests.deployment(SERVICE)
    hpa, keda = manifests.horizontal_pod_autoscaler(SERVICE), manifests.scaled_object(SERVICE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert named == {"http": SERVICE.port}
    (port,) = manifests.cluster_service(SERVICE)["spec"]["ports"]
    assert port["targetPort"] in named
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in named
    for each in (hpa, keda):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"], "it would undo the autoscaler at every apply"
    (metric,) = hpa["spec"]["metrics"]
    (trigger,) = keda["spec"]["triggers"]
    assert metric["pods"]["metric"]["name"] in trigger["metadata"]["query"]
    assert metric["pods"]["target"]["averageValue"] == trigger["metadata"]["threshold"]
    budget = manifests.disruption_budget(SERVICE)["spec"]["minAvailable"]
    assert budget < hpa["spec"]["minReplicas"]


def test_the_metric_is_one_that_the_server_exports() -> None:
    """An autoscaler on a name that nobody exports holds for ever, and says so in an event only."""
    from labs.lab4_model_serving.serving_metrics import ServingMetrics

    metrics = ServingMetrics(SERVICE.name)
    metrics.queue_depth("1.0", 3)
    text = metrics.exposition()[0].decode()
    assert re.search(rf'^{SERVICE.metric}\{{model="intents",.*\}} 3', text, re.MULTILINE), text


def test_keda_gets_a_valid_object_and_a_bare_number_is_refused() -> None:
    """KEDA's metadata are strings; a number is the most common mistake in a ScaledObject."""
    good = manifests.scaled_object(SERVICE)
    manifests.check_scaled_object(good)
    (trigger,) = good["spec"]["triggers"]
    assert re.fullmatch(r'sum\(\w+\{model="intents"\}\)', trigger["metadata"]["query"])

    def broken(change) -> dict:
        copied = copy.deepcopy(good)
        change(copied["spec"])
        return copied

    cases = {
        "threshold": lambda spec: spec["triggers"][0]["metadata"].update(threshold=8),
        "serverAddress": lambda spec: spec["triggers"][0]["metadata"].pop("serverAddress"),
        "maxReplicas": lambda spec: spec.update(maxReplicas=3),
        "triggers": lambda spec: spec.update(triggers=[]),
        "minReplicaCount 20": lambda spec: spec.update(minReplicaCount=20),
    }
    for message, change in cases.items():
        with pytest.raises(InputError, match=message):
            manifests.check_scaled_object(broken(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 0}, "port"),
        ({"min_replicas": 1}, "could never be moved"),
        ({"max_replicas": 1}, "max_replicas"),
        ({"target_queue": 256}, "never asks for another replica"),
        ({"grace_s": 12}, "the last requests are killed"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    change: dict[str, int], message: str
) -> None:
    """Each of these renders to valid YAML, and shows up in the first bad night."""
    with pytest.raises(InputError, match=message):
        Service(**change)
