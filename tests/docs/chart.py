"""`python -m tests.docs.chart`: the states of an execution as a Mermaid chart, for docs/states.md."""

from jobworker.domain.execution import FINAL, MOVES, State

#: Where a submission begins.
_FIRST = (State.WAITING, State.SCHEDULED, State.QUEUED)


def render() -> str:
    """The chart, made from the table of moves. States come in the order in which they are declared."""
    order = list(State)
    moves = [f"    {state} --> {following}" for state in order for following in sorted(MOVES[state], key=order.index)]
    begins = [f"    [*] --> {state}" for state in _FIRST]
    ends = [f"    {state} --> [*]" for state in order if state in FINAL]
    return "\n".join(["stateDiagram-v2", *begins, *moves, *ends]) + "\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - this is what it is for
