"""Run lm-evaluation-harness on beacons: `beacon-harness` is `lm_eval` with the model `beacon_lm`.

    beacon-harness --model_args checkpoint=outputs/latest,ratio=4 --tasks hellaswag --batch_size 8

Some of its tasks import the package `evaluate`. In the folder of a checkout, `python -m beacon_lit.cli.harness` would
find the file evaluate.py instead; the console script does not look there.
"""

import sys

from omegaconf import OmegaConf

from beacon_lit.cli.messages import quiet
from beacon_lit.cli.threads import limit_threads


def main() -> None:
    """Run the command line of `lm_eval`, with `beacon_lm` as the default of `--model`."""
    try:
        from beacon_lit.evaluation.harness import MODEL_NAME
    except ValueError as error:  # lm_eval is not installed
        sys.exit(f"error: {error}")
    from lm_eval.__main__ import cli_evaluate

    if len(sys.argv) > 1 and sys.argv[1] not in ("ls", "validate") and "--model" not in sys.argv:
        sys.argv += ["--model", MODEL_NAME]
    quiet()
    limit_threads(OmegaConf.create())
    cli_evaluate()


if __name__ == "__main__":
    main()
