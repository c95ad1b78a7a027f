"""Evaluate beacons: `python evaluate.py --help` explains."""

from beacon_lit.cli.evaluate import main

if __name__ == "__main__":
    main()
