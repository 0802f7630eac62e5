"""``specrouter serve``: the OpenAI-compatible service over a pool."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from specrouter_dist.cli.options import DtypeOption, PoolOption
from specrouter_dist.config import DEFAULT_LOG_FORMAT, LogFormat
from specrouter_dist.errors import ConfigError

GrpcPortOption = Annotated[
    int | None,
    typer.Option(
        "--grpc-port",
        min=1,
        max=65535,
        help="Port of the gRPC service (docs/grpc.md), on all addresses; none without it.",
    ),
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="json: one object a line, for every request.")
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings", help="A YAML file: keys, limits, deadlines, origins (docs/serving.md)."
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--api-keys-file",
        help="One API key per line. Keys may also stand in SPECROUTER_API_KEYS; without any, "
        "whoever reaches the service may use it.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout-s", help="Deadline of requests that do not say their own."),
]
OriginsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        help="Whose web pages may call the service; may be given several times. Without it, none.",
    ),
]


def serve(
    pool: PoolOption = "tiny",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the HTTP service.")
    ] = 8000,
    grpc_port: GrpcPortOption = None,
    log_format: LogFormatOption = DEFAULT_LOG_FORMAT,
    dtype: DtypeOption = None,
    settings: SettingsOption = None,
    api_keys_file: KeysOption = None,
    timeout_s: TimeoutOption = None,
    cors_origin: OriginsOption = None,
) -> None:
    """Serve a pool over HTTP until interrupted; /router is a live page of what its router does.

    Example: specrouter serve --pool tiny --port 8000 --api-keys-file keys.txt
    """
    from specrouter_dist.cli.session import open_pool
    from specrouter_dist.serving.api_keys import load_keys
    from specrouter_dist.serving.settings import read_settings

    given = {
        "api_keys_file": api_keys_file,
        "timeout_s": timeout_s,
        "cors_origins": cors_origin or None,
    }
    service = read_settings(settings, given)
    load_keys(service)
    check_port_free(host, port)
    if grpc_port is not None:
        check_port_free("0.0.0.0", grpc_port, option="--grpc-port")
    checked, _ = open_pool(pool, dtype=dtype)
    from deployments.server import run_server

    run_server(checked, service, host=host, port=port, grpc_port=grpc_port, log_format=log_format)


def check_port_free(host: str, port: int, *, option: str = "--port") -> None:
    """Binds the port for a moment, as the server will.

    Raises:
        ConfigError: somebody listens there, or the address is none of this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As servers do: connections of an earlier one that are still closing do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        raise ConfigError(
            f"{option}: cannot listen on {host}:{port}: {problem.strerror}; choose another with "
            f"{option} or --host",
            field=option.removeprefix("--"),
        ) from None
