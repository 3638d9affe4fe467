"""What is shipped for Docker and for Grafana's own set-up: the files fit each other, as far as that shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARDS = sorted(path.name for path in (GRAFANA / "dashboards").glob("*.json"))


def read(name):
    """A file as YAML."""
    return yaml.safe_load((GRAFANA / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def services():
    """The services of the compose file by name."""
    return read("docker-compose.yml")["services"]


def mounts(service):
    """Path in the container -> path here, of what is mounted from here."""
    found = {}
    for volume in service["volumes"]:
        source, target, *options = volume.split(":")
        if source.startswith("."):
            assert options == ["ro"], volume
            found[PurePosixPath(target)] = GRAFANA / source
    return found


def inside(service, path):
    """Where a path of a container is here."""
    for target, source in mounts(service).items():
        if PurePosixPath(path).is_relative_to(target):
            return source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{path} is not mounted")


def ports(service):
    """Ports on this machine -> ports of the container."""
    found = {}
    for port in service["ports"]:
        address, outer, inner = port.split(":")
        assert address == "127.0.0.1", f"{port} is open to others"
        found[int(outer)] = int(inner)
    return found


def test_images_have_versions(services):
    """Each image is named with a full version, so that it is the same tomorrow."""
    assert {name: service["image"].split(":")[0] for name, service in services.items()} == {
        "prometheus": "prom/prometheus",
        "alertmanager": "prom/alertmanager",
        "grafana": "grafana/grafana",
    }
    for service in services.values():
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", service["image"].split(":")[1])


def test_what_is_mounted_is_shipped(services):
    """Every file and directory that a container is given is there, to be read alone; data have their own volumes."""
    volumes = read("docker-compose.yml")["volumes"]
    for service in services.values():
        for source in mounts(service).values():
            assert source.exists(), source
        named = [volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")]
        assert len(named) == 1
        assert named[0] in volumes


def test_programs_are_told_of_files_that_they_have(services):
    """Every configuration file of a command line is a file that is mounted."""
    for name in ("prometheus", "alertmanager"):
        options = dict(option.removeprefix("--").partition("=")[::2] for option in services[name]["command"])
        assert inside(services[name], options["config.file"]) == GRAFANA / f"{name}.yml"


def test_ports_are_those_that_the_others_ask(services):
    """Prometheus, Alertmanager and Grafana find each other by names and ports that exist; only this machine them."""
    addresses = {name: set(ports(service).values()) for name, service in services.items()}
    assert addresses == {"prometheus": {9090}, "alertmanager": {9093}, "grafana": {3000}}
    config = read("prometheus.yml")
    [target] = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    asked = [services["grafana"]["environment"][name] for name in ("PROMETHEUS_URL", "ALERTMANAGER_URL")]
    for url in (f"http://{target}", *asked):
        assert urlsplit(url).port in addresses[urlsplit(url).hostname]


def test_prometheus_reaches_the_service(services):
    """The service on the host is asked by a name that the container is given."""
    [job] = read("prometheus.yml")["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    assert target == "host.docker.internal:8000"
    assert services["prometheus"]["extra_hosts"] == ["host.docker.internal:host-gateway"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool; `make test` sees to it")
def test_prometheus_takes_the_example(services, tmp_path):
    """Prometheus' own tool accepts the example with the shipped rules in the place where the container has them."""
    text = (GRAFANA / "prometheus.yml").read_text("utf-8")
    [pattern] = read("prometheus.yml")["rule_files"]
    here = inside(services["prometheus"], PurePosixPath(pattern).parent)
    assert {path.name for path in here.glob(PurePosixPath(pattern).name)} == {
        "modelwatch-alerts.yml",
        "modelwatch-fleet.yml",
    }
    (tmp_path / "prometheus.yml").write_text(text.replace(str(PurePosixPath(pattern).parent), str(here)))
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == 2


def test_dashboards_are_where_grafana_looks(services):
    """The provider's directory is that of the dashboards, and Grafana begins with one of them."""
    config = read("provisioning/dashboards/modelwatch.yml")
    [provider] = config["providers"]
    assert config["apiVersion"] == 1
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    found = inside(services["grafana"], provider["options"]["path"])
    assert sorted(path.name for path in found.glob("*.json")) == DASHBOARDS
    assert len(DASHBOARDS) == 5
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert inside(services["grafana"], home).name in DASHBOARDS


def test_grafana_reads_the_provisioning(services):
    """Grafana's own directory of provisioning has one file of data sources and one of dashboards."""
    found = inside(services["grafana"], "/etc/grafana/provisioning")
    assert sorted(str(path.relative_to(found)) for path in found.rglob("*.yml")) == [
        "dashboards/modelwatch.yml",
        "datasources/modelwatch.yml",
    ]


def test_data_sources_know_how_often_is_scraped(services):
    """Grafana takes the interval of the scrapes from the data source: it is that of Prometheus."""
    config = read("provisioning/datasources/modelwatch.yml")
    prometheus, alertmanager = config["datasources"]
    assert config["apiVersion"] == 1
    assert (prometheus["type"], alertmanager["type"]) == ("prometheus", "alertmanager")
    assert prometheus["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]
    assert prometheus["isDefault"] is True
    for source in config["datasources"]:
        assert source["url"].removeprefix("$") in services["grafana"]["environment"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", source["uid"])


def test_readme_names_every_file():
    """The README beside the files has a line for each of them, and every command line names files that are there."""
    text = (GRAFANA / "README.md").read_text("utf-8")
    for name in ("dashboards/*.json", "prometheus.yml", "alertmanager.yml", "docker-compose.yml", "provisioning/"):
        assert f"| `{name}` |" in text
    for name in ("modelwatch-fleet.yml", "modelwatch-alerts.yml"):
        assert f"| `rules/{name}` |" in text
    image = read("docker-compose.yml")["services"]["grafana"]["image"]
    assert image in text
