"""Look at data before training: `beacon-look`, or `python look.py` in a checkout; settings: conf/look.yaml."""

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from beacon_lit.cli.command import command
from beacon_lit.cli.messages import short_errors
from beacon_lit.data.show import colored
from beacon_lit.data.statistics import rich_table
from beacon_lit.runs import naming


def look(cfg: DictConfig) -> None:
    """Print the first training samples of `cfg` (conf/look.yaml), and the statistics of the mixture.

    Raises:
        ValueError: a setting or the data is wrong, see `BeaconDataModule`.
    """
    console = Console()
    with naming("model.path"):
        tokenizer = instantiate(cfg.model.tokenizer)
    data = instantiate(cfg.data, tokenizer=tokenizer, validation=[])
    for sample in data.first_samples(cfg.count):
        console.print(colored(sample, data.tokenizer, max(console.width, 20), cfg.max_tokens), end="")
    statistics = data.train_statistics()
    console.print(rich_table(statistics))
    reasons = [reason for entry in statistics for reason, count in entry.left_out.items() if count]
    if meaning := data.rule.meaning(reasons):
        console.print(meaning, soft_wrap=True)


@command("look")
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    with short_errors():
        look(cfg)


if __name__ == "__main__":
    main()
