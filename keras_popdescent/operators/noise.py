"""Weight noise, as a record: strategies decide it, executors draw and add it on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from keras_popdescent.arguments import check_number, check_one_of

NoiseKind = Literal["none", "gaussian", "relative", "scalar"]


@dataclass(frozen=True)
class NoiseSpec:
    """Noise to add to the trainable weights of a child.

    Attributes:
        kind: What `sd` means. `"gaussian"`: independent noise of standard deviation `sd` for every
            weight (arXiv 2310.14671, Algorithm 2). `"relative"`: the same, in units of the spread
            (standard deviation) of the tensor that the weight belongs to. `"scalar"`: one number of
            standard deviation `sd`, added to every weight of the model (the authors' code).
            `"none"`: no noise.
        sd: Standard deviation, at least 0; 0 leaves the weights as they are.
        seed: Seed of the draw, so that a record says exactly what was added.

    Raises:
        ArgumentError: If there is no such kind, or `sd` is no finite number of at least 0.
    """

    kind: NoiseKind = "none"
    sd: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("kind", self.kind, get_args(NoiseKind))
        check_number("sd", self.sd, 0.0, none=False)

    @property
    def is_zero(self) -> bool:
        """Whether the noise leaves the weights as they are."""
        return self.kind == "none" or self.sd == 0.0


NO_NOISE = NoiseSpec()
