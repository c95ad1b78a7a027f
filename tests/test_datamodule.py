"""The data stage under a real Lightning trainer: a resumed run sees what an uninterrupted one would have seen."""

import json
from itertools import chain
from pathlib import Path

import lightning
import pytest
import torch
from datasets import Dataset
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from beacon_lit.cli import resolvers
from beacon_lit.data.share import Share, move_progress
from beacon_lit.data.sources import JsonSource
from beacon_lit.datamodule import BeaconDataModule

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

CONF = Path(__file__).parents[1] / "conf" / "data"
WORDS = 97


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a number, and the number its id."""
    vocabulary = {str(i): i for i in range(WORDS)} | {"<eos>": WORDS}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A training and a validation file: documents of 20 to 59 words."""
    folder = tmp_path_factory.mktemp("files")
    for name, first, count in (("train", 0, 40), ("validation", 40, 5)):
        documents = [
            {"id": f"{i}", "text": " ".join(str((i + j) % WORDS) for j in range(20 + 7 * i % 40))}
            for i in range(first, first + count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    return [str(folder / "train.jsonl"), str(folder / "validation.jsonl")]


def datamodule(tokenizer, files: list[str], **settings) -> BeaconDataModule:
    settings = {"cache": Path(files[0]).parent / "tokens", **settings}
    defaults = {"window": 8, "min_length": 9, "max_length": 48, "max_tokens": 120, "seed": 3}
    return BeaconDataModule(tokenizer, [files[0]], [files[1]], **(defaults | settings))


class Recorder(lightning.LightningModule):
    """Learns a little, and notes the samples of every batch; `fail_at` raises in that batch."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS + 1, 1, _weight=torch.linspace(0, 1, WORDS + 1)[:, None])
        self.seen: list[list[str]] = []
        self.fail_at = fail_at

    def training_step(self, batch: dict) -> torch.Tensor:
        if len(self.seen) == self.fail_at:
            raise RuntimeError("failed")
        self.seen.append(batch["index"])
        return self.embedding(batch["input_ids"]).squeeze(-1).mul(batch["attention_mask"]).square().mean()

    def validation_step(self, batch: dict) -> None:
        pass

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        share = Share(accumulate=self.trainer.accumulate_grad_batches)
        move_progress(checkpoint["loops"], share, share)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(data: BeaconDataModule, folder: Path, resume: Path | None = None, fail_at: int | None = None, **settings):
    """The module after a run, and its checkpoints by file name."""
    options = {"dirpath": folder, "save_top_k": -1, "filename": "{step}"}
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(**options, every_n_train_steps=5, save_on_exception=True),
            ModelCheckpoint(**options | {"filename": "end-{epoch}"}, save_on_train_epoch_end=True),
        ],
        **({"max_epochs": 3} | settings),
    )
    module = Recorder(fail_at)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
    return module, {path.name: path for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_resume_equals_uninterrupted(tokenizer, files, tmp_path: Path, num_workers: int, accumulate: int) -> None:
    data = datamodule(tokenizer, files, num_workers=num_workers)
    settings = {"accumulate_grad_batches": accumulate, "num_sanity_val_steps": 1}
    whole, checkpoints = fit(data, tmp_path / "whole", **settings)
    length = len(data.train_dataloader())
    assert len(whole.seen) == 3 * length and length % 5
    assert accumulate > 1 or sorted(chain.from_iterable(whole.seen[length : 2 * length])) == sorted(
        sample.id for sample in data.train_samples
    )
    assert len(checkpoints) >= (8 if accumulate == 1 else 5)
    for name, path in sorted(checkpoints.items())[:: 1 + num_workers]:  # starting processes takes longest
        position = (
            torch.load(path, weights_only=False)["BeaconDataModule"]["train"]["position"] // accumulate * accumulate
        )
        fresh = datamodule(tokenizer, files, num_workers=num_workers)
        rest, _ = fit(fresh, tmp_path / name, resume=path, **settings)
        assert rest.seen == whole.seen[position:], name
        assert torch.equal(rest.embedding.weight, whole.embedding.weight), name


def test_max_steps_and_limited_epochs_resume_too(tokenizer, files, tmp_path: Path) -> None:
    settings = {"max_epochs": -1, "max_steps": 35, "limit_train_batches": 10, "limit_val_batches": 0}
    whole, checkpoints = fit(datamodule(tokenizer, files), tmp_path / "whole", **settings)
    assert len(whole.seen) == 35 and len(set(map(tuple, whole.seen))) > 20, "a limit on batches does not repeat them"
    for name, path in checkpoints.items():
        position = torch.load(path, weights_only=False)["BeaconDataModule"]["train"]["position"]
        rest, _ = fit(datamodule(tokenizer, files), tmp_path / name, resume=path, **settings)
        assert rest.seen == whole.seen[position:], name
        assert torch.equal(rest.embedding.weight, whole.embedding.weight), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failed_batch_is_trained_on_after_resuming(tokenizer, files, tmp_path: Path, num_workers: int) -> None:
    whole, _ = fit(datamodule(tokenizer, files), tmp_path / "whole")
    data = datamodule(tokenizer, files, num_workers=num_workers)
    with pytest.raises(RuntimeError, match="failed"):
        fit(data, tmp_path / "failed", fail_at=7)
    rest, _ = fit(datamodule(tokenizer, files), tmp_path / "rest", resume=tmp_path / "failed" / "step=7.ckpt")
    assert rest.seen == whole.seen[7:]
    assert torch.equal(rest.embedding.weight, whole.embedding.weight)


def test_resuming_on_other_data_is_refused(tokenizer, files, tmp_path: Path) -> None:
    _, checkpoints = fit(datamodule(tokenizer, files), tmp_path / "whole", max_epochs=1)
    with pytest.raises(ValueError, match=r"max_tokens=96 differs .* max_tokens=120"):
        fit(datamodule(tokenizer, files, max_tokens=96), tmp_path / "rest", resume=checkpoints["end-epoch=0.ckpt"])


def test_batches_are_what_models_take(tokenizer, files) -> None:
    data = datamodule(tokenizer, files)
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "labels", "weights", "index", "step_weight"}
    mask = batch["attention_mask"]
    assert len(batch["index"]) == len(mask) > 1 and mask.sum() <= 120 and mask.sum(1).min() > 8
    assert torch.equal(batch["labels"] == -100, mask == 0) and torch.equal(batch["weights"], mask.float())
    assert batch["input_ids"][mask == 0].unique().tolist() in ([], [WORDS]), "padding is the end-of-text token"


def test_validation_documents_are_whole(tokenizer, files) -> None:
    documents = datamodule(tokenizer, files, max_length=12, min_length=0).validation_documents()
    assert [name for name, _ in documents] == [str(i) for i in range(40, 45)]
    assert documents[1] == ("41", [(41 + j) % WORDS for j in range(20 + 7 * 41 % 40)])


def test_without_validation(tokenizer, files, tmp_path: Path) -> None:
    data = BeaconDataModule(tokenizer, files[0], [], window=8, min_length=9, max_length=48, cache=tmp_path)
    assert data.val_dataloader() == [] and data.validation_documents() == []
    assert data.max_tokens == 48


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 47}, "max_tokens=47 must be an integer, at least 48"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"max_length": 8}, "max_length=8"),
        ({"seed": -1}, "seed=-1"),
        ({"long": "wrap"}, "long='wrap'"),
    ],
)
def test_bad_settings(tokenizer, files, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datamodule(tokenizer, files, **settings)


def test_no_training_source(tokenizer, tmp_path: Path) -> None:
    data = BeaconDataModule(tokenizer, [], [], window=8, min_length=9, max_length=48, cache=tmp_path)
    with pytest.raises(ValueError, match="must name at least one source"):
        data.train_dataloader()


def prepared(name: str, folder: Path, files: list[str]) -> dict[str, str]:
    """What a config's first training source is to be told: where its data is."""
    documents = [json.loads(line) for line in Path(files[0]).read_text().splitlines()]
    texts = Dataset.from_list([{"text": document["text"] * 3} for document in documents])
    if name == "parquet":
        texts.to_parquet(folder / "some.parquet")
        return {"path": str(folder / "*.parquet")}
    if name == "tokens":
        rows = [{"input_ids": list(range(20 + i))} for i in range(30)]
        Dataset.from_list(rows).save_to_disk(folder / "shards" / "0")
        return {"path": str(folder / "shards" / "*")}
    if name in ("hub", "stream"):
        texts.to_json(folder / "hub" / "train.jsonl")
        return {"dataset": str(folder / "hub")}
    return {"path": files[0]} if name == "retrieval" else {}


@pytest.mark.parametrize("name", sorted(file.stem for file in CONF.glob("*.yaml") if file.stem != "base"))
def test_configs_instantiate(name: str, tokenizer, files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BEACON_DATA", str(tmp_path))
    resolvers.register()
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "cache"))
    data = OmegaConf.merge(OmegaConf.load(CONF / "base.yaml"), OmegaConf.load(CONF / f"{name}.yaml"))
    assert data.pop("defaults") == ["base"]
    config = OmegaConf.create({"seed": 0, "beacon": {"window": 16}, "data": data})
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")
    if name == "text":
        config.data.train, config.data.validation = [files[0]], [files[1]]
    for option, value in prepared(name, tmp_path, files).items():
        config.data.train[0][option] = value
    if name == "retrieval":  # whose sentences this tokenizer cannot spell
        config.data.train, config.data.max_length = config.data.train[:1], 64
    for path in [*config.data.train, *config.data.validation]:
        if str(path).startswith("long-llm:"):
            file = tmp_path / path.removeprefix("long-llm:").partition("[")[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"text": "1 2 3 " * 3000}) + "\n")
    data = instantiate(config.data, tokenizer=tokenizer)
    assert isinstance(data, BeaconDataModule)
    assert data.rule.window == 16
    assert next(iter(data.train_dataloader()))["index"]


def lines(file: Path, name: str, count: int, **extra) -> JsonSource:
    """A source of so many documents of 20 words, whose ids begin with `name`."""
    file.write_text("".join(json.dumps({"id": f"{name}{i}", "text": "7 " * 20}) + "\n" for i in range(count)))
    return JsonSource(str(file), **extra)


def test_sources_are_mixed_by_weight(tokenizer, files, tmp_path: Path) -> None:
    sources = [lines(tmp_path / "a", "a", 90, weight=1.0), lines(tmp_path / "b", "b", 10, weight=3.0)]
    data = BeaconDataModule(tokenizer, sources, [], window=8, min_length=9, max_length=48, cache=tmp_path)
    seen = [name for batch in data.train_dataloader() for name in batch["index"]]
    assert abs(len([name for name in seen if name[0] == "b"]) - 75) <= 6 and len(seen) >= 95
    assert len({name for name in seen if name[0] == "b"}) == 10, "the smaller source comes again and again"
    with pytest.raises(ValueError, match=r"weight=null of .*c'? must be a number"):
        sources = [sources[0], lines(tmp_path / "c", "c", 3)]
        BeaconDataModule(tokenizer, sources, [], window=8, min_length=9, max_length=48, cache=tmp_path)


def test_what_is_left_out_is_logged_with_the_limits(tokenizer, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "' + "1 " * 20 + '"}\n{"text": "1"}\n')
    settings = {"window": 8, "min_length": 9, "max_length": 48, "cache": tmp_path}
    assert len(BeaconDataModule(tokenizer, str(file), [], **settings).train_samples) == 1
    assert "left out: 1 too_short (too_short: fewer tokens than min_length=9)" in caplog.text


def test_malformed_records_are_logged_counted_and_limited(tokenizer, files, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "some.jsonl"
    file.write_text("".join(['{"text": "' + "1 " * 20 + '"}\n', "{nonsense\n", '{"title": "x"}\n'] * 3))
    settings = {"window": 8, "min_length": 9, "max_length": 48, "cache": tmp_path}
    assert len(BeaconDataModule(tokenizer, str(file), [], **settings).train_samples) == 3
    assert "3 invalid_json, 3 no_text" in caplog.text and f"{file}, line 2: " in caplog.text
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ValueError, match=r"some.jsonl, line 2: .*strict=true"):
        _ = BeaconDataModule(tokenizer, str(file), [], strict=True, **settings).train_samples
    with pytest.raises(ValueError, match=r"malformed record 6 of .*max_bad=5"):
        _ = BeaconDataModule(tokenizer, str(file), [], max_bad=5, **settings).train_samples


def test_a_template_is_chosen_by_name(tokenizer, files, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "1 2 3 4 5 6 7 8 9 10"}, {"role": "assistant", "content": "11 12 13"}]
    file.write_text(json.dumps({"conversations": turns}) + "\n")
    settings = {"window": 8, "min_length": 9, "max_length": 48, "cache": tmp_path}
    with pytest.raises(ValueError, match=r"template=None .*vicuna"):
        _ = BeaconDataModule(tokenizer, str(file), [], strict=True, **settings).train_samples
    (sample,) = BeaconDataModule(tokenizer, str(file), [], template="plain", **settings).train_samples
    assert tokenizer.decode(sample.input_ids[sample.weights > 0]).split() == ["11", "12", "13", "<eos>"]
    assert tokenizer.chat_template is None


@pytest.mark.parametrize("limit", [0.5, 7])
def test_an_epoch_that_would_end_amid_a_step_is_refused(tokenizer, files, tmp_path: Path, limit: float) -> None:
    with pytest.raises(ValueError, match=rf"limit_train_batches={limit} must be a multiple of .*=2, or 1.0 for all"):
        fit(datamodule(tokenizer, files), tmp_path, limit_train_batches=limit, accumulate_grad_batches=2)
