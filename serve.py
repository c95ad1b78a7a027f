"""Answer requests over HTTP: `python serve.py --help` explains."""

from beacon_lit.cli.serve import main

if __name__ == "__main__":
    main()
