"""Prepare a corpus: `python prepare.py --help` explains."""

from beacon_lit.cli.prepare import main

if __name__ == "__main__":
    main()
