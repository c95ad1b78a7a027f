"""Reports the contents of a corpus to people: a table and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from beacon_lit.files import replacing, write_text

FIGURE = "lengths.png"


def write_report(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Write report.md and the figure into a corpus's folder, and return the text."""
    text = report(manifest)
    write_text(folder / "report.md", text)
    with replacing(folder / FIGURE) as partial:
        lengths_figure(manifest).savefig(partial, dpi=120, format="png", metadata={"Software": None})
    return text


def report(manifest: Mapping[str, Any]) -> str:
    """Summarise a manifest in Markdown: tokens, documents and pieces by source, and what is missing or left over."""
    sources = manifest["sources"]
    total = sum(source["tokens"] for source in sources.values())
    lengths = list(next(iter(sources.values()))["pieces"])
    head = ["source", "tokens", "share", "documents", *(f"pieces of {int(length):,}" for length in lengths)]
    rows = [
        [name, f"{s['tokens']:,}", f"{100 * s['tokens'] / max(1, total):.2f} %", f"{s['documents']:,}"]
        + [f"{s['pieces'][length]:,}" for length in lengths]
        for name, s in sources.items()
    ]
    sums = [f"{sum(s['pieces'][length] for s in sources.values()):,}" for length in lengths]
    documents = f"{sum(s['documents'] for s in sources.values()):,}"
    rows.append(["all", f"{total:,}", "100 %" if total else "0 %", documents, *sums])
    table = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    notes = [note for name, source in sources.items() for note in _notes(name, source)]
    return "\n".join(
        [
            "# Corpus",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            *(f"- {note}" for note in notes),
            "",
            f"{len(manifest['shards']):,} shards; their checksums and all settings are in manifest.json.",
            "",
            f"![Lengths of documents and of pieces]({FIGURE})",
            "",
        ]
    )


def _notes(name: str, source: Mapping[str, Any]) -> list[str]:
    missing = [f"{tokens:,} tokens in pieces of {int(n):,}" for n, tokens in source["missing_tokens"].items()]
    malformed = [f"{count:,} {kind}" for kind, count in source["bad_records"].items()]
    notes = [f"{name}: {source['left_over_tokens']:,} tokens of unfinished documents are left over"]
    notes += [f"{name}: missing {', '.join(missing)}"] if missing else []
    return notes + ([f"{name}: records skipped: {', '.join(malformed)}"] if malformed else [])


def lengths_figure(manifest: Mapping[str, Any]) -> Figure:
    """Draw histograms by source: lengths of the documents used, and of the pieces."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sources = manifest["sources"]
    names = list(next(iter(sources.values()))["pieces"])
    under = [0] * len(names)
    for name, source in sources.items():
        bins = {int(index): count for index, count in source["document_lengths"].items()}
        span = range(min(bins, default=0), max(bins, default=0) + 1)
        edges = [2 ** (index / 2) for index in [*span, span[-1] + 1]]
        left.stairs([bins.get(index, 0) for index in span], edges, label=name, fill=True, alpha=0.5)
        counts = [source["pieces"][length] for length in names]
        right.bar([f"{int(length):,}" for length in names], counts, bottom=under, label=name, alpha=0.7)
        under = [a + b for a, b in zip(under, counts, strict=True)]
    left.set_xscale("log", base=2)
    left.set(xlabel="length (tokens)", ylabel="documents", title="Documents")
    right.set(xlabel="length (tokens)", ylabel="pieces", title="Pieces")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=9)
    return figure
