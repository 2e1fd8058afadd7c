"""Into which lengths loops over steps are cut, where each length is a program to compile."""

from __future__ import annotations

from collections.abc import Iterator


class Chunks:
    """Cuts blocks of steps so that few programs are compiled, whatever lengths the blocks have.

    The first length of a batch size stays whole: in most searches it is that of an iteration. Other
    lengths, as the end of an epoch makes them, are cut into powers of two.
    """

    def __init__(self) -> None:
        self._whole: dict[int, int] = {}

    def spans(self, steps: int, batch_size: int) -> Iterator[slice]:
        """Yield the spans of a block, in order.

        Args:
            steps: Length of the block.
            batch_size: Samples a step.
        """
        if steps == self._whole.setdefault(batch_size, steps):
            yield slice(0, steps)
            return
        begin = 0
        for power in reversed(range(steps.bit_length())):
            if steps & (1 << power):
                yield slice(begin, begin + (1 << power))
                begin += 1 << power
