"""Train beacons: `python train.py --help` explains."""

from beacon_lit.cli.train import main

if __name__ == "__main__":
    main()
