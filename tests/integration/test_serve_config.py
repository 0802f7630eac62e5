"""``ray_config.yaml`` against Serve's own schema and our own arguments."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

FILE = Path(__file__).parents[2] / "ray_config.yaml"

# Ray Serve itself uses pydantic as it was; so it is only imported where that is let pass.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")


def test_the_config_is_one_that_serve_can_run() -> None:
    from ray.serve.schema import ServeDeploySchema

    from deployments.app import ServeArgs

    config = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    builder = getattr(import_module(module), name)
    (parameter,) = inspect.signature(builder).parameters.values()
    # Serve only validates arguments whose annotation is a class and not a text.
    assert parameter.annotation is ServeArgs
    built = builder(ServeArgs.model_validate(application.args))
    assert [d.name for d in application.deployments] == [built._bound_deployment.name]


def test_every_method_of_grpc_is_one_of_the_ingress() -> None:
    from grpc_health.v1 import health_pb2
    from ray.serve.config import gRPCOptions
    from ray.serve.schema import ServeDeploySchema

    from deployments.app import Ingress
    from deployments.grpc import SERVICER_FUNCTIONS
    from specrouter_dist.serving._proto import service_pb2

    config = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    assert tuple(config.grpc_options.grpc_servicer_functions) == SERVICER_FUNCTIONS
    options = gRPCOptions(grpc_servicer_functions=list(SERVICER_FUNCTIONS))
    assert len(options.grpc_servicer_func_callable) == len(SERVICER_FUNCTIONS)
    services = (
        service_pb2.DESCRIPTOR.services_by_name["SpecRouter"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
    )
    for method in (method for service in services for method in service.methods):
        parameters = list(inspect.signature(getattr(Ingress, method.name)).parameters)
        # Serve looks for this very name.
        assert parameters == ["self", "request", "grpc_context"]
        is_stream = inspect.isasyncgenfunction(getattr(Ingress, method.name))
        assert is_stream == method.server_streaming


def test_unknown_arguments_are_refused() -> None:
    from deployments.app import ServeArgs

    with pytest.raises(ValidationError, match="pools"):
        ServeArgs.model_validate({"pools": "tiny"})
