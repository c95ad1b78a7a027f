import csv

import pytest
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beacon_lit.arch.flops import head_flops, load, training_flops
from beacon_lit.callbacks import ThroughputCallback, stopwatch, throughput
from tests.callbacks.models import Batches, batch, beacon_module
from tests.callbacks.tiny import TinyData, TinyModule, fit


class Clock:
    """Time passes only where something says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "perf_counter", clock)
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    return clock


class Step(TinyModule):
    """Two seconds a batch; ten of validation."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 2
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.now += 10


class Data(TinyData):
    """Six seconds of waiting for each batch."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def train_dataloader(self):
        loader = super().train_dataloader()
        loader.collate_fn = self.wait
        return loader

    def wait(self, batch):
        self.clock.now += 6
        return batch


class EvaluationCallback(Callback):
    """A hundred seconds of evaluation at every other step."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_end(self, trainer, *args):
        self.clock.now += 100 if trainer.global_step % 2 == 0 else 0


def logged(folder, callbacks, module=None, data=None, **trainer):
    """The trainer, and the lines of metrics.csv that have a throughput."""
    options = dict(logger=CSVLogger(folder, name="csv", version=0), module=module, data=data, **trainer)
    trained, _ = fit(folder, callbacks, **options)
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return trained, [row for row in rows if "train/tokens_per_second" in row]


@pytest.mark.parametrize(
    ("every_n_steps", "trainer", "steps"),
    [
        (1, {}, [1, 2, 3, 4, 5, 6]),
        (3, {}, [3, 6]),
        (2, dict(accumulate_grad_batches=2), [2, 4, 6]),
        (4, {}, [4]),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_a_batch_takes_its_work_and_the_wait_for_it(tmp_path, clock, every_n_steps, trainer, steps, waits):
    """Neither evaluation, on the way or between spans, nor what went before training."""
    clock.now = 1000.0
    data = Data(clock) if waits else None
    callbacks = [ThroughputCallback(every_n_steps), EvaluationCallback(clock)]
    _, rows = logged(tmp_path, callbacks, Step(clock), data, **trainer)
    assert [row["step"] for row in rows] == steps
    for row in rows:  # 8 tokens of a batch are no padding
        assert row["train/tokens_per_second"] == pytest.approx(8 / (2 + 6 * waits))
        assert row["train/data_wait"] == pytest.approx(0.75 * waits)
        assert 0.05 < row["train/peak_memory_gib"] < 500
        assert "train/mfu" not in row  # a CPU's peak is not known


def test_validation_within_a_span_is_not_counted(tmp_path, clock):
    class Validated(Data):
        def val_dataloader(self):
            return TinyData().train_dataloader()

    options = dict(val_check_interval=2, limit_val_batches=1, num_sanity_val_steps=0)
    _, rows = logged(tmp_path, [ThroughputCallback(3)], Step(clock), Validated(clock), **options)
    assert clock.now == 6 * 8 + 3 * 10
    assert [row["train/tokens_per_second"] for row in rows] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_flops_are_those_of_the_passes(tmp_path, clock, accumulate):
    """Of batches of mixed lengths, at ratios drawn at random: against the same passes, counted by torch as a check."""

    class Second(Callback):
        def on_before_backward(self, *args):
            clock.now += 1

    module, batches = beacon_module(), [batch(i) for i in range(4)]
    callbacks = [ThroughputCallback(2 // accumulate, peak_tflops=2e-3), Second()]
    _, rows = logged(tmp_path, callbacks, module, Batches(batches), max_steps=4 // accumulate,
                     accumulate_grad_batches=accumulate)  # fmt: skip
    again = beacon_module()
    for row, pair in zip(rows, (batches[:2], batches[2:]), strict=True):
        flops = counted = 0
        for one in pair:
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                out = again.lm(one["input_ids"], one["attention_mask"], labels=one["labels"], return_logits=False)
                out.loss.backward()
            labels = int((one["labels"][:, 1:] != -100).sum())
            work = load(out.rows, again.lm.beacon, again.lm.groups.reaches)
            flops += training_flops(again.lm, work) + labels * head_flops(again.lm)
            counted += counter.get_total_flops()
        assert row["train/tflops_per_device"] == pytest.approx(flops / 2 / 1e12, rel=1e-5)
        assert row["train/mfu"] == pytest.approx(row["train/tflops_per_device"] / 2e-3)
        assert 0.9 * counted < flops <= counted  # torch counts masked pairs of the windows, too


def test_the_profiler_sees_what_it_saw_without(tmp_path):
    profiler = SimpleProfiler()
    trainer, _ = logged(tmp_path, [ThroughputCallback(2)], profiler=profiler)
    assert trainer.profiler is profiler
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 6
    assert type(logged(tmp_path / "two", [ThroughputCallback(2)])[0].profiler) is PassThroughProfiler


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(every_n_steps=0), "every_n_steps=0 is not allowed; allowed: at least 1"),
        (dict(peak_tflops=0.0), "peak_tflops=0.0 is not allowed; allowed: above 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ThroughputCallback(**settings)
