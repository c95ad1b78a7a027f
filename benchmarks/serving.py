"""Put a server under load, check every response, and watch what the server takes.

    python -m benchmarks.serving --minutes 60 --serve model=tiny
    python -m benchmarks.serving --minutes 5 --clients 20 --serve checkpoint=outputs/latest batch_size=8 queue=8
    python -m benchmarks.serving --minutes 0.2 --clients 4 --pause 0 --longest 100 --serve model=tiny    # seconds

`serve.py` runs in a process of its own, with limits that are soon reached; `--serve` has further settings of
conf/serve.yaml. Each client does one thing after the other, chosen at random, and rests in between:

- ask about a document, streamed or not, or talk about it for three turns; documents differ in length, some begin alike
- continue plain texts, many of which begin alike; some of the answers are drawn
- upload a document, or two at once; delete one; list documents, and read one back
- go away while an answer is streamed, or while a document is compressed
- send a wrong key, a wrong model, fields out of range, a document that does not exist, and documents that are too long

Unexpected are:

- a status or error code other than that of the documentation
- a greedy answer other than the first one to the same question. Rounding can change greedy answers in half precision,
  since a prompt may be read in other pieces and an answer be written in another batch: `--rounding` only counts those
- a document that is lost, other than to make room
- a limit of memory or disk that is exceeded, or work that is left when all clients have gone
- an error in the server's log
- a stream that a graceful stop cuts off, a stop with an error, or a second start with other documents or answers

OUT receives serving.json, with all samples, and server.log. The status is 1 if anything unexpected happened.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.clients import Client, Shelf
from benchmarks.restart import Restart
from benchmarks.server import Server
from benchmarks.tally import Tally, slope

# `graceful_seconds`: for slow machines, on which the answer that a stop has to wait for takes long.
LIMITS = {
    "batch_size": "4", "queue": "4", "disk_mib": "4", "memory_mib": "8", "upload_mib": "1", "graceful_seconds": "120"
}  # fmt: skip
GROWING = ("rss_mib", "device_mib", "threads", "files", "folder_mib", "prefix_mib")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the load that the command line asks for.

    Returns:
        0, or 1 if anything unexpected happened.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: the server did not start.
    """
    args = parse(argv)
    settings = {**LIMITS, **dict(_setting(word) for word in args.serve)}
    args.out.mkdir(parents=True, exist_ok=True)
    tally = Tally(args.rounding)
    samples: list[dict[str, float]] = []
    server = Server(settings, args.out)
    try:
        restart = Restart(server, settings, args.out, tally)
        seconds = load(server, settings, args, tally, samples)
        restart.run()
    finally:
        server.kill()
    logged = server.log.read_text()
    if "Traceback" in logged or "ERROR" in logged:
        tally.wrong(f"errors in {server.log}")
    result = summary(args, settings, tally, samples, seconds) | {"start_s": server.start_seconds, **restart.times}
    (args.out / "serving.json").write_text(json.dumps({**result, "samples": samples}, indent=1) + "\n")
    show(result)
    return 1 if tally.failures else 0


def load(
    server: Server, settings: Mapping[str, str], args: argparse.Namespace, tally: Tally, samples: list[dict[str, float]]
) -> float:
    """Let the clients work, and take samples meanwhile; return the seconds that this took."""
    shelf, start = Shelf(), time.monotonic()
    crowded = 2 * args.clients > int(settings["batch_size"]) + int(settings["queue"])  # a client can upload two at once
    with ThreadPoolExecutor(args.clients) as pool:
        clients = [
            Client(server, tally, shelf, args.longest, args.beyond, float(settings["upload_mib"]), seed, crowded)
            for seed in range(args.clients)
        ]
        running = [pool.submit(client.run, start + 60 * args.minutes, args.pause) for client in clients]
        while not all(map(Future.done, running)):
            sample = {"seconds": time.monotonic() - start, **server.sample()}
            samples.append(sample)
            _check_limits(sample, settings, tally)
            time.sleep(min(args.every, max(0.2, start + 60 * args.minutes - time.monotonic())))
    seconds = time.monotonic() - start
    if not server.idle(30):
        tally.wrong("work is left when all clients have gone")
    samples.append({"seconds": time.monotonic() - start, **server.sample()})
    if len(shelf.lost) > samples[-1]["evicted_documents_total"]:
        tally.wrong(f"{len(shelf.lost)} documents lost; only {samples[-1]['evicted_documents_total']} made room")
    return seconds


def summary(
    args: argparse.Namespace, settings: Mapping[str, str], tally: Tally, samples: list[dict[str, float]], seconds: float
) -> dict[str, Any]:
    """Describe what happened."""
    requests = sum(count for name, count in tally.statuses.items() if not name.endswith("left"))
    return {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": dict(settings),
        "clients": args.clients, "pause_s": args.pause, "longest": args.longest,
        "seconds": seconds,
        "statuses": dict(sorted(tally.statuses.items())),
        "failures": tally.failures, "unexpected": tally.unexpected,
        "compared_answers": tally.compared, "differing_answers": tally.differing,
        "requests_per_second": requests / seconds,
        "tokens": dict(tally.tokens),
        "tokens_per_second": {kind: count / seconds for kind, count in tally.tokens.items()},
        "evicted_documents": samples[-1]["evicted_documents_total"],
        "times": tally.percentiles(),
        "growth": {name: growth(samples, name) for name in GROWING if name in samples[0]},
    }  # fmt: skip


def growth(samples: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Return a value at 10 %, 50 % and 100 % of the time, its maximum, and its growth per hour over the last half."""
    end = samples[-1]["seconds"]
    at = {
        f"{share:.0%}": next(one[name] for one in samples if one["seconds"] >= share * end) for share in (0.1, 0.5, 1)
    }
    half = [one for one in samples if one["seconds"] >= end / 2]
    per_hour = slope([one["seconds"] for one in half], [one[name] for one in half])
    return {**at, "max": max(one[name] for one in samples), "per_hour": per_hour}


def show(result: Mapping[str, Any]) -> None:
    """Print what happened."""
    print(f"{result['machine']}, {result['date']}, {result['clients']} clients, {result['seconds']:.0f} s")
    print("settings: " + " ".join(f"{name}={value}" for name, value in result["settings"].items()))
    print("\nrequests by route and status")
    for name, count in result["statuses"].items():
        print(f"{count:>9,}  {name}")
    rates = ", ".join(f"{rate:,.1f} {kind}" for kind, rate in result["tokens_per_second"].items())
    print(f"\n{result['requests_per_second']:.1f} requests/s; tokens/s: {rates}")
    print(f"{result['compared_answers']:,} greedy answers compared, {result['differing_answers']:,} differ")
    print(f"{result['evicted_documents']:.0f} documents made room")
    print(f"start {result['start_s']:.1f} s, stop {result['stop_s']:.1f} s, second start {result['restart_s']:.1f} s")
    for title, table in (("milliseconds", result["times"]), ("the server", result["growth"])):
        print(f"\n{title:16}" + "".join(f"{column:>10}" for column in next(iter(table.values()), {})))
        for name, row in table.items():
            print(f"{name:16}" + "".join(f"{value:>10,.1f}" for value in row.values()))
    print(f"\nunexpected: {result['failures']}")
    for what in result["unexpected"]:
        print(f"- {what}")


def _check_limits(sample: Mapping[str, float], settings: Mapping[str, str], tally: Tally) -> None:
    for value, limit in (("document_mib", "disk_mib"), ("prefix_mib", "memory_mib")):
        if sample[value] > float(settings[limit]):
            tally.wrong(f"{value} {sample[value]:.2f} after {sample['seconds']:.0f} s; {limit}={settings[limit]}")


def _setting(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"serve={word!r} is not allowed; allowed: NAME=VALUE, as for serve.py")
    return name, value


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: a setting out of range.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs="+", default=[], metavar="NAME=VALUE", help="settings of conf/serve.yaml")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.3, help="mean seconds that a client rests; default: 0.3")
    parser.add_argument("--longest", type=int, default=2000, help="words of the longest document; default: 2000")
    parser.add_argument("--beyond", type=int, default=20_000, help="words that are too many; default: 20000")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from sample to sample; default: 5")
    parser.add_argument("--rounding", action="store_true", help="answers may differ: half precision")
    parser.add_argument("--out", type=Path, default=Path("outputs/serving"))
    args = parser.parse_args(argv)
    for name, least in (("minutes", 0), ("clients", 0), ("pause", -math.inf), ("every", 0), ("longest", 39)):
        if not getattr(args, name) > least:
            raise ValueError(f"{name}={getattr(args, name)} is not allowed; allowed: more than {least}")
    return args


if __name__ == "__main__":
    sys.exit(main())
