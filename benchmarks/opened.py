"""Memory while sessions are opened and closed again and again, all members in one process.

    python -m benchmarks.opened --sessions 100 --rounds 100 --json

A round is as many requests as sessions, all at once, of a few tokens each. Memory is what nobody
shares (USS), after each round; compared are medians behind the first tenth and at the end.
"""

import argparse
import statistics

import psutil
from tqdm import tqdm

from benchmarks.arms import run_arm
from benchmarks.prompts import DATA, read_prompts
from benchmarks.report import add_json_argument, print_report
from specrouter_dist.cli.backends import open_backend
from specrouter_dist.cli.options import BackendName
from specrouter_dist.cli.session import open_pool
from specrouter_dist.config import SamplingParams
from specrouter_dist.text.tokenizer import Tokenizer

_WARM_SHARE = 0.1
_EDGE_SHARE = 0.1
_MIB = 2**20


def measure(pool_name: str, num_sessions: int, num_rounds: int) -> dict[str, object]:
    """MiB by round, and what was added."""
    pool, report = open_pool(pool_name, dtype=None)
    tokenizer = Tokenizer.load(pool.directories[pool.config.target.name])
    texts = read_prompts(DATA, "dev", num_sessions)[:num_sessions]
    prompts = [tokenizer.encode(text.text)[:64] for text in texts]
    process, used = psutil.Process(), []
    with open_backend(pool, report, BackendName.LOCAL) as backend:
        for number in tqdm(range(num_rounds)):
            sampling = SamplingParams(temperature=0.8 * (number % 2), max_tokens=4)
            run_arm(backend, prompts, None, sampling, num_sessions)
            used.append(process.memory_full_info().uss / _MIB)
    edge = max(1, round(_EDGE_SHARE * num_rounds))
    warm = round(_WARM_SHARE * num_rounds)
    start, end = statistics.median(used[warm : warm + edge]), statistics.median(used[-edge:])
    return {
        "num_opened": num_sessions * num_rounds,
        "start_mib": start,
        "end_mib": end,
        "share_added": end / start - 1,
        "mib": [round(one, 1) for one in used],
    }


def main() -> None:
    """Parses the arguments, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", default="tiny")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=100)
    add_json_argument(parser)
    arguments = parser.parse_args()
    results = measure(arguments.pool, arguments.sessions, arguments.rounds)
    print_report("opened", arguments, results)


if __name__ == "__main__":
    main()
