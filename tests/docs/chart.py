"""`python -m tests.docs.chart`: the states of an execution as a Mermaid chart, for docs/states.md."""

from jobworker.domain.executions.execution import ALLOWED_TRANSITIONS, FINAL_STATES, ExecutionState

#: Initial states of a submission.
_FIRST = (ExecutionState.WAITING, ExecutionState.SCHEDULED, ExecutionState.QUEUED)


def render_chart() -> str:
    """Return the chart, generated from the transition table. States are in the order of their declaration."""
    order = list(ExecutionState)
    moves = [
        f"    {state} --> {following}"
        for state in order
        for following in sorted(ALLOWED_TRANSITIONS[state], key=order.index)
    ]
    begins = [f"    [*] --> {state}" for state in _FIRST]
    ends = [f"    {state} --> [*]" for state in order if state in FINAL_STATES]
    return "\n".join(["stateDiagram-v2", *begins, *moves, *ends]) + "\n"


if __name__ == "__main__":
    print(render_chart(), end="")  # noqa: T201 - the module is a command
