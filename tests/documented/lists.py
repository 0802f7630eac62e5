"""Every command of README.md and docs/, by what runs it. Words as they are written there."""

LOCAL = {
    "specrouter pool list": "tiny",
    "specrouter pool check tiny": "target",
    "specrouter pool check tiny-tasks": "tasks: ",
    'specrouter generate --backend local --prompt "Translate to German: Save changes" --json': (
        '"finish_reason"'
    ),
    "specrouter generate --pool mypool.yaml --backend local --chain small,slim,target "
    '--prompt "def add("': "",
    "specrouter generate --pool mypool.yaml --backend local --chain small,slim,target "
    '--lossy accept=0.6,escalate=0.3 --prompt "def add("': "",
    "specrouter verify --pool tiny --prompts prompts.jsonl --temperature 0.8": "outputs equal",
    "specrouter plan --pool tiny --backend local": "target",
    "specrouter tasks fit prompts.jsonl --pool tiny --out tasks.safetensors": "tasks.safetensors",
}
"""In a directory with the files that a reader brings, and what they print; without Ray."""

DEPLOYED = {
    "serve status": "RUNNING",
    "curl http://127.0.0.1:8000/health": "ok",
    'specrouter generate --pool tiny --prompt "def add(a, b):" --max-tokens 64': "",
    "specrouter generate --pool tiny --chain small,medium,target --prompts prompts.jsonl "
    "--temperature 0.8 --json": '"small"',
    'specrouter generate --prompt "def add(a, b):" --trace out.json': "forward",
    'specrouter generate --chain small,medium,target --prompt "def add(" --trace out.json': "hop",
    "specrouter batch in.jsonl out.jsonl": "rows",
    "ray job submit --address http://HEAD:8265 --working-dir DIR -- specrouter batch in.jsonl "
    "/data/out.jsonl --pool tiny --live": "succeeded",
    "ray job submit --address http://HEAD:8265 --submission-id nightly-1 --working-dir DIR -- "
    "specrouter batch in.jsonl /data/out.jsonl --pool tiny --live --progress "
    "/data/progress.jsonl": "succeeded",
    "specrouter pool members --pool tiny": "medium: up",
    "specrouter pool remove medium --pool tiny": "medium: removed",
    "specrouter pool add medium --pool tiny": "medium: ",
}
"""While the service is deployed, and what they print."""

START = ("ray start --head", "serve deploy deployments/tiny.yaml")
LIVE_PLAN = "specrouter plan --live"
SERVE_RUN = "serve run ray_config.yaml"
SERVE_KEYS = "specrouter serve --pool tiny --api-keys-file keys.txt --settings service.yaml"
SHUTDOWN = "serve shutdown -y"
STOP_POOL = "specrouter pool stop --pool tiny"
AUTOSCALING = (
    "RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 ray start --head --port=6379 "
    "--autoscaling-config=cluster/fake_autoscaling.yaml --num-cpus=0 --include-dashboard=false"
)
"""By ``tests/integration/test_autoscaling.py``."""
RUN = (*LOCAL, *DEPLOYED, *START, LIVE_PLAN, SERVE_RUN, SERVE_KEYS, SHUTDOWN, STOP_POOL)

_MINUTES = "takes minutes"
_SMALLER = "takes long; test_synthetic.py has a smaller pool"
_SERVED = "as the other `specrouter serve`, which is run; these options: tests/integration/serve"
_TESTED = "make test runs it, or what it consists of"
_CLOUD = "needs a cloud; test_deployment_files.py checks the file"

NOT_RUN = {
    'specrouter generate --pool synthetic-mini --backend local --prompt "def add(" '
    "--temperature 0 --json": _SMALLER,
    "specrouter verify --pool synthetic-mini --prompts prompts.jsonl --temperature 0.8": _SMALLER,
    "git clone <this repository> && cd specrouter-dist": "the reader knows from where",
    "make demo": _MINUTES,
    "make serve": _SERVED,
    "make check": _TESTED,
    "make test": _TESTED,
    "make bench-peers && make bench": _MINUTES,
    "make bench-clients": _MINUTES,
    "python -m benchmarks.speedup --per-task 16": _MINUTES,
    "python -m benchmarks.load": _MINUTES,
    "python -m benchmarks.lossless --prompts 200": _MINUTES,
    "python -m benchmarks.hops": _MINUTES,
    "python -m benchmarks.rollback": _MINUTES,
    "python -m benchmarks.steps": _MINUTES,
    "python -m benchmarks.parts": _MINUTES,
    "python -m benchmarks.regret": _MINUTES,
    "python -m benchmarks.regret_simulated": _MINUTES,
    "python -m benchmarks.prediction --plot p.png": _MINUTES,
    "python -m benchmarks.adapts": _MINUTES,
    "python -m benchmarks.asynchronous": _MINUTES,
    "python -m benchmarks.similarity --plot p.png": _MINUTES,
    "python -m benchmarks.share": _MINUTES,
    "python -m benchmarks.planning": _MINUTES,
    "python -m benchmarks.beside_http": _MINUTES,
    "python -m benchmarks.clients.evaluation": _MINUTES,
    "python -m benchmarks.clients.acceptance": _MINUTES,
    "python -m benchmarks.clients.users": _MINUTES,
    "python -m benchmarks.started": _MINUTES,
    "python -m benchmarks.opened": _MINUTES,
    "python -m benchmarks.service_price": _MINUTES,
    "python -m benchmarks.batch_throughput": _MINUTES,
    "python -m benchmarks.killed_jobs --rows 500": _MINUTES,
    "python -m benchmarks.classify tasks.safetensors --log prompts.jsonl": _MINUTES,
    "make tasks-report": "takes minutes; test_tasks_report.py runs the short form",
    "make tasks-report ALIGNED=aligned/pool.yaml CONTROL=pooled/pooled BENCH_ARGS=": _MINUTES,
    "python -m benchmarks.slim": _MINUTES,
    "python -m benchmarks.slim_break_even": _MINUTES,
    "python -m benchmarks.tiers --plot tiers.svg": _MINUTES,
    "python -m benchmarks.synthetic --plot synthetic.png": _MINUTES,
    "python -m benchmarks.synthetic --device cuda --plot synthetic.png": "needs a GPU",
    "specrouter tasks align prompts.jsonl --pool tiny --tasks tasks.safetensors --out aligned": (
        _MINUTES
    ),
    "specrouter tasks align prompts.jsonl --pool tiny --tasks tasks.safetensors --out pooled "
    "--pooled": _MINUTES,
    "ray job submit --address http://HEAD:8265 --submission-id align-1 --working-dir DIR -- "
    "specrouter tasks align prompts.jsonl --pool tiny --tasks tasks.safetensors --out "
    "/data/aligned": "takes minutes; test_aligning.py submits a shorter one",
    "specrouter slim search prompts.jsonl --pool tiny --skip 0.25 --skip 0.45 --out slim.yaml "
    "--plot slim.png": "takes minutes; test_slim.py searches among fewer masks",
    "specrouter serve --pool tiny --port 8000": _SERVED,
    "specrouter serve --pool tiny --grpc-port 9000": _SERVED,
    "specrouter serve --log-format json": _SERVED,
    "specrouter serve --pool pool.yaml": _SERVED,
    "specrouter serve --pool aligned/pool.yaml": _SERVED,
    "specrouter serve --pool tiny-tasks": _SERVED,
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 specrouter serve": (
        "as the other `specrouter serve`; tests/integration/serve has a collector"
    ),
    AUTOSCALING: "test_autoscaling.py runs it as it is written",
    "ray up cluster/aws_llama2.yaml": _CLOUD,
    "ray dashboard cluster/aws_llama2.yaml &": _CLOUD,
    "serve deploy deployments/llama2.yaml": "needs GPUs; test_deployment_files.py checks the file",
    "ray down cluster/aws_llama2.yaml": _CLOUD,
    "docker build -f cluster/Dockerfile -t REGISTRY/specrouter-dist:0.1.0 . && docker push "
    "REGISTRY/specrouter-dist:0.1.0": "needs a registry, and minutes",
    "kubectl create secret generic hf-token --from-literal=token=hf_...": "needs Kubernetes",
    "kubectl apply -f cluster/rayservice_llama2.yaml": _CLOUD,
    "kubectl apply -f cluster/rayjob_llama2.yaml": _CLOUD,
    "grpcurl -plaintext localhost:9000 list": "no Python package; test_grpc.py asks by reflection",
    "grpcurl -plaintext localhost:9000 describe specrouter.v1.GenerateRequest": (
        "no Python package; test_grpc.py asks by reflection"
    ),
    """grpcurl -plaintext -d '{"prompt": "def add(a, b):", "max_tokens": 32, "temperature": 0.8, """
    """"seed": 7}' localhost:9000 specrouter.v1.SpecRouter/GenerateStream""": (
        "no Python package; the Python example and test_grpc.py call the method"
    ),
    """grpcurl -plaintext -d '{"messages": [{"role": "user", "content": "Hello"}], """
    """"speculative": {"chain": ["small", "target"]}}' """
    "localhost:9000 specrouter.v1.SpecRouter/Generate": (
        "no Python package; the Python example and test_grpc.py call the method"
    ),
    "grpcurl -plaintext localhost:9000 grpc.health.v1.Health/Check": (
        "no Python package; test_grpc.py calls the method"
    ),
    "jq -c 'select(.request_id == \"mine-1\")' /tmp/ray/session_latest/logs/worker-*.err": (
        "jq need not be here; test_exported.py reads these lines"
    ),
    "pip install 'specrouter-dist[otel]'": "not published",
    "schemathesis run http://127.0.0.1:8000/openapi.json --exclude-checks positive_data_acceptance "
    "--phases coverage,fuzzing": "takes minutes; test_openapi.py runs it with fewer examples",
}
"""And why. What its own parser can tell is tested nevertheless (``parsers.py``)."""
