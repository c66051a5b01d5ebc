"""What must be seen, told line by line; a run fails if any line does."""

from collections.abc import Callable

from rigs.processes import until_true


def say(text: str) -> None:
    print(text, flush=True)


class Checks:
    """Counts what was checked and what failed."""

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0

    def title(self, text: str) -> None:
        say(f"\n== {text}")

    def check(self, sentence: str, holds: bool, otherwise: str = "") -> bool:
        """The sentence, and what was seen instead if it does not hold."""
        self.count += 1
        self.failures += not holds
        say(f"ok    {sentence}" if holds else f"FAIL  {sentence}{otherwise}")
        return holds

    def until(self, sentence: str, seconds: float, condition: Callable[[], bool]) -> bool:
        """It must come true in time."""
        return self.check(sentence, until_true(seconds, condition))

    def equal(self, sentence: str, expected: object, seen: object) -> bool:
        return self.check(sentence, expected == seen, f": expected '{expected}', saw '{seen}'")

    def within(self, sentence: str, least: int, most: int, seen: int) -> bool:
        return self.check(f"{sentence} ({seen})", least <= seen <= most, f": expected {least} to {most}")

    def verdict(self) -> int:
        """The last line, and the exit status."""
        if self.failures:
            say(f"\nmachine: {self.failures} of {self.count} checks failed")
            return 1
        say(f"\nmachine: all {self.count} checks are ok")
        return 0
