"""The files in `examples/` that launch a sweep on a cluster are valid, and agree with each other and with the page."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from typing import Annotated, Any, Literal

import cluster
import pytest
import yaml
from pages import ROOT, commands
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "cluster.md"
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Part(BaseModel):
    """A part of a manifest. Kubernetes refuses unknown fields, and doesn't read a number as text."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


# The fields of RayJob, version ray.io/v1, that examples/rayjob.yaml may use, after KubeRay's schema of 1.7.
class Metadata(Part):
    name: Name


class Resources(Part):
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class Mount(Part):
    name: Name
    mount_path: str


class Container(Part):
    name: Name
    image: str
    resources: Resources
    volume_mounts: list[Mount] = []


class Claim(Part):
    claim_name: Name


class Volume(Part):
    name: Name
    persistent_volume_claim: Claim | None = None
    config_map: Metadata | None = None


class PodSpec(Part):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []


class Pod(Part):
    spec: PodSpec


class HeadGroup(Part):
    ray_start_params: dict[str, str]
    template: Pod


class WorkerGroup(HeadGroup):
    group_name: Name
    replicas: Annotated[int, Field(ge=0)]
    min_replicas: Annotated[int, Field(ge=0)]
    max_replicas: Annotated[int, Field(ge=0)]


class AuthOptions(Part):
    mode: Literal["token", "disabled"]


class RayClusterSpec(Part):
    ray_version: str
    auth_options: AuthOptions
    enable_in_tree_autoscaling: bool = False
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]


class RayJobSpec(Part):
    entrypoint: str
    backoff_limit: Annotated[int, Field(ge=0)] = 0
    shutdown_after_job_finishes: bool = False
    ray_cluster_spec: RayClusterSpec


class RayJob(Part):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    """The objects of examples/rayjob.yaml by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((EXAMPLES / "rayjob.yaml").read_text())}


def test_the_rayjob_fits_its_schema(manifests: dict[str, dict[str, Any]]) -> None:
    job = RayJob.model_validate(manifests["RayJob"])
    groups = [job.spec.ray_cluster_spec.head_group_spec, *job.spec.ray_cluster_spec.worker_group_specs]
    volumes = [volume for group in groups for volume in group.template.spec.volumes]
    claims = {volume.persistent_volume_claim.claim_name for volume in volumes if volume.persistent_volume_claim}
    assert claims == {manifests["PersistentVolumeClaim"]["metadata"]["name"]}
    assert {v.config_map.name for v in volumes if v.config_map} == {manifests["ConfigMap"]["metadata"]["name"]}
    for group in groups:
        volumes = {volume.name for volume in group.template.spec.volumes}
        assert {m.name for c in group.template.spec.containers for m in c.volume_mounts} <= volumes


def test_the_schema_of_a_rayjob_refuses_what_kubernetes_refuses(manifests: dict[str, dict[str, Any]]) -> None:
    spec = manifests["RayJob"]["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    spec["backofLimit"], head["rayStartParams"]["num-cpus"] = spec.pop("backoffLimit"), 0
    with pytest.raises(ValidationError) as error:
        RayJob.model_validate(manifests["RayJob"])
    assert {fault["loc"][-1] for fault in error.value.errors()} == {"backofLimit", "num-cpus"}


@pytest.mark.parametrize(("ended_with", "code"), [(0, 0), (2, 2), (3, 0), (130, 130)])
def test_the_job_is_not_repeated_if_only_mlflow_lacks_something(
    manifests: dict[str, dict[str, Any]], ended_with: int, code: int
) -> None:
    script = manifests["ConfigMap"]["data"]["sweep.sh"].replace("cd /sweeps", f"python() {{ return {ended_with}; }}")
    assert subprocess.run(["bash", "-c", script]).returncode == code


def test_all_files_name_the_version_of_ray_that_is_tested(manifests: dict[str, dict[str, Any]]) -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ray"]
    constrained = re.search(r"^ray==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert constrained is not None
    version = constrained.group(1)
    assert any(re.match(rf"ray\b.*{version.rpartition('.')[0]}", requirement) for requirement in extra)
    assert manifests["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-py3" in (EXAMPLES / "Dockerfile").read_text()


def test_the_page_the_job_script_and_the_tests_fix_the_same_ports() -> None:
    (exported,) = [c.text for c in commands(PAGE) if c.text.startswith("export PORTS=")]
    assert tuple(shlex.split(exported)[1].removeprefix("PORTS=").split()) == cluster.PORTS
    script = (EXAMPLES / "slurm.sh").read_text()
    assert all(port in script for port in (*cluster.PORTS, f":{cluster.PORT}"))
    ports = {int(number) for number in re.findall(r"\d{4,5}", " ".join(cluster.PORTS))} | {cluster.PORT}
    table = PAGE.read_text().partition("### Who may reach what")[2].partition("\n## ")[0]
    assert {int(number) for number in re.findall(r"\b\d{4,5}\b", table)} == ports
