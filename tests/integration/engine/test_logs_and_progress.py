"""Output of running jobs: log lines, progress and metadata arrive, are bounded, and delay no other job."""

import hashlib
import itertools
import re
from pathlib import Path

import pytest

from jobworker.domain.executions import log_limits
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.executions.log_limits import MAX_LOG_BYTES
from jobworker.services.executions import execution_stream, executions
from jobworker.store.executions import log_lines, timeline
from jobworker.store.executions.timeline import LogRow, TransitionRow
from tests.engine import Engine
from tests.polling import wait_until

_LINE_COUNT_PATTERN = re.compile(r"([\d,]+) lines? \(")


def _list_log_lines(engine: Engine, execution: str) -> list[LogRow]:
    with engine.database.read() as connection:
        return list(timeline.list_logs_after(connection, execution, "", 100_000))


def _list_log_messages(engine: Engine, execution: str) -> list[str]:
    return [line.message for line in _list_log_lines(engine, execution)]


def _sum_line_counts(messages: list[str], mark: str) -> int:
    return sum(
        int(_LINE_COUNT_PATTERN.findall(message)[0].replace(",", ""))
        for message in messages
        if message.startswith(mark)
    )


def test_endless_output_of_a_job_is_cut_and_delays_no_other_job(any_engine: Engine) -> None:
    engine = any_engine
    engine.start_relay()
    worker = engine.start_worker()
    engine.wait_until_ready()
    total, length = 20_000, 1_000
    flood = engine.submit_one("flood_output", parameters={"lines": total, "length": length})
    wait_until(lambda: engine.is_running(flood))
    others = [engine.wait_until_final(engine.submit_one("noop", parameters={"number": n})).result for n in range(5)]
    assert others == list(range(5))
    assert engine.wait_until_final(flood).result == total

    def all_counted() -> list[str] | None:
        said = _list_log_messages(engine, flood)
        missing = _sum_line_counts(said, "[lost:") + _sum_line_counts(said, "[cut: this execution")
        return said if len([message for message in said if message[0] != "["]) + missing == total else None

    said = wait_until(all_counted, what="each line to be kept or counted")
    assert said is not None
    lines = [message for message in said if message[0] != "["]
    assert lines == sorted(lines)
    assert MAX_LOG_BYTES * 0.5 < sum(map(log_limits.compute_line_size, lines)) <= MAX_LOG_BYTES
    assert [message for message in said if message.startswith("[cut:")] == said[-1:]
    assert "x" * 900 in engine.read_log(worker), "the worker shows what its jobs print"


def test_reader_that_reconnects_misses_no_event(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    execution = engine.submit_one("flood_log_in_attempts", parameters={"lines": 1_500, "length": 60})
    bookmark: str | None = None
    lines: list[LogRow] = []
    states: list[tuple[int, str]] = []

    def read_a_little() -> bool:
        nonlocal bookmark
        follower = execution_stream.open_cursor(engine.database, execution, bookmark)
        for news in itertools.islice(follower.poll(engine.database), 137):
            bookmark = follower.bookmark
            if isinstance(news, LogRow):
                lines.append(news)
            elif isinstance(news, TransitionRow):
                states.append((news.attempt, news.state.value))
        return len(lines) >= 4_500 and (3, "Failed") in states

    wait_until(read_a_little, what=f"the end of {execution}")
    assert lines == _list_log_lines(engine, execution)
    assert [line.message[:8] for line in lines] == [f"{n} {m:06d}" for n in (1, 2, 3) for m in range(1_500)]
    transitions = iter(engine.list_transitions(execution))
    assert all(state in transitions for state in states), "in chronological order, and each once"


def test_attempts_share_one_log(engine: Engine) -> None:
    engine.start()
    execution = engine.submit_one("flood_log_in_attempts", parameters={"lines": 4_500, "length": 1_000})
    assert engine.wait_until_final(execution).attempt == 3

    def marked() -> bool:
        with engine.database.read() as connection:
            size = log_lines.get_sizes(connection, [execution])[execution]
        assert size.stored_bytes <= MAX_LOG_BYTES
        rows = _list_log_lines(engine, execution)
        assert rows[0].attempt == 1
        last = rows[-1].attempt == 3 and rows[-1].message == log_limits.format_cut_notice(size.dropped)
        return last and len(rows) - 1 + size.dropped.lines == 3 * 4_500

    wait_until(marked, what=f"all lines of {execution}, which may arrive after its end")


def test_last_progress_arrives_however_fast_a_job_reports(engine: Engine) -> None:
    engine.start()
    fast = engine.submit_one("report_each_step", parameters={"until": 30_000})
    wrong = engine.submit_one("report_invalid_progress")
    assert engine.wait_until_final(fast).progress == {
        "done": 30_000,
        "total": 30_000,
        "message": "step 30000",
        "attempt": 1,
    }
    row = engine.wait_until_final(wrong)
    assert (row.result, row.progress) == ("unharmed", {"done": 2, "total": 4, "message": "good", "attempt": 1})
    assert _list_log_messages(engine, wrong) == [
        "progress was ignored: done must be a finite number, not negative; it is nan"
    ]


def test_metadata_outlives_its_attempt(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    resumed, refused = (
        engine.submit_one("process_page", parameters={"pages": 3}),
        engine.submit_one("exceed_metadata_limit"),
    )
    row = engine.wait_until_final(resumed)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 3)
    assert row.result == row.metadata == {"page": 3, "page 3": {"attempt": 3}}
    row = engine.wait_until_final(refused)
    assert row.metadata == {"good": 1}
    assert [text.partition(" is a ")[0].partition(" does ")[0] for text in row.result] == ["metadata 'bad'"] * 3


def test_progress_and_metadata_are_readable_while_the_job_runs(engine: Engine, tmp_path: Path) -> None:
    engine.start()
    execution = engine.submit_one("wait_with_metadata", parameters={"path": str(tmp_path / "go")})
    wait_until(lambda: engine.get(execution).metadata == {"phase": "waiting"})
    wait_until(lambda: engine.get(execution).progress == {"done": 1, "total": 2, "message": "waiting", "attempt": 1})
    wait_until(lambda: _list_log_messages(engine, execution))
    assert engine.get(execution).state is ExecutionState.RUNNING
    (tmp_path / "go").touch()
    assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED


def test_log_lines_of_threads_and_coroutines_belong_to_their_job(engine: Engine) -> None:
    engine.start()
    execution = engine.submit_one("log_from_threads", parameters={"name": "a"})
    assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED
    spoken = ["a: plain thread", "a: coroutine", "a: thread with context log_from_threads"]
    assert _list_log_messages(engine, execution) == spoken


def test_jobs_that_share_a_process_have_separate_logs(engine: Engine) -> None:
    engine.start_relay()
    engine.start_worker("--pool", "threads", "-c", "4")
    engine.wait_until_ready()
    execution_ids = {name: engine.submit_one("log_from_threads", parameters={"name": name}) for name in "abcdefgh"}
    for name, execution in execution_ids.items():
        assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED
        assert _list_log_messages(engine, execution) == [
            f"{name}: coroutine",
            f"{name}: thread with context log_from_threads",
        ]


def test_printed_text_becomes_one_log_line_per_line(engine: Engine) -> None:
    engine.start()
    execution = engine.submit_one("print_parts")
    assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED
    assert [(line.logger, line.level, line.message) for line in _list_log_lines(engine, execution)] == [
        ("stdout", "INFO", "user 5 logged in"),
        ("stderr", "WARNING", "problem"),
        ("stdout", "INFO", "no end of a line"),
        ("stdout", "INFO", "bytes ü "),
        ("stdout", "INFO", "\\xff"),
        ("stdout", "INFO", "two"),
        ("stdout", "INFO", "lines"),
        ("stdout", "INFO", "the last"),
    ]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_changes_to_logging_and_streams_end_with_their_job(engine: Engine, pool: str) -> None:
    engine.start_relay()
    engine.start_worker("--pool", pool, "-c", "1")
    engine.wait_until_ready()
    misfit = engine.submit_one("log_unformattable_record")
    assert engine.wait_until_final(misfit).state is ExecutionState.SUCCEEDED
    assert _list_log_messages(engine, misfit) == [
        "%d things (with arguments that do not fit: TypeError: %d format: a real number is required, not str)"
    ]
    # In a pool of threads the worker's own records fail as well, until the next attempt begins.
    for how in (
        *(["factory"] if pool == "prefork" else []),
        "force",
        "dictConfig",
        "disable",
        "replace",
        "close",
        "none",
        "clear",
    ):
        assert (
            engine.wait_until_final(engine.submit_one("replace_streams", parameters={"how": how})).state
            is ExecutionState.SUCCEEDED
        )
        after = engine.submit_one("print_lines", parameters={"lines": 1})
        assert engine.wait_until_final(after).state is ExecutionState.SUCCEEDED
        assert _list_log_messages(engine, after) == ["line 0", "printed"], how


@pytest.mark.parametrize("level", ["ERROR", "DEBUG"])
def test_worker_log_level_does_not_affect_the_job_log(engine: Engine, level: str) -> None:
    engine.start_relay()
    worker = engine.start_worker("--loglevel", level)
    engine.wait_until_ready()
    execution = engine.submit_one("log_below_level")
    assert engine.wait_until_final(execution).state is ExecutionState.SUCCEEDED
    assert _list_log_messages(engine, execution) == ["a info", "a warning"]
    assert ("a info" in engine.read_log(worker)) == (level == "DEBUG")


def test_long_result_is_written_to_a_file(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    inline, long = (engine.submit_one("return_size", parameters={"size": 65_534 + more}) for more in (0, 1))
    row = engine.wait_until_final(inline)
    assert (len(row.result), row.result_file) == (65_534, None)
    row = engine.wait_until_final(long)
    assert (row.state, row.result) == (ExecutionState.SUCCEEDED, None)
    file = row.result_file
    assert file is not None
    content = (engine.folder / "home" / "files" / long / file["name"]).read_bytes()
    assert content == b'"' + b"x" * 65_535 + b'"'
    assert (file["size"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert executions.get_result(engine.database, long).result_file == file
