"""Compute head budgets of a backbone: `python head_budgets.py --help` explains."""

from beacon_lit.cli.head_budgets import main

if __name__ == "__main__":
    main()
