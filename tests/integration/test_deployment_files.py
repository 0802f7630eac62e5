"""deployments/ and cluster/ against Ray's schemas, and their nodes against what pools ask for."""

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import validate_config

from specrouter_dist.actors.placing import fits
from specrouter_dist.cli.main import app
from specrouter_dist.pools.loading import available_pools, load_pool, model_members

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = sorted((ROOT / "deployments").glob("*.yaml"))
POOLS = {"llama2": "llama2", "qwen3": "qwen3-h100-l4"}
"""Of the files in cluster/, by the end of their names."""

# Ray Serve itself uses pydantic as it was; so it is only imported where that is let pass.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


def read_all(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def read(file: Path) -> dict[str, Any]:
    return read_all(file)[0]


def check_placed(pool: str, node_types: Mapping[str, Mapping[str, Any]]) -> None:
    """Every member has a node type, and all together no more nodes than there may be."""
    nodes: list[tuple[dict[str, Any], dict[str, float]]] = []
    used: Counter[str] = Counter()
    members = model_members(load_pool(pool))
    for member in sorted(members, key=lambda member: -member.num_gpus):
        for node, free in nodes:
            if fits(member, {**node, "Resources": free}):
                free["GPU"] -= member.num_gpus
                break
        else:
            for name, kind in node_types.items():
                node = {"Alive": True, "Resources": kind["resources"], "Labels": kind["labels"]}
                if fits(member, node) and used[name] < kind["max_workers"]:
                    used[name] += 1
                    free = dict(kind["resources"])
                    free["GPU"] -= member.num_gpus
                    nodes.append((node, free))
                    break
            else:
                raise AssertionError(f"no node for {member.name} of {pool}: {dict(node_types)}")
    assert used == {name: n for name, kind in node_types.items() if (n := kind["max_workers"])}


def test_every_pool_of_models_has_a_deployment() -> None:
    pools = {name for name in available_pools() if load_pool(name).config.synthetic is None}
    assert {file.stem for file in DEPLOYMENTS} == pools


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_deployments_are_ones_that_serve_can_run(file: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from deployments.app import Ingress, ServeArgs

    config = ServeDeploySchema.model_validate(read(file))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    assert ServeArgs.model_validate(application.args).pool == file.stem
    assert [deployment.name for deployment in application.deployments] == [Ingress.__name__]


@pytest.mark.parametrize("name", POOLS)
def test_ray_up_files_have_nodes_for_all_members(name: str) -> None:
    config = read(ROOT / "cluster" / f"aws_{name}.yaml")
    validate_config(config)
    workers = {
        kind: {"labels": {}, "max_workers": 0, **node}
        for kind, node in config["available_node_types"].items()
    }
    check_placed(POOLS[name], workers)
    assert config["max_workers"] == sum(node["max_workers"] for node in workers.values())


def test_the_fake_cluster_is_one_that_ray_takes() -> None:
    validate_config(read(ROOT / "cluster" / "fake_autoscaling.yaml"))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    ("kind", "cluster_key"), [("RayService", "rayClusterConfig"), ("RayJob", "rayClusterSpec")]
)
def test_kuberay_files_have_nodes_for_all_members(name: str, kind: str, cluster_key: str) -> None:
    manifest = read(ROOT / "cluster" / f"{kind.lower()}_{name}.yaml")
    assert manifest["kind"] == kind
    metadata = {"name": "any", "namespace": "any"}
    cluster = {"metadata": metadata, "spec": manifest["spec"][cluster_key]}
    check_placed(
        POOLS[name], _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    )


@pytest.mark.parametrize("name", POOLS)
def test_kuberay_serves_what_is_in_deployments(name: str) -> None:
    manifest = read(ROOT / "cluster" / f"rayservice_{name}.yaml")
    served = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert served == read(ROOT / "deployments" / f"{POOLS[name]}.yaml")


@pytest.mark.parametrize("name", POOLS)
def test_kuberay_jobs_run_a_command_that_exists(name: str) -> None:
    manifest = read(ROOT / "cluster" / f"rayjob_{name}.yaml")
    service = read(ROOT / "cluster" / f"rayservice_{name}.yaml")
    assert manifest["spec"]["rayClusterSpec"] == service["spec"]["rayClusterConfig"]
    program, command, *arguments = manifest["spec"]["entrypoint"].split()
    assert (program, command) == ("specrouter", "batch")
    assert arguments[arguments.index("--pool") + 1] == POOLS[name]
    from typer.main import get_command

    batch = get_command(app).get_command(None, command)  # type: ignore[attr-defined]
    batch.make_context(command, list(arguments))


SHARED = {
    "RayJob.rayClusterSpec": "cluster",
    "RayService.rayClusterConfig": "cluster",
    "cluster.headGroupSpec.template": "pod",
    "cluster.workerGroupSpecs.template": "pod",
}
"""Fields with the same fields below them, by the name that these have in the file."""


def check_fields(content: Any, at: str, known: Mapping[str, Any]) -> None:
    """No field below ``at`` that KubeRay does not have, and none whose own are not written down."""
    if isinstance(content, list):
        for one in content:
            check_fields(one, at, known)
    elif isinstance(content, dict):
        at = SHARED.get(at, at)
        assert known[at] == "any" or content.keys() <= set(known[at]), at
        for name, value in content.items():
            check_fields(value, f"{at}.{name}", known)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("kind", ["RayService", "RayJob"])
def test_kuberay_knows_every_field(name: str, kind: str) -> None:
    """A field that it does not know is dropped without a word."""
    known = read(Path(__file__).with_name("kuberay_fields.yaml"))
    manifest = read(ROOT / "cluster" / f"{kind.lower()}_{name}.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    check_fields(manifest["spec"], kind, known)


@pytest.mark.parametrize("name", POOLS)
def test_the_volume_that_pods_mount_comes_with_the_service(name: str) -> None:
    _, claim = read_all(ROOT / "cluster" / f"rayservice_{name}.yaml")
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert claim["spec"].keys() == {"accessModes", "resources"}
    # Pods of several nodes write.
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert set(claim["spec"]["resources"]["requests"]) == {"storage"}
    for kind in ("service", "job"):
        (manifest, *_) = read_all(ROOT / "cluster" / f"ray{kind}_{name}.yaml")
        mounted = set(values_of(manifest, "claimName"))
        assert mounted == {claim["metadata"]["name"]}


def values_of(content: Any, key: str) -> Iterator[Any]:
    """Wherever the key is."""
    if isinstance(content, dict):
        yield from (value for name, value in content.items() if name == key)
        content = list(content.values())
    if isinstance(content, list):
        for one in content:
            yield from values_of(one, key)
