"""Kubernetes: every overlay is valid, its objects agree, and the checks can fail. Not deployed."""

from __future__ import annotations

import copy
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from capstone import alerts, manifests
from capstone.containers import Paths
from capstone.gateway_http import OPEN
from common.errors import InputError
from labs.lab4_model_serving.prometheus import check_rules

Manifest = dict[str, Any]
LOADS = ("Deployment", "StatefulSet", "Job", "CronJob")
NEXT = sorted((manifests.FOLDER / "next").glob("*.yaml"))


@cache
def built(overlay: str) -> tuple[Manifest, ...]:
    return tuple(manifests.build(overlay))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    return [each for each in built(overlay) if each["kind"] in kinds]


def named(overlay: str, kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in of_kind(overlay, kind)}


def template(load: Manifest) -> Manifest:
    spec = load["spec"]["jobTemplate"]["spec"] if load["kind"] == "CronJob" else load["spec"]
    return spec["template"]


def pod(load: Manifest) -> Manifest:
    return template(load)["spec"]


def labels(load: Manifest) -> dict[str, str]:
    return template(load)["metadata"]["labels"]


def selects(selector: dict[str, str], found: dict[str, str]) -> bool:
    return selector.items() <= found.items()


@pytest.mark.parametrize("overlay", ["dev", "canary"])
def test_every_manifest_of_an_overlay_is_valid(overlay: str) -> None:
    """Strictly: a cluster would drop a misspelt field in silence."""
    found = built(overlay)
    assert len(found) > 20
    for manifest in found:
        manifests.check(manifest)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_everything_is_in_one_namespace(overlay: str) -> None:
    """What an overlay adds is not in the base's namespace unless the overlay says so itself."""
    for manifest in built(overlay):
        if manifest["kind"] != "Namespace":
            where = manifest["metadata"].get("namespace")
            assert where == "feed", f"{manifest['kind']} {manifest['metadata']['name']}: {where}"


def test_the_canary_changes_nothing_of_production() -> None:
    """It only adds, so what is valid in it is valid there."""
    assert all(manifest in built("canary") for manifest in built("prod"))
    assert len(built("canary")) == len(built("prod")) + 3


@pytest.mark.parametrize("path", NEXT, ids=lambda path: path.stem)
def test_the_way_past_one_machine_is_valid_too(path: Path) -> None:
    """It is in no overlay, and would rot unseen."""
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        manifests.check(manifest)


def broken(kind: str, *where: Any) -> Manifest:
    """A manifest whose field at a path is misspelt."""
    found = [*built("canary"), *yaml.safe_load_all(NEXT[0].read_text(encoding="utf-8"))]
    changed = copy.deepcopy(next(each for each in found if each["kind"] == kind))
    holder: Any = changed
    for step in where[:-1]:
        holder = holder[step]
    holder[f"{where[-1]}x"] = holder.pop(where[-1])
    return changed


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "readinessProbe")),
        ("HorizontalPodAutoscaler", ("spec", "maxReplicas")),
        ("NetworkPolicy", ("spec", "podSelector")),
        ("PrometheusRule", ("spec", "groups", 0, "rules", -1, "for")),
        ("ServiceMonitor", ("spec", "endpoints", 0, "port")),
        ("HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "weight")),
        ("InferenceService", ("spec", "predictor", "canaryTrafficPercent")),
        ("InferenceService", ("spec", "predictor", "containers", 0, "resources")),
    ],
)
def test_a_misspelt_field_is_refused(kind: str, where: tuple[Any, ...]) -> None:
    """The test above can fail, also for the kinds of which the usual tool only warns."""
    with pytest.raises(InputError):
        manifests.check(broken(kind, *where))


def test_a_kind_without_a_schema_is_an_error() -> None:
    """kubernetes-validate on the command line warns and exits 0."""
    with pytest.raises(InputError, match="PytorchJob feed"):
        manifests.check(
            {"apiVersion": "kubeflow.org/v1", "kind": "PytorchJob", "metadata": {"name": "feed"}}
        )


def test_the_rules_of_the_cluster_are_those_of_the_list(tmp_path: Path) -> None:
    """Kustomize moves nothing in them; promtool reads them out of the manifest."""
    (rule,) = of_kind("prod", "PrometheusRule")
    assert rule["spec"]["groups"] == alerts.groups()
    if shutil.which("promtool"):
        file = tmp_path / "rules.yml"
        file.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
        check_rules(file)


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_every_pod_is_nobody_special_and_bounded(overlay: str) -> None:
    """Not root, no privileges, a read-only root, requests and limits, no token of the cluster."""
    for load in of_kind(overlay, *LOADS):
        name, spec = load["metadata"]["name"], pod(load)
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for volume in spec["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{name}: {volume['name']}"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            for part in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][part]), f"{name} {part}"


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_every_image_has_a_version(overlay: str) -> None:
    """``latest`` is another image every week, and a rollback to it goes nowhere."""
    for load in of_kind(overlay, *LOADS):
        for container in pod(load)["containers"]:
            assert re.search(r":\d+\.\d+\.\d+(-\w+)?$", container["image"]), container["image"]


def test_probes_ask_for_paths_that_are_open() -> None:
    """A probe without a token on a route with one would restart the pod for ever."""
    for name, path in (
        ("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")
    ):  # fmt: skip
        assert path in OPEN
        for load in ("feed-gateway", "feed-scorer"):
            (container,) = pod(named("prod", "Deployment")[load])["containers"]
            assert container[name]["httpGet"]["path"] == path, f"{load} {name}"


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_services_policies_budgets_and_autoscalers_find_what_they_name(overlay: str) -> None:
    """Every selector selects something, every port is one of a container's."""
    loads = of_kind(overlay, *LOADS)
    for service in of_kind(overlay, "Service"):
        chosen = [load for load in loads if selects(service["spec"]["selector"], labels(load))]
        assert chosen, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            if isinstance(port["targetPort"], str):
                for load in chosen:
                    ports = {p["name"]: p for p in pod(load)["containers"][0]["ports"]}
                    assert ports[port["targetPort"]]["containerPort"] == port["port"]
    for policy in of_kind(overlay, "NetworkPolicy", "PodDisruptionBudget"):
        key = "podSelector" if policy["kind"] == "NetworkPolicy" else "selector"
        wanted = policy["spec"][key].get("matchLabels", {})
        assert any(selects(wanted, labels(load)) for load in loads), policy["metadata"]["name"]
    deployments = named(overlay, "Deployment")
    for autoscaler in of_kind(overlay, "HorizontalPodAutoscaler"):
        target = deployments[autoscaler["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], "it would undo the autoscaler at every apply"
        assert target["metadata"]["name"] in named(overlay, "PodDisruptionBudget")


def test_the_metric_of_the_autoscaler_is_one_of_the_gateways() -> None:
    """An autoscaler on a name that nobody exports holds for ever."""
    from prometheus_client import generate_latest

    from capstone.service_metrics import ServiceMetrics
    from tests.capstone.scrape import names_in

    spec = named("prod", "HorizontalPodAutoscaler")["feed-gateway"]["spec"]
    asked = {m["pods"]["metric"]["name"] for m in spec["metrics"] if m["type"] == "Pods"}
    assert asked
    assert asked <= names_in(generate_latest(ServiceMetrics().registry).decode())


def test_nothing_may_talk_unless_a_policy_says_so() -> None:
    """Default deny in both directions; the scorer and Redis are reached by the gateway alone."""
    policies = named("prod", "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"]
    }  # fmt: skip
    for name in ("feed-scorer", "feed-redis"):
        pods = [
            source["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for rule in policies[name]["spec"]["ingress"]
            for source in rule["from"]
            if "podSelector" in source
        ]
        assert pods == ["feed-gateway"], name


def test_a_service_monitor_selects_services_and_gives_the_job_of_the_rules() -> None:
    """``up{job="feed"}`` must be there, or every alert is blind."""
    jobs = {}
    for monitor in of_kind("prod", "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        wanted = monitor["spec"]["selector"].get("matchLabels", {})
        matching = [
            service
            for service in of_kind("prod", "Service")
            if selects(wanted, service["metadata"]["labels"])
            and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        ]
        assert matching, monitor["metadata"]["name"]
        (job,) = [r["replacement"] for r in endpoint["relabelings"] if r["targetLabel"] == "job"]
        jobs[monitor["metadata"]["name"]] = job
    assert jobs == {"feed-gateway": "feed", "feed-monitor": "monitor", "feed-scorer": "scorer"}


def test_every_volume_that_is_mounted_is_claimed_and_every_secret_is_one() -> None:
    """A claim with another name leaves the pod pending, and says so in an event only."""
    claims = set(named("prod", "PersistentVolumeClaim"))
    for load in of_kind("prod", *LOADS):
        volumes = {volume["name"]: volume for volume in pod(load)["volumes"]}
        own = {c["metadata"]["name"] for c in load["spec"].get("volumeClaimTemplates", [])}
        for container in pod(load)["containers"]:
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes.keys() | own, f"{load['metadata']['name']}"
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
            if secret := volume.get("secret"):
                assert secret["secretName"] == "feed"


def test_the_canary_is_the_stable_deployment_with_another_image() -> None:
    """Whatever else differed would be what is compared. The route's weights add up."""
    stable, canary = (
        copy.deepcopy(named("canary", "Deployment")[name])
        for name in ("feed-gateway", "feed-gateway-canary")
    )
    assert labels(stable).pop("feed/track") == "stable"
    assert labels(canary).pop("feed/track") == "canary"
    images = [pod(each)["containers"][0].pop("image") for each in (stable, canary)]
    assert images[0] != images[1]
    for each in (stable, canary):  # a canary of one replica has no zones to be spread over
        del pod(each)["topologySpreadConstraints"]
    assert pod(stable) == pod(canary)
    (route,) = of_kind("canary", "HTTPRoute")
    services = named("canary", "Service")
    for rule in route["spec"]["rules"]:
        assert sum(backend["weight"] for backend in rule["backendRefs"]) == 100
        assert all(backend["name"] in services for backend in rule["backendRefs"])
        assert all(match["path"]["value"] != "/metrics" for match in rule["matches"])


def test_the_distributed_job_has_a_rank_a_name_and_a_rendezvous() -> None:
    """torchrun's number of nodes is the job's, its rendezvous the first pod behind the service."""
    job = named("prod", "Job")["feed-train-distributed"]
    command = pod(job)["containers"][0]["command"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert "--nnodes=2" in command
    service = named("prod", "Service")[pod(job)["subdomain"]]
    assert service["spec"]["publishNotReadyAddresses"] is True
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    port = service["spec"]["ports"][0]["port"]
    assert f"--rdzv-endpoint={name}:{port}" in command
    per_node = next(part for part in command if part.startswith("--nproc-per-node="))
    limits = pod(job)["containers"][0]["resources"]["limits"]
    assert per_node.endswith(limits["nvidia.com/gpu"])
    assert "capstone.impression_training" in command


def test_the_small_cluster_has_one_of_each_and_no_autoscaler() -> None:
    """What is deleted by a patch is really gone."""
    assert not of_kind("dev", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    for name in ("feed-gateway", "feed-scorer"):
        deployment = named("dev", "Deployment")[name]
        assert deployment["spec"]["replicas"] == 1
    release = pod(named("dev", "CronJob")["feed-release"])["containers"][0]
    assert release["args"] == ["--scale", "smoke", "--unregistered"]


def test_servers_read_the_release_and_only_two_jobs_the_runs() -> None:
    """What is served went through the registry; its folder can be written by its own job alone."""
    writers: dict[str, set[str]] = {"runs": set(), "release": set()}
    for load in of_kind("prod", *LOADS):
        name = load["metadata"]["name"]
        for volume in pod(load)["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            (mount,) = [
                each
                for each in pod(load)["containers"][0]["volumeMounts"]
                if each["name"] == volume["name"]
            ]
            if claim in writers and not mount.get("readOnly"):
                writers[claim].add(name)
            if claim == "release":
                assert mount["mountPath"] == str(Paths().release), name
    assert writers == {
        "runs": {"feed-train", "feed-train-distributed", "feed-release"},
        "release": {"feed-release"},
    }
    cron = named("prod", "CronJob")["feed-release"]["spec"]
    assert cron["suspend"] is True, "a release is a decision, not a time"
