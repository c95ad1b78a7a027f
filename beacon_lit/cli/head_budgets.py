"""Compute head budgets: `beacon-head-budgets`, or `python head_budgets.py`; settings: conf/head_budgets.yaml."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from beacon_lit import BeaconLM
from beacon_lit.arch.head_budgets import HeadBudgets
from beacon_lit.arch.nn.importance import repetition_importance
from beacon_lit.arch.plan.budgets import check_settings, head_budgets
from beacon_lit.checks import check_counts, check_writable
from beacon_lit.cli.command import command
from beacon_lit.cli.messages import short_errors
from beacon_lit.data.encoding import start_ids, token_ids
from beacon_lit.evaluation.runner import evaluating
from beacon_lit.evaluation.tasks.perplexity import cut_excerpts
from beacon_lit.files import write_text
from beacon_lit.runs import check_tokenizer, naming, save_config

log = logging.getLogger(__name__)

PROMPT = "\n\nRepeat the previous context:\n\n"


def compute_head_budgets(cfg: DictConfig) -> HeadBudgets:
    """Compute head budgets of the backbone of `cfg` (conf/head_budgets.yaml), print them and write them to a file.

    Returns:
        for each layer, the share of each KV head.

    Raises:
        ValueError: a setting is wrong, or no held-out text is long enough.
    """
    check_settings(cfg.ratio, cfg.even, cfg.groups)
    check_counts(2, length=cfg.length)
    check_counts(1, pieces=cfg.pieces)
    folder = Path(cfg.run_folder) / "beacon"
    check_writable("run_folder", folder)
    with naming("model.path"):
        lm, tokenizer = instantiate(cfg.model.backbone), instantiate(cfg.model.tokenizer)
    check_tokenizer(tokenizer, lm)
    prompt = token_ids(tokenizer, PROMPT)
    check_length(cfg.length, len(prompt), lm.positions)
    documents = instantiate(cfg.data, tokenizer=tokenizer, train=[]).validation_documents()
    texts = [part.ids for part in cut_excerpts(documents, cfg.length, start_ids(tokenizer))[: cfg.pieces]]
    importance = measure(lm.to("cuda" if torch.cuda.is_available() else "cpu"), texts, prompt)
    budgets = head_budgets(importance.numpy(), cfg.ratio, cfg.even, cfg.groups)
    page = written(budgets, cfg, len(texts))
    save_config(cfg, Path(cfg.run_folder))
    write_text(folder / "head_budgets.yaml", page)
    print(page, end="")
    log.info(f"written to {folder}/head_budgets.yaml; use: --config-dir={cfg.run_folder} beacon=head_budgets")
    return budgets


def check_length(length: int, prompt: int, positions: int) -> None:
    """Raise a ValueError unless the model has positions for a text of this length, a prompt and the text again."""
    most = (positions - prompt) // 2
    if length > most:
        raise ValueError(
            f"length={length} is not allowed: the model reads a text twice, and has {positions} positions; "
            f"allowed: at most {most}"
        )


def measure(lm: BeaconLM, texts: Sequence[Sequence[int]], prompt: Sequence[int]) -> Tensor:
    """Return the importance of all texts' tokens, (layers with memory, K, tokens); see `repetition_importance`."""
    layers = lm.groups.with_memory
    with evaluating(lm):
        return torch.cat([repetition_importance(lm.model, text, prompt, layers) for text in tqdm(texts, "texts")], -1)


def written(budgets: HeadBudgets, cfg: DictConfig, pieces: int) -> str:
    """Write head budgets as an option of the config group `beacon`."""
    heads = Counter(share for row in budgets for share in row)
    groups = ", ".join(f"{count} of {share}" for share, count in sorted(heads.items()))
    return "\n".join(
        [
            f"# python train.py --config-dir={cfg.run_folder} beacon=head_budgets",
            f"# Shares of KV heads in a window's tokens, by what the heads of {cfg.model.path} attend to while it",
            f"# repeats {pieces} texts of {cfg.length} tokens (KVzip, arXiv 2505.23416). Even: {cfg.even}; the",
            f"# rest by the top 1/{cfg.ratio} of all heads' tokens. Heads: {groups}.",
            "defaults: [select]",
            "head_budgets:",
            *(f"- [{', '.join(map(str, row))}]" for row in budgets),
            "",
        ]
    )


@command("head_budgets")
def main(cfg: DictConfig) -> None:
    """Run the command line."""
    with short_errors():
        compute_head_budgets(cfg)


if __name__ == "__main__":
    main()
