"""Compare runs with `python -m beacon_lit.sweeps`, another name of `beacon-compare`."""

from beacon_lit.cli.compare import main

if __name__ == "__main__":
    main()
