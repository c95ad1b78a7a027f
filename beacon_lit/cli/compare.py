"""Compare runs, of a sweep or not, in one table and one figure.

    beacon-compare multirun/DATE/TIME
    beacon-compare outputs/2026-11-23 --metric perplexity/ratio_8
    beacon-compare RUN RUN RUN --metric passkey/ratio_8 --maximize --output comparison

The table has one row per run: the settings that differ, the last metrics, time, speed and state.
"""

import argparse

from beacon_lit.sweeps.report import report


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="beacon-compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", metavar="FOLDER", nargs="+", help="a sweep, a run, or a folder with runs at any depth"
    )
    parser.add_argument("--metric", help="metric of the figure, by which the best run is chosen")
    parser.add_argument("--maximize", action="store_true", help="larger values of the metric are better")
    parser.add_argument("--output", help="folder for summary.csv, .md and .png; default: the first FOLDER")
    arguments = parser.parse_args()
    try:
        report(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
