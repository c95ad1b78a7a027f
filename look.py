"""Look at data before training on it: `python look.py --help` explains."""

from beacon_lit.cli.look import main

if __name__ == "__main__":
    main()
