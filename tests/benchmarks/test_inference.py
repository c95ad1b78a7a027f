"""The inference benchmark: the whole command on a tiny shape, and each of its rules."""

import json
import math

import pytest
import torch
from transformers import DynamicCache

from beacon_lit.arch.flops import forward_flops
from beacon_lit.arch.inference.decode_static import StaticDecoding
from benchmarks import decoding, figures, inference, reading
from benchmarks.decoding import next_batch, text_before, timings, weight_bytes
from benchmarks.device import OUT_OF_MEMORY, attempt, is_out_of_memory
from benchmarks.plan import PLANS
from benchmarks.report import largest
from benchmarks.subjects import Beacons, Dense, Kept, dense_work, random_ids
from tests.quick import collect_seldom

pytestmark = pytest.mark.usefixtures("drawn_figures")
CPU = torch.device("cpu")


def run(folder, *options: str) -> tuple[int, dict]:
    """The command on the tiny shape, and the rows that it leaves by part."""
    status = inference.main(["--device", "cpu", "--shapes", "tiny", "--out", str(folder), *options])
    return status, {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


@pytest.fixture(scope="module")
def lm():
    return inference.model("tiny", PLANS["tiny"], inference.parse([]), CPU)


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """Leave what other tests have made out of the garbage collection before each measurement."""
    collect_seldom()


@pytest.fixture
def few_steps(monkeypatch):
    """Decode eight steps around a border, where it is not the steps that a test looks at."""
    monkeypatch.setattr(decoding, "DECODE_AHEAD", 4)
    monkeypatch.setattr(decoding, "BATCH_AHEAD", 4)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference")
    return folder, *run(folder)


def test_the_command_measures_reading(everything, lm):
    _, status, parts = everything
    assert status == 0
    rows = parts["read"]["rows"]
    assert [(row["model"], row["tokens"]) for row in rows] == [
        (name, length) for length in (512, 1024) for name in ("beacons", "dense, static", "dense")
    ]
    for row in rows:
        assert row["seconds"] > 0 and row["runs"] == 3 and row["peak_gib"] is None
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    config, held = lm.config, {row["model"]: row["cache_gib"] * 2**30 for row in rows[3:]}
    token_bytes = (
        2 * 2 * config.num_hidden_layers * config.num_key_value_heads * 16
    )  # keys and values, bf16, heads of 16
    assert held["dense"] == 1024 * token_bytes
    assert held["beacons"] == lm.compress(random_ids(lm, 1024, CPU)).visible.nbytes < held["dense"] / 2


def test_texts_beyond_the_positions_are_measured_where_they_can_be_read(lm, monkeypatch):
    """At ratio 8, memory is 8 times shorter than the text; our machinery cannot keep all of it, and refuses."""
    monkeypatch.setattr(lm.config, "rope_parameters", {"rope_type": "default", "rope_theta": 1e6})
    monkeypatch.setattr(lm.config, "max_position_embeddings", 1000)
    with pytest.raises(ValueError, match="position slots"):
        Kept(lm).read(random_ids(lm, 1024, CPU))
    rows = list(reading.read(lm, PLANS["tiny"], CPU))
    assert [(row["model"], row["tokens"]) for row in rows if "error" not in row] == [
        ("beacons", 512), ("dense, static", 512), ("dense", 512), ("beacons", 1024), ("dense", 1024)
    ] and len(rows) == 5  # fmt: skip


@pytest.mark.parametrize("placement, unfinished", [("select", "raw"), ("interleave", "raw"), ("interleave", "beacons")])
def test_the_placement_is_what_is_measured(few_steps, tmp_path, placement, unfinished):
    options = ["--placement", placement, "--unfinished", unfinished]
    plan = inference.chosen_plan("tiny", inference.parse(options))
    assert (plan.beacon.placement, plan.beacon.unfinished) == (placement, unfinished)
    status, parts = run(tmp_path, *options, "--parts", "read", "decode", "--lengths", "256")
    rows = parts["read"]["rows"] + parts["decode"]["rows"]
    assert status == 0 and {(row["placement"], row["unfinished"]) for row in rows} == {(placement, unfinished)}


def test_the_command_measures_decoding(everything, lm):
    _, _, parts = everything
    beacons, window, static, dense, weights = parts["decode"]["rows"]
    assert [row["model"] for row in parts["decode"]["rows"]] == [
        "beacons", "one window read", "dense, static", "dense", "weights alone"
    ]  # fmt: skip
    assert window["median_ms"] > 0 and window["tokens"] == beacons["tokens"]
    for row in (beacons, static, dense):
        read = weights["weights_gib"] + row["cache_gib"]
        assert row["floor_ms"] == pytest.approx(weights["median_ms"] * read / weights["weights_gib"])
        assert row["of_floor"] == row["median_ms"] / row["floor_ms"]
        assert len(row["steps_ms"]) == 100 and 0 < row["median_ms"] <= row["worst_ms"]
    slowest = max(beacons["steps_ms"][49:52])
    assert beacons["border_ms"] == pytest.approx(slowest, abs=1e-3) and dense["border_ms"] is None
    assert weights["weights_gib"] * 2**30 == weight_bytes(lm) and weights["median_ms"] > 0


def test_the_step_at_a_border_is_the_one_that_closes_a_window(lm, monkeypatch):
    steps, closing = [], []
    step, close = StaticDecoding.step, StaticDecoding._close
    monkeypatch.setattr(StaticDecoding, "step", lambda self, ids: steps.append(1) or step(self, ids))
    monkeypatch.setattr(StaticDecoding, "_close", lambda self, rows: closing.append(len(steps)) or close(self, rows))
    ids, beacons = text_before(lm, 512, 20, CPU), Beacons(lm)
    beacons.generate(ids, beacons.read(ids[:, :-1]), 40)
    assert (len(steps), closing) == (40, [21])


def test_the_command_measures_batches(everything):
    _, _, parts = everything
    assert [(row["model"], row["batch"]) for row in parts["batch"]["rows"]] == [
        (name, rows) for name in ("beacons", "dense, static", "dense") for rows in (2, 4)
    ]
    assert parts["batch"]["largest_batch"] == {"tiny": {"beacons": 4, "dense, static": 4, "dense": 4}}
    one_row, two_rows = (row["cache_gib"] for row in parts["batch"]["rows"][4:])
    assert two_rows == 2 * one_row


def test_the_command_draws_and_says_what_it_ran_on(everything):
    folder, _, parts = everything
    assert (folder / "inference.png").read_bytes().startswith(b"\x89PNG")
    for content in parts.values():
        assert content["environment"]["torch"] == torch.__version__
        assert {(row["window"], row["ratio"], row["sink"], row["overlap"]) for row in content["rows"]} == {
            (128, 8, 4, 32)
        }


def test_parts_of_other_commands_stay(few_steps, tmp_path):
    run(tmp_path, "--parts", "read", "--lengths", "256")
    before = (tmp_path / "read.json").read_text()
    status, parts = run(tmp_path, "--parts", "batch", "--lengths", "128", "--rows", "1", "--most", "1")
    assert status == 0 and set(parts) == {"read", "batch"}
    assert (tmp_path / "read.json").read_text() == before
    assert {row["tokens"] for row in parts["batch"]["rows"]} == {128}


def test_running_out_of_memory_is_a_row_and_the_rest_goes_on(few_steps, tmp_path, monkeypatch, capsys):
    read = Dense.read

    def too_large(self, ids):
        if ids.shape[1] > 600:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return read(self, ids)

    def too_many(self, cache, rows, device):
        if rows > 3:
            raise RuntimeError("CUDA error: out of memory")
        return for_rows(self, cache, rows, device)

    for_rows = Beacons.for_rows
    monkeypatch.setattr(Dense, "read", too_large)
    monkeypatch.setattr(Beacons, "for_rows", too_many)
    status, parts = run(tmp_path, "--parts", "read", "batch")
    assert status == 0 and (tmp_path / "inference.png").exists()
    errors = {(row["model"], row["tokens"]): row.get("error") for row in parts["read"]["rows"]}
    assert errors == {
        ("beacons", 512): None, ("dense, static", 512): None, ("dense", 512): None,
        ("beacons", 1024): None, ("dense, static", 1024): None, ("dense", 1024): OUT_OF_MEMORY,
    }  # fmt: skip
    tried = [(row["batch"], row.get("error")) for row in parts["batch"]["rows"] if row["model"] == "beacons"]
    assert tried == [(2, None), (4, OUT_OF_MEMORY), (3, None)]
    assert parts["batch"]["largest_batch"]["tiny"] == {"beacons": 3, "dense, static": 3, "dense": 4}
    assert capsys.readouterr().out.count(OUT_OF_MEMORY) == 3


def test_another_failure_shows_in_the_status_and_the_rest_goes_on(few_steps, tmp_path, monkeypatch, capsys):
    def broken(self, ids, cache, new):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Beacons, "generate", broken)
    status, parts = run(tmp_path, "--parts", "decode", "batch")
    assert status == 1
    for part in ("decode", "batch"):
        errors = [row.get("error") for row in parts[part]["rows"]]
        assert errors[0] == "RuntimeError: no such kernel" and set(errors[1:]) == {None}  # "dense, static" has its own
    assert "in broken" in capsys.readouterr().err


def test_a_model_that_cannot_be_made_is_a_row(tmp_path, monkeypatch):
    def too_large(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference, "build", too_large)
    status, parts = run(tmp_path, "--parts", "read")
    assert status == 0 and [row["error"] for row in parts["read"]["rows"]] == [OUT_OF_MEMORY]


def test_time_that_is_up_ends_the_run(tmp_path, capsys):
    status, parts = run(tmp_path, "--parts", "read", "--minutes", "1e-9")
    assert status == 1 and parts == {}
    assert "time is up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "read", "--lengths", "0"], "lengths=0 is not allowed for read.*allowed: multiples of 1 up to"),
        (["--parts", "decode", "--lengths", "200"], "lengths=200 is not allowed for decode.*multiples of 128"),
        (["--parts", "read", "--lengths", "3000000"], "lengths=3000000 .*up to 2095"),
        (["--ratio", "7"], "ratios=7"),
        (["--placement", "none"], "placement='none' is not allowed; allowed: one of .*select"),
        (["--rows", "0"], "rows=0 is not allowed; allowed: 1 or more"),
        (["--rows", "8", "--most", "4"], "most=4 is not allowed; allowed: 8 or more"),
        (["--window", "0"], "window=0"),
        (["--device", "cuda"], "device='cuda' is not allowed: torch finds no CUDA device; allowed: 'cpu'"),
        (["--minutes", "0"], "minutes=0.0 is not allowed"),
        (["--figure", "inference.txt"], r"figure='inference.txt' is not allowed; allowed: .*\.png"),
    ],
)
def test_bad_settings_are_named_before_a_model_is_made(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(inference, "build", lambda *args: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_the_longest_text_that_is_allowed_fits(lm):
    most = 3_000_000
    with pytest.raises(ValueError) as error:
        inference.chosen_plan("tiny", inference.parse(["--parts", "read", "--lengths", str(most)]))
    allowed = int(str(error.value).rsplit(" ", 1)[1])
    assert allowed > 2**20
    inference.chosen_plan("tiny", inference.parse(["--parts", "read", "--lengths", str(allowed)]))
    with pytest.raises(ValueError):
        inference.chosen_plan("tiny", inference.parse(["--parts", "read", "--lengths", str(allowed + 1)]))
    assert lm.positions == PLANS["tiny"].positions == 262_144


def test_the_border_is_where_the_benchmark_says(lm):
    ahead = 50
    ids = text_before(lm, 512, ahead, CPU)
    cache = Beacons(lm).read(ids[:, :-1])
    closed = []
    for steps in (ahead, ahead + 1):  # the last token of a generation is not read
        options = {"max_new_tokens": steps, "do_sample": False, "return_dict_in_generate": True}
        closed.append(lm.generate(ids[:, -1:], cache=cache, **options).past_key_values.rows[0].windows)
    assert closed == [3, 4] and cache.rows[0].windows == 3


@torch.no_grad()
def test_dense_goes_on_from_its_cache_with_one_token_at_a_time(lm):
    ids, dense = random_ids(lm, 40, CPU), Dense(lm)
    expected = ids
    for _ in range(6):
        expected = torch.cat([expected, lm.dense(expected, logits_to_keep=1).logits.argmax(-1)], 1)
    widths, made = [], []
    hooks = [
        lm.model.embed_tokens.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1])),
        lm.lm_head.register_forward_hook(lambda *call: made.append(int(call[2].argmax()))),
    ]
    cache = dense.for_rows(dense.read(ids[:, :-1]), 1, CPU)
    made.clear()
    steps = dense.generate(ids, cache, 6)
    for hook in hooks:
        hook.remove()
    assert widths == [39, 1, 1, 1, 1, 1, 1] and len(steps) == 6
    assert made == expected[0, 40:].tolist()


@torch.no_grad()
def test_the_static_peer_compresses_nothing_and_writes_what_the_backbone_writes(lm):
    ids, static = random_ids(lm, 300, CPU), Kept(lm)  # two windows and a part
    cache = static.read(ids[:, :-1])
    assert (
        cache.sink_slots + cache.beacon_slots + cache.window_slots < 299
        and static.nbytes(cache) == cache.visible.nbytes
    )
    token_bytes = 2 * 2 * lm.config.num_hidden_layers * lm.config.num_key_value_heads * 16
    assert cache.visible.nbytes >= 299 * token_bytes
    logits, expected = (call.logits[0, -1] for call in (lm(ids[:, -1:], cache=cache), lm.dense(ids)))
    assert torch.allclose(logits.float(), expected.float(), atol=0.02 * expected.float().abs().max())
    assert len(static.generate(ids, cache, 200)) == 200  # across borders


def test_the_floor_of_reading_counts_what_is_read(lm):
    beacons, dense = Beacons(lm).work(1024), dense_work(1024)
    assert dense.pairs == 1024 * 1025 / 2 > 2 * beacons.pairs
    config = lm.config
    layer = sum(module.weight.numel() for name, module in lm.model.layers[0].named_modules()
                if isinstance(module, torch.nn.Linear) and "beacon" not in name)  # fmt: skip
    expected = config.num_hidden_layers * (2 * layer * 1024 + 4 * config.hidden_size * dense.pairs)
    assert forward_flops(lm, dense) == expected


@torch.no_grad()
def test_rows_continue_like_the_first(lm):
    ids = random_ids(lm, 300, CPU)
    expected = {"beacons": lm(ids, logits_to_keep=1).logits, "dense": lm.dense(ids, logits_to_keep=1).logits}
    for subject in (Beacons(lm), Dense(lm)):
        one = subject.read(ids[:, :-1])
        bytes_of_one = subject.nbytes(one)
        cache, last = subject.for_rows(one, 3, CPU), ids[:, -1:].expand(3, 1)
        assert subject.nbytes(cache, 3) == 3 * bytes_of_one
        if isinstance(cache, DynamicCache):
            logits = lm.dense(last, past_key_values=cache).logits
        else:
            new = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
            logits = lm.generate(last, cache=cache, **new).logits[0][:, None]
        scale = expected[subject.name].float().abs().max()
        assert torch.allclose(logits.float(), expected[subject.name].float().expand(3, -1, -1), atol=0.02 * scale)


def test_fewer_tokens_than_asked_for_are_an_error(lm):
    ids = random_ids(lm, 20, CPU)
    cache = Beacons(lm).read(ids[:, :-1])
    first = int(lm.generate(ids[:, -1:], cache=cache, max_new_tokens=1, do_sample=False)[0, -1])
    generate = lm.generate
    lm.generate = lambda *args, **options: generate(*args, **{**options, "eos_token_id": first, "pad_token_id": 0})
    with pytest.raises(RuntimeError, match="1 tokens came in 1 timed steps; 5 were requested"):
        Beacons(lm).generate(ids, cache, 5)
    del lm.generate


@pytest.mark.parametrize("first", [1, 16])
@pytest.mark.parametrize("capacity", [0, 1, 7, 15, 16, 33, 150, 511, 4000])
def test_the_search_finds_the_largest_batch(first, capacity):
    tried, fitting, failing, rows = [], 0, None, first
    while rows:
        tried.append(rows)
        fitting, failing = (rows, failing) if rows <= capacity else (fitting, rows)
        rows = next_batch(fitting, failing, 512)
    assert fitting <= capacity <= max(512, capacity) and len(set(tried)) == len(tried) <= 15
    if capacity >= 512:
        assert fitting == 512
    else:
        assert capacity - fitting < max(1, math.ceil((fitting + 1) / 16))


def test_the_largest_batch_of_rows_that_failed():
    rows = [
        {"shape": "7B", "model": "beacons", "batch": 16},
        {"shape": "7B", "model": "beacons", "batch": 32, "error": OUT_OF_MEMORY},
        {"shape": "7B", "model": "dense", "batch": 1, "error": OUT_OF_MEMORY},
    ]
    assert largest(rows) == {"7B": {"beacons": 16, "dense": 0}}


def test_timings_by_hand():
    seconds = [9.0, 1.0, 2.0, 1.0, 12.0, 2.0, 30.0]  # set-up first; the border at index 3 or beside it; a hiccup
    row = timings(seconds, rows=4, border=3, window=100)
    assert (row["first_ms"], row["median_ms"], row["border_ms"]) == (9000, 2000, 12000)
    assert (row["worst_ms"], row["worst_step"]) == (30000, 7)
    assert row["tokens_per_second"] == pytest.approx(4 / 2.1)  # ten seconds more, once in a hundred steps
    dense = timings(seconds, rows=4, border=None, window=100)
    assert dense["border_ms"] is None and dense["tokens_per_second"] == 2


def test_weights_alone_are_those_that_a_step_reads(lm):
    shape = lm.config
    layer = sum(p.numel() for name, p in lm.model.layers[0].named_parameters() if "beacon" not in name)
    expected = 2 * layer + shape.hidden_size + shape.vocab_size * shape.hidden_size  # two layers, norm, head
    assert weight_bytes(lm) == 2 * expected


def test_quantised_weights_are_measured_and_counted_as_they_are_stored(few_steps, tmp_path, lm):
    status, parts = run(tmp_path, "--parts", "decode", "--lengths", "256", "--quantize", "int8")
    assert status == 0 and parts["decode"]["environment"]["quantized"] == "int8"
    rows = {row["model"]: row for row in parts["decode"]["rows"]}
    assert {"beacons", "dense, static", "dense"} < rows.keys()
    packed = inference.model("tiny", PLANS["tiny"], inference.parse(["--quantize", "int8"]), CPU)
    linear = [
        module.weight
        for name, module in packed.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name and "beacon" not in name
    ]
    saved = sum(weight.numel() - 5 * len(weight) for weight in linear)  # a scale of 4 bytes and a zero point a row
    assert weight_bytes(packed) == weight_bytes(lm) - saved == rows["weights alone"]["weights_gib"] * 2**30
    assert packed.lm_head.weight is packed.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory slots"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected, capsys):
    assert is_out_of_memory(error) is expected

    def work():
        raise error

    result, message = attempt(work)
    assert result is None and (message == OUT_OF_MEMORY) is expected
    assert ("Traceback" in capsys.readouterr().err) is not expected


def test_what_is_measured_is_in_half_precision_and_reaches_a_million_tokens(lm):
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.bfloat16} and not lm.training
    assert 2**20 in PLANS["0.5B"].lengths["read"]


def fake_rows() -> list[dict]:
    """Reading of two shapes, values near each other and far apart, one out of memory."""
    rows = []
    for shape, lengths in (("7B", (2**15, 2**17)), ("0.5B", (2**17, 2**18, 2**19, 2**20))):
        for i, tokens in enumerate(lengths):
            base = {"shape": shape, "ratio": 8, "tokens": tokens}
            own = {"seconds": 1.05 * 2**i, "peak_gib": 16.5 + i, "cache_gib": 0.3 * 2**i}
            dense = {"seconds": 1.0 * 4**i, "peak_gib": 17.0 * 1.5**i, "cache_gib": 1.75 * 2**i}
            rows.append({**base, "model": "beacons", **own})
            rows.append({**base, "model": "dense", **({"error": OUT_OF_MEMORY} if tokens == 2**20 else dense)})
    return rows


def test_the_figure_shows_the_rows_and_no_two_texts_overlap(tmp_path):
    rows = fake_rows()
    figure = figures.draw(rows, "NVIDIA H100 80GB HBM3")
    assert len(figure.axes) == 6
    for axes in figure.axes:
        shape, _, quantity = axes.get_title().partition(": ")
        key = next(key for key, label in figures.PANELS.items() if label == quantity)
        for line in axes.lines:
            own = [row for row in rows if (row["shape"], row["model"]) == (shape, line.get_label()) and key in row]
            assert list(line.get_xdata()) == [row["tokens"] for row in own]
            assert list(line.get_ydata()) == [row[key] for row in own]
        notes = [text.get_text() for text in axes.texts]
        assert ("dense:\nout of memory" in notes) is (shape == "0.5B")
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
        overlaps = [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1 :] if x.overlaps(y)]
        assert not overlaps, (axes.get_title(), overlaps)


def test_the_figure_can_be_drawn_without_peaks_or_values(tmp_path):
    base = {"shape": "tiny", "ratio": 8, "tokens": 512}
    rows = [{**base, "model": "beacons", "seconds": 1.0, "peak_gib": None, "cache_gib": 0.1}]
    assert [axes.get_title() for axes in figures.draw(rows, "CPU").axes] == [
        "tiny: seconds to read",
        "tiny: cache, GiB",
    ]
    figures.save([{**base, "model": "dense", "error": OUT_OF_MEMORY}], "CPU", tmp_path / "new" / "failed.png")
    assert (tmp_path / "new" / "failed.png").exists()
    figures.save([{"shape": "tiny", "model": "both", "error": OUT_OF_MEMORY}], "CPU", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
