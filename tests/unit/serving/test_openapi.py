"""The OpenAPI document: every route of the whole service is in it, with its body's model."""

from fastapi import FastAPI

from deployments.page import add_router_page
from specrouter_dist.serving.openapi import document
from specrouter_dist.serving.router_http import add_router_route
from tests.unit.serving.asgi import call


def test_every_route_is_described(app: FastAPI) -> None:
    add_router_route(app, dict)
    add_router_page(app)
    described = document(app, "tiny", has_keys=True)
    assert call(app, "GET", "/openapi.json").json() == document(app, "tiny", has_keys=False)
    operations = [
        (path, operation)
        for path, methods in described["paths"].items()
        for name, operation in methods.items()
        if name != "parameters"
    ]
    assert len(operations) == 11
    for path, operation in operations:
        assert ("401" in operation["responses"]) == ("security" in operation), path
        if "requestBody" in operation:
            (content,) = operation["requestBody"]["content"].values()
            name = content["schema"]["$ref"].rpartition("/")[2]
            schema = described["components"]["schemas"][name]
            assert schema["additionalProperties"] is False
