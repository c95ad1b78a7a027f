"""Look at data before training on it. `python look.py --help` explains; the settings are in conf/look.yaml."""

import sys

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from beacon_lit import resolvers
from beacon_lit.data.show import colored
from beacon_lit.data.statistics import rich_table
from beacon_lit.runs import quiet

resolvers.register()


def look(cfg: DictConfig) -> None:
    """Print the first samples that `cfg` (conf/look.yaml) would train on, and what the mixture is made of.

    Raises:
        ValueError: bad settings or data, see `BeaconDataModule`.
    """
    console = Console()
    data = instantiate(cfg.data, tokenizer=instantiate(cfg.model.tokenizer))
    for sample in data.first_samples(cfg.count):
        console.print(colored(sample, data.tokenizer, max(console.width, 20), cfg.max_tokens), end="")
    console.print(rich_table(data.train_statistics()))


@hydra.main(version_base="1.3", config_path="conf", config_name="look")
def main(cfg: DictConfig) -> None:
    """The command line."""
    quiet()
    try:
        look(cfg)
    except (ValueError, InstantiationException, OmegaConfBaseException) as error:
        sys.exit(f"error: {error.__cause__ or error}")


if __name__ == "__main__":
    main()
