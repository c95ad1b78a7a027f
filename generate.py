"""Ask about a long text: `python generate.py --help` explains."""

from beacon_lit.cli.generate import main

if __name__ == "__main__":
    main()
