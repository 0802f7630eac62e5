"""The gRPC methods of the ingress, which Ray Serve calls by their names.

Serve's own proxy is the server; it has reflection, and passes a client's leaving on.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from specrouter_dist.serving.grpc_service import Context, GrpcService

SERVICER_FUNCTIONS = ("deployments.grpc_proxy.add_services",)
"""What a proxy registers: ``grpc_servicer_functions`` of Serve's ``grpc_options``."""


class GrpcMethods:
    """Each as the service has it; ``grpc_context`` is what Serve calls the context."""

    grpc: GrpcService

    async def Generate(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.generate(request, grpc_context)

    async def GenerateStream(
        self, request: Any, grpc_context: Context
    ) -> AsyncGenerator[Any, None]:
        async with aclosing(self.grpc.generate_stream(request, grpc_context)) as responses:
            async for response in responses:
                yield response

    async def Tokenize(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.tokenize(request, grpc_context)

    async def Detokenize(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.detokenize(request, grpc_context)

    async def ListModels(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.list_models(request, grpc_context)

    async def ExplainRouter(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.explain_router(request, grpc_context)

    async def Check(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.check(request, grpc_context)

    async def List(self, request: Any, grpc_context: Context) -> Any:
        return await self.grpc.list_health(request, grpc_context)

    async def Watch(self, request: Any, grpc_context: Context) -> AsyncGenerator[Any, None]:
        # Clients of the health protocol then take the service for healthy, as it says.
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("Watch is not implemented; poll Check")
        raise NotImplementedError("Watch")
        yield
