from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.loader import BatchLoader, TrainLoader
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.sample import Sample
from beacon_lit.data.share import Share

SAMPLES = [
    Sample(str(i), np.arange(length, dtype=np.int32), np.ones(length, np.float32))
    for i, length in enumerate(np.random.default_rng(0).integers(3, 20, size=30).tolist())
]
ALONE = Share()


def order(**settings) -> BatchOrder:
    return BatchOrder([np.array([len(sample) for sample in SAMPLES])], **({"max_tokens": 40, "seed": 5} | settings))


def train_loader(num_workers: int = 0, share: Share = ALONE, **settings) -> TrainLoader:
    return TrainLoader(SAMPLES, order(**settings), pad_id=0, num_workers=num_workers, share=share)


def ids(loader: BatchLoader) -> list[list[str]]:
    return [batch["index"] for batch in loader]


def test_validation_always_starts_over() -> None:
    loader = BatchLoader(SAMPLES, order(), pad_id=0)
    first = next(iter(loader))["index"]
    assert ids(loader) == ids(loader)
    assert ids(loader)[0] == first
    assert len(ids(loader)) == len(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_goes_through_epochs_and_resumes_anywhere(num_workers: int) -> None:
    loader = train_loader()
    length = len(loader)
    batches = [index for _ in range(3) for index in ids(loader)]
    assert len(batches) == 3 * length
    assert batches[:length] != batches[length : 2 * length]
    for epoch in range(3):
        seen = chain.from_iterable(batches[epoch * length : (epoch + 1) * length])
        assert sorted(seen, key=int) == [sample.id for sample in SAMPLES]
    for position in (0, 1, length - 1, length, length + 2):
        resumed = train_loader(num_workers)
        resumed.load_state_dict({**loader.state_dict(), "position": position})
        rest = ids(resumed)
        assert rest == batches[position : (position // length + 1) * length]
        assert resumed.state_dict()["position"] == position + len(rest)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_position_is_what_was_handed_out_not_what_workers_made_ready(num_workers: int) -> None:
    loader = train_loader(num_workers)
    batches = iter(loader)
    for count in range(1, 4):
        next(batches)
        assert loader.state_dict()["position"] == count


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_ranks_take_turns_in_what_one_process_trains_on(world_size: int, accumulate: int, epoch: int) -> None:
    loaders = [train_loader(share=Share(rank, world_size, accumulate)) for rank in range(world_size)]
    (length,) = {len(loader) for loader in loaders}
    assert length % accumulate == 0 and length > 0
    for loader in loaders:
        loader.load_state_dict({**loader.state_dict(), "position": epoch * length})
    shares = [ids(loader) for loader in loaders]
    whole = order().batches(epoch * length * world_size)
    assert list(chain.from_iterable(zip(*shares, strict=True))) == [
        [str(index) for index in batch] for batch in islice(whole, length * world_size)
    ]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 40))
def test_a_position_counts_on_any_number_of_ranks(
    world_size: int, accumulate: int, then_world: int, then_accumulate: int, steps: int
) -> None:
    then = train_loader(share=Share(0, then_world, then_accumulate))
    now = train_loader(share=Share(0, world_size, accumulate))
    begun = min(1, then_accumulate - 1)
    now.load_state_dict({**then.state_dict(), "position": steps * then_accumulate + begun})
    trained = steps * then_accumulate * then_world
    assert now.position % accumulate == 0
    assert 0 <= trained - now.position * world_size < world_size * accumulate, "nothing is left out, little repeated"


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_batch_knows_the_weight_of_its_optimizer_step(accumulate: int) -> None:
    loader = train_loader(share=Share(accumulate=accumulate))
    batches = list(loader)
    for start in range(0, len(batches), accumulate):
        step = batches[start : start + accumulate]
        labels = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in step)
        assert [float(batch["step_weight"]) for batch in step] == [labels] * accumulate


def test_validation_is_whole_on_any_number_of_ranks() -> None:
    alone = ids(BatchLoader(SAMPLES, order(), pad_id=0))
    for world_size in (2, 3, len(alone) + 1):
        shares = [list(BatchLoader(SAMPLES, order(), 0, share=Share(rank, world_size))) for rank in range(world_size)]
        assert {len(share) for share in shares} == {-(-len(alone) // world_size)}, "or a rank would wait for ever"
        batches = [batch for turn in zip(*shares, strict=True) for batch in turn]
        assert [batch["index"] for batch in batches[: len(alone)]] == alone
        for batch in batches[len(alone) :]:
            assert batch["weights"].sum() == 0 and (batch["labels"] == -100).all() and batch["input_ids"].numel() == 1


def test_position_can_come_from_the_training_loop() -> None:
    loader = TrainLoader(SAMPLES, order(), pad_id=0, trained=lambda: 7)
    next(iter(loader))
    assert loader.state_dict()["position"] == 7


def test_loading_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    ids(train_loader())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 41}, "max_tokens=41 .*max_tokens=40"),
        ({"seed": 6}, "seed=6"),
    ],
)
def test_a_position_in_other_batches_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_loader(**settings).load_state_dict(train_loader().state_dict())


def test_a_position_in_other_data_is_refused() -> None:
    fewer = TrainLoader(SAMPLES[:-1], BatchOrder([np.array([len(s) for s in SAMPLES[:-1]])], 40, 5), pad_id=0)
    with pytest.raises(ValueError, match=r"samples=29 .*samples=30"):
        fewer.load_state_dict(train_loader().state_dict())
