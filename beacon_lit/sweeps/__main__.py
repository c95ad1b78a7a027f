"""Collect runs into one table and one figure.

    python -m beacon_lit.sweeps multirun/DATE/TIME
    python -m beacon_lit.sweeps outputs/2026-11-23 --metric perplexity/ratio_8
    python -m beacon_lit.sweeps RUN RUN RUN --metric passkey/ratio_8 --maximize --output comparison

A row per run: the settings that differ, the last metrics, time, speed and state.
"""

import argparse

from beacon_lit.sweeps.report import report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m beacon_lit.sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="of a sweep, of a run, or of runs below it")
    parser.add_argument("--metric", help="what the figure shows and the best run is chosen by")
    parser.add_argument("--maximize", action="store_true", help="more of it is better")
    parser.add_argument("--output", help="folder for summary.csv, .md and .png; default: the first FOLDER")
    arguments = parser.parse_args()
    try:
        report(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
