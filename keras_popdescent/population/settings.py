"""How long and how a search runs."""

from __future__ import annotations

from dataclasses import dataclass

# So many iterations where nobody knows how many batches will come.
ENDLESS = 10**9


@dataclass(frozen=True)
class Settings:
    """How long and how a search runs.

    Attributes:
        population_size: Number of members, at least 1.
        num_elites: Members that stay untouched, 0 ... population_size; the paper's m.
        iterations: Number of iterations.
        batches_per_iteration: Batches a member trains on in an iteration.
        max_births: At most so many members are ever born; None for no limit.
        num_kept: How many of the best members ever seen are kept.
        last_batches: Batches of the last iteration, where they are fewer; None for as many.
        deadline: The `time.perf_counter()` after which no iteration begins; None for no end.
        max_gradient_steps: No iteration begins after so many of the whole population; None for no
            end.
        max_failed_builds: So many members in a row whose model cannot be built end the search; None
            for no end.
    """

    population_size: int
    num_elites: int
    iterations: int
    batches_per_iteration: int
    max_births: int | None = None
    num_kept: int = 1
    last_batches: int | None = None
    deadline: float | None = None
    max_gradient_steps: int | None = None
    max_failed_builds: int | None = 3

    @property
    def is_endless(self) -> bool:
        """Whether nobody knows how many iterations there will be."""
        return self.iterations >= ENDLESS

    def batches_at(self, iteration: int) -> int:
        """Return the number of batches of an iteration, counted from 0."""
        if self.last_batches is not None and iteration == self.iterations - 1:
            return self.last_batches
        return self.batches_per_iteration
