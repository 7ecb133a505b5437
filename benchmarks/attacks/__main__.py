"""Attack the service, and show what others notice of it: for each demand the figure, its limit, and whether it is met.

    python -m benchmarks.attacks                        all of them; about five minutes
    python -m benchmarks.attacks slow_readers parsers   only these
    python -m benchmarks.attacks --scale 0.1            with a tenth of the connections and of the time

The exit code is 0 if all demands are met.
"""

import argparse
import sys

import uvloop

from benchmarks.attacks import connections, parsers, requests
from benchmarks.attacks.watch import Attack, Demand
from benchmarks.report import verdict, write_record
from benchmarks.server import service_process, some_models

ATTACKS: dict[str, Attack] = {
    "slow_readers": connections.slow_readers,
    "slow_senders": connections.slow_senders,
    "pipelining": connections.pipelining,
    "held_bodies": connections.held_bodies,
    "many_connections": connections.many_connections,
    "parsers": parsers.parsers,
    "cheap_reads": requests.cheap_reads,
    "malformed": requests.malformed,
}
MODELS = ("quick-gan", "ddpm", "vae")
SETTINGS = {"client_share": "1", "access_log": "false"}


def main() -> int:
    """Attack, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", choices=[*ATTACKS, []], help="all, if none is named")
    parser.add_argument("--scale", type=float, default=1.0, help="of connections and of time (default 1)")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/attacks.json")
    options = parser.parse_args()
    results = {name: attack(name, options.scale) for name in options.attacks or ATTACKS}
    if options.record:
        write_record("attacks", scale=options.scale, settings=SETTINGS, results=results)
    return 0 if all(demand.met for demands in results.values() for demand in demands) else 1


def attack(name: str, scale: float) -> list[Demand]:
    """Attack a fresh service, and print the demands."""
    with some_models(*MODELS) as weights, service_process(weights_dir=str(weights), **SETTINGS) as service:
        demands = uvloop.run(ATTACKS[name](service, scale))
    for text, figure, most in demands:
        print(f"{name}: {text}: {figure:.4g}, at most {most:.4g}: {verdict(figure <= most)}", flush=True)
    return demands


if __name__ == "__main__":
    sys.exit(main())
