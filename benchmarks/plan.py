"""Plan the measurements of each shape, and the lengths of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from beacon_lit import BeaconConfig
from beacon_lit.arch import longest


@dataclass(frozen=True)
class Plan:
    """The measurements of one shape.

    Attributes:
        shape: the shape's name in `shapes.SHAPES`.
        positions: position slots of the backbone.
        lengths: part -> lengths of text, in tokens.
        window, ratio, placement, unfinished: settings of the beacons; the sink is 4 tokens, the overlap 64 or, if less,
            a quarter of a window.
        rows: the first batch of the part "batch".
        most: the largest batch to try.

    Raises:
        ValueError: a setting out of range. Lengths must fit the positions and, for decoding, end a window.
    """

    shape: str
    positions: int
    lengths: Mapping[str, Sequence[int]]
    window: int = 2048
    ratio: int = 8
    placement: str = "select"
    unfinished: str = "raw"
    rows: int = 16
    most: int = 512
    beacon: BeaconConfig = field(init=False)

    def __post_init__(self) -> None:
        overlap = min(64, self.window // 4)
        config = BeaconConfig(
            self.window, (self.ratio,), sink=4, overlap=overlap, placement=self.placement, unfinished=self.unfinished
        )
        object.__setattr__(self, "beacon", config)
        for name, value, least in (("rows", self.rows, 1), ("most", self.most, self.rows)):
            if value < least:
                raise ValueError(f"{name}={value} is not allowed; allowed: {least} or more")
        for part, lengths in self.lengths.items():
            unit, ahead = (1, 0) if part == "read" else (self.window, self.window)  # decoding crosses a border
            most = longest(config, self.ratio, self.positions) - ahead
            for length in lengths:
                if length < unit or length % unit or length > most:
                    raise ValueError(
                        f"lengths={length} is not allowed for {part}, {self.shape} at ratio {self.ratio}; "
                        f"allowed: multiples of {unit} up to {most}"
                    )


YARN = 8  # times the positions that the shapes have
POSITIONS = YARN * 32768
PLANS = {
    plan.shape: plan
    for plan in (
        Plan("7B", POSITIONS, {"read": (32768, 131072), "decode": (131072,), "batch": (32768,)}),
        Plan("0.5B", POSITIONS, {"read": (131072, 262144, 524288, 1048576), "decode": (131072,), "batch": ()}),
        Plan("tiny", POSITIONS, {"read": (512, 1024), "decode": (512,), "batch": (256,)}, window=128, rows=2, most=4),
    )
}
