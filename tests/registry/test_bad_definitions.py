"""What an operator reads when tasks.yaml cannot be used: the place, what was found, what is allowed."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.registry.test_tasks_file import FROM_THE_GO_SERVICE, SAMPLE
from tq.errors import InvalidDefinition
from tq.registry import read_tasks_file

SECRET = "s3cret"


def problem_with(directory: Path, text: str, **environ: str) -> str:
    """The message for a file with this text, with the path cut down to the file's name."""
    path = directory / "tasks.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidDefinition) as raised:
        read_tasks_file(path, environ)
    return str(raised.value).replace(str(path), "tasks.yaml")


def task_with(*lines: str) -> str:
    """A file with one task, whose lines from the third on are given; what is missing stands below."""
    rest = [
        line
        for key, line in {
            "id": "id: digest",
            "interval": "interval: {type: daily}",
            "config": "config: {endpoint: https://example.com}",
        }.items()
        if not any(given.startswith(f"{key}:") for given in lines)
    ]
    return "tasks:\n  -\n" + "".join(f"    {line}\n" for line in (*lines, *rest))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "interval: {type: daily, timezone: Europe/Berln}",
            "interval.timezone: 'Europe/Berln' is not a time zone; did you mean Europe/Berlin?",
        ),
        (
            "interval: {type: hourly, value: 0}",
            "interval.value: 0 is too small; write at least 1",
        ),
        (
            "interval: {type: hourly, value: 99999}",
            "interval.value: 99999 is too large; write at most 12000",
        ),
        (
            "interval: {type: hourly, value: often}",
            "interval.value: 'often' is not a whole number; write one such as 3",
        ),
        (
            "interval: {type: daly}",
            (
                "interval.type: 'daly' is not one of the choices; "
                "write one of minutely, hourly, daily, weekly, monthly, cron; did you mean daily?"
            ),
        ),
        (
            "interval: {value: 3}",
            "interval.type: is missing; write one such as daily",
        ),
        (
            "interval: daily",
            'interval: text is not a mapping; write {type: daily, at_time: "09:00"}',
        ),
        (
            "interval: {type: daily, at_time: 540}",
            'interval.at_time: 540 is not a time of day; write "HH:MM", for example "09:00"',
        ),
        (
            "interval: {type: daily, at_time: {hour: 24}}",
            "interval.at_time.hour: 24 is too large; write at most 23",
        ),
        (
            "interval: {type: daily, at_time: {hour: 9, minuts: 5}}",
            "interval.at_time.minuts: is not a known key; known are hour, minute; did you mean minute?",
        ),
        (
            "interval: {type: monthly, day: first}",
            "interval.day: 'first' cannot be used; write 1 to 31, or last",
        ),
        (
            "interval: {type: monthly, day: 32}",
            "interval.day: 32 is not a day of a month; write 1 to 31, or last",
        ),
        (
            "interval: {type: daily, anchor: tomorrow}",
            "interval.anchor: 'tomorrow' cannot be used; write a date such as 2026-01-31",
        ),
        (
            "interval: {type: hourly, at_time: 09:00}",
            "interval: at_time goes with daily or monthly or weekly, not with hourly",
        ),
        (
            "timeout: soon",
            "timeout: 'soon' is not a duration; write 30s, 5m, 1h30m, 2d, or a number of seconds",
        ),
        (
            "timeout:",
            "timeout: nothing is written; write a value, or drop the key",
        ),
        (
            "rate_limit: 0",
            "rate_limit: 0 is too small; write more than 0",
        ),
        (
            "rate_limit: 50/d",
            "rate_limit: '50/d' is not a rate; write calls per second, or with a unit: 50, 50/s, 30/m, 3000/h",
        ),
        (
            "rate_limit: [50]",
            "rate_limit: a list is not a rate; write calls per second, or with a unit: 50, 50/s, 30/m, 3000/h",
        ),
        (
            "rate_limit: {base: 50, min: 25}",
            "rate_limit.max: is missing; write a rate such as 50",
        ),
        (
            "rate_limit: {base: 50, min: 25, max: 0}",
            "rate_limit.max: 0 is too small; write more than 0",
        ),
        (
            "rate_limit: {base: 50, min: , max: 100}",
            "rate_limit.min: nothing is written; write a value, or drop the key",
        ),
        (
            "rate_limit: {base: 50, min: 60, max: 100}",
            "rate_limit: min 60, base 50, max 100 are not in order; write min <= base <= max",
        ),
        (
            "rate_limit: {base: 50, min: 25, max: 100, maxx: 1}",
            "rate_limit.maxx: is not a known key; known are base, min, max; did you mean max?",
        ),
        (
            "concurrency: 0",
            "concurrency: 0 is too small; write at least 1",
        ),
        (
            "concurrency: 10001",
            "concurrency: 10001 is too large; write at most 10000",
        ),
        (
            "name: [Email, Digest]",
            "name: a list is not text; write text",
        ),
        (
            "priority: hihg",
            "priority: 'hihg' is not one of the choices; write one of high, normal, low; did you mean high?",
        ),
        (
            "id: ../etc/passwd",
            (
                "id: '../etc/passwd' cannot be an id; "
                "write 1 to 100 letters, digits or any of _ : @ . -, beginning with a letter or digit"
            ),
        ),
        (
            "config: {endpoint: api.example.com/digest}",
            (
                "config.endpoint: 'api.example.com' is not an endpoint; "
                "write a URL that begins with https:// or http://"
            ),
        ),
        (
            "config: {method: POST}",
            "config.endpoint: is missing; write a URL that begins with https:// or http://",
        ),
        (
            'config: {endpoint: "https://example.com/{usr_id}"}',
            (
                "config.endpoint: a placeholder cannot be filled in; "
                "known are {run_id}, {task_id}, {user_id}; did you mean {user_id}?"
            ),
        ),
        (
            "config: {endpoint: https://example.com, headers: {X-Tag: [a, b]}}",
            "config.headers.X-Tag: a list is not text; write text",
        ),
        (
            'config: {endpoint: https://example.com, headers: {Authorization: "Bearer ${API_TOKN}"}}',
            (
                "config.headers.Authorization: ${API_TOKN} is not in the environment; "
                "export API_TOKN=… or add it to .env"
            ),
        ),
        (
            'config: {endpoint: "${BASE_URL}/digest"}',
            "config.endpoint: ${BASE_URL} is not in the environment; export BASE_URL=… or add it to .env",
        ),
        (
            'config: {endpoint: https://example.com, headers: {X: "${API-TOKEN}"}}',
            (
                "config.headers.X: what stands between ${ and } is not the name of a variable; "
                "write letters, digits and _, as in ${API_TOKEN}"
            ),
        ),
    ],
)
def test_a_bad_value_is_told_in_one_line(tmp_path: Path, line: str, expected: str) -> None:
    task = "task 1" if line.startswith("id:") else "digest"

    problem = problem_with(tmp_path, task_with("description: a case", line))

    assert problem == f"tasks.yaml:4: {task}: {expected}"


def test_an_unknown_key_is_told_with_the_known_ones_and_the_one_that_was_meant(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, task_with("windw: 30m"))

    assert problem.startswith(
        "tasks.yaml:3: digest: windw: is not a known key; known are id, name, description, interval,"
    )
    assert problem.endswith("; did you mean window?")
    assert "\n" not in problem


def test_a_key_is_named_in_its_own_line(tmp_path: Path) -> None:
    text = """\
tasks:
  - id: digest
    config:
      endpoint: https://example.com
    interval:
      type: daily

      value: 0
"""

    problem = problem_with(tmp_path, text)

    assert problem == "tasks.yaml:8: digest: interval.value: 0 is too small; write at least 1"


def test_a_missing_key_is_told_where_the_task_begins(tmp_path: Path) -> None:
    problem = problem_with(
        tmp_path, "tasks:\n\n  - id: digest\n    config: {endpoint: https://example.com}\n"
    )

    assert problem == 'tasks.yaml:3: digest: interval: is missing; write {type: daily, at_time: "09:00"}'


def test_a_task_that_does_nothing_is_told(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, "tasks:\n  - id: digest\n    interval: {type: daily}\n")

    assert problem == "tasks.yaml:2: digest: a task needs config.endpoint, or an executor"


def test_a_task_that_is_no_mapping_is_told_by_its_number(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, "tasks:\n  - digest\n")

    assert problem.startswith("tasks.yaml:2: task 1: text is not a mapping; write {id: digest,")


def test_an_id_that_is_declared_twice_names_both_lines(tmp_path: Path) -> None:
    text = SAMPLE + SAMPLE.removeprefix("tasks:\n")

    problem = problem_with(tmp_path, text, API_TOKEN="t")

    assert problem == (
        "tasks.yaml:16: email_digest: id: is declared twice, first in line 2; give one of them another id"
    )


def test_a_key_that_is_written_twice_names_both_lines(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, task_with("retries: 1", "timeout: 5s", "retries: 2"))

    assert problem == "tasks.yaml:5: digest: retries: is written twice, first in line 3; drop one"


def test_a_task_that_stands_twice_under_one_key_names_both_lines(tmp_path: Path) -> None:
    task = "  digest: {interval: {type: daily}, config: {endpoint: https://example.com}}\n"

    problem = problem_with(tmp_path, f"tasks:\n{task}{task}")

    assert problem == "tasks.yaml:3: digest: is written twice, first in line 2; drop one"


def test_an_id_that_differs_from_its_key_is_told(tmp_path: Path) -> None:
    problem = problem_with(
        tmp_path, "tasks:\n  a: {id: b, interval: {type: daily}, config: {endpoint: https://example.com}}\n"
    )

    assert problem == "tasks.yaml:2: a: id: 'b' differs from 'a', the key that the task stands under; drop it"


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, task_with(f"timeout: {'long' * 1000}"))

    assert "longlon…' is not a duration" in problem
    assert len(problem) < 200


def test_all_problems_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = """\
tasks:
  - id: digest
    timeout: soon
    config: {endpoint: https://example.com, headers: {X: "${NOPE}"}}
    interval: {type: daily, value: 0}
  - id: digest
    retrys: 3
    interval: {type: daily}
    config: {endpoint: https://example.com}
"""

    problem = problem_with(tmp_path, text)

    assert [line.partition(": ")[0] for line in problem.splitlines()] == [
        "tasks.yaml:3",
        "tasks.yaml:5",
        "tasks.yaml:6",
        "tasks.yaml:7",
    ]


def test_of_many_problems_the_first_20_are_told(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, "tasks:\n" + "  - nonsense\n" * 50)

    lines = problem.splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("tasks.yaml:2: task 1:")
    assert lines[19].startswith("tasks.yaml:21: task 20:")
    assert lines[20] == "… and 30 more"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "tasks.yaml:1: tasks: is missing; write tasks: and a list of tasks below it"),
        (
            "tasks:\n",
            "tasks.yaml:1: tasks: nothing is written; write a list of tasks, or [] for no tasks at all",
        ),
        ("\ntaks: []\n", "tasks.yaml:2: taks: is not a known key; known is tasks; did you mean tasks?"),
    ],
)
def test_a_file_without_tasks_is_told(tmp_path: Path, text: str, expected: str) -> None:
    assert problem_with(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks:\n  - id: a: b\n", "tasks.yaml:2: column 10: not YAML: a second ': ' in one line"),
        ("tasks:\n\t- id: a\n", "tasks.yaml:2: column 1: not YAML: a tab; indent with spaces"),
        (
            'tasks:\n  - id: "a\n',
            "tasks.yaml:3: column 1: not YAML: a quote is opened and never closed; close it",
        ),
        ("tasks:\n  - {id: a\n", "tasks.yaml:3: column 1: not YAML: a bracket is opened and never closed"),
        ("tasks:\n  - id: a\n   name: b\n", "tasks.yaml:3: column 4: not YAML: this line does not fit in"),
        (
            "tasks:\n  - id: @a\n",
            "tasks.yaml:2: column 9: not YAML: a value cannot begin with this character",
        ),
        ("tasks: []\n---\ntasks: []\n", "tasks.yaml:2: a second document begins; write all tasks in one"),
        (
            "tasks:\n  - a: 1\x07\n",
            "tasks.yaml:2: not YAML: the character U+0007 cannot stand in it; remove it",
        ),
        ('tasks: "\\UFFFFFFFF"\n', "tasks.yaml:1: not YAML: a number is out of bounds"),
        (f"%YAML {'9' * 5000}.1\n--- []\n", "tasks.yaml:1: not YAML: a number is out of bounds"),
        ('tasks:\n  - id: "\\ud800"\n', "tasks.yaml:2: task 1: id: an escape in it is half a character"),
        ("tasks:\n  - id: !x y\n", "tasks.yaml:2: task 1: id: a value that begins with ! is a tag"),
        (
            "tasks:\n  - id: *x\n",
            "tasks.yaml:2: task 1: id: a value that begins with * repeats one marked with &",
        ),
        ("tasks:\n  - [a]: b\n", "tasks.yaml:2: task 1: a key is missing or is not text; write key: value"),
    ],
)
def test_broken_yaml_is_told_in_plain_words(tmp_path: Path, text: str, expected: str) -> None:
    problem = problem_with(tmp_path, text)

    assert problem.startswith(expected)
    assert "\n" not in problem


def test_a_file_that_is_not_there_names_the_path_and_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"

    with pytest.raises(InvalidDefinition) as raised:
        read_tasks_file(path, {})

    assert (
        str(raised.value) == f"{path}: there is no such file; write one, or set TQ_TASKS_FILE to where it is"
    )


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidDefinition, match=r"cannot be read: Is a directory; .*TQ_TASKS_FILE"):
        read_tasks_file(tmp_path, {})


def test_a_file_in_another_encoding_is_told_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_bytes("tasks:\n  - name: Täglich\n".encode("latin-1"))

    with pytest.raises(InvalidDefinition) as raised:
        read_tasks_file(path, {})

    assert str(raised.value) == f"{path}:2: this is not UTF-8 text; save the file as UTF-8"


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, "#" * 5_000_001)

    assert problem == "tasks.yaml: has more than 5,000,000 bytes, the most that is read; shorten it"


@pytest.mark.timeout(10)
def test_a_few_lines_of_aliases_cannot_stand_for_billions_of_values(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    problem = problem_with(tmp_path, "\n".join(lines))

    assert problem.startswith("tasks.yaml:6: a5: has more than 200,000 values, with what aliases repeat")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? ", "&a ["])
def test_nesting_is_refused_long_before_it_is_deep(tmp_path: Path, opening: str) -> None:
    problem = problem_with(tmp_path, opening * 50_000)

    assert problem.startswith("tasks.yaml:1: ")
    assert "is nested more than 20 deep" in problem or "a key is missing" in problem


def test_an_alias_cannot_stand_within_what_it_repeats(tmp_path: Path) -> None:
    problem = problem_with(tmp_path, "tasks: &all [*all]\n")

    assert problem.startswith(
        "tasks.yaml:1: task 1: a value that begins with * repeats one marked with & above"
    )


@pytest.mark.parametrize(
    "config",
    [
        f"{{endpoint: 'api.example.com/digest?token={SECRET}'}}",
        f"{{endpoint: 'https://ada:{SECRET}@api.example.com/a b'}}",
        f"{{endpoint: 'https://ada:{SECRET}/x@api.example.com/a b'}}",
        f"{{endpoint: 'ada:{SECRET}@api.example.com'}}",
        f"{{endpoint: 'ftp://api.example.com/{SECRET}#{SECRET}'}}",
        f"{{endpoint: 'https://api.example.com/{{{SECRET}}}?key={{{SECRET}}}'}}",
        f"{{endpoint: 'Bearer {SECRET}'}}",
        f"{{endpoint: [{SECRET}]}}",
        f"{{endpoint: '${{TOKEN:-{SECRET}}}'}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: 'Bearer ${{NOPE}} {SECRET}'}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: 'Bearer ${{NOPE:-{SECRET}}}'}}}}",
        f'{{endpoint: https://example.com, headers: {{Authorization: "Bearer\\n{SECRET}"}}}}',
        f"{{endpoint: https://example.com, headers: {{Authorization: [{SECRET}]}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization Bearer {SECRET}}}}}",
        f"{{endpoint: https://example.com, headers: {{'Authorization: Bearer {SECRET}': x}}}}",
        f"{{endpoint: https://example.com, headers: ['Authorization: Bearer {SECRET}']}}",
        f"{{endpoint: https://example.com, headers: 'Authorization: Bearer {SECRET}'}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: *{SECRET}}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: !{SECRET} x}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: !{SECRET}!x y}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: @{SECRET}}}}}",
        f"{{endpoint: https://example.com, headers: {{Authorization: Bearer: {SECRET}: {SECRET}}}}}",
        f"{{endpoint: https://example.com, Authorization Bearer {SECRET}: x}}",
        f"https://ada:{SECRET}@api.example.com",
        f"['https://ada:{SECRET}@api.example.com']",
    ],
)
def test_no_secret_of_a_call_stands_in_a_problem(tmp_path: Path, config: str) -> None:
    problem = problem_with(tmp_path, task_with(f"config: {config}"))

    assert SECRET not in problem
    assert problem.startswith("tasks.yaml:3: ")


PIECES = [
    *(
        "tasks:",
        "\n",
        "  ",
        "- ",
        ": ",
        "id",
        "interval",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!!",
        "|",
        ">",
        '"',
        "'",
    ),
    *(
        "config",
        "endpoint",
        "headers",
        "at_time",
        "9:30",
        "${X}",
        "\t",
        "#",
        "---",
        "%",
        "\\",
        "null",
        "\u2028",
        "?",
    ),
]


def assert_is_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        tasks = read_tasks_file(path, {"API_TOKEN": "t"})
    except InvalidDefinition as error:
        lines = str(error).splitlines()
        assert all(re.match(rf"{re.escape(str(path))}:\d+: ", line) for line in lines[:20])
    else:
        assert all(task.id == task_id for task_id, task in tasks.items())


any_file = hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)


@any_file
@given(text=st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example(text="\ufeff")
@example(text="? ? ? ?")
def test_no_text_whatsoever_is_anything_but_read_or_refused(tmp_path: Path, text: str) -> None:
    assert_is_read_or_refused(tmp_path / "any.yaml", text.encode("utf-8", "surrogatepass"))


@any_file
@given(content=st.binary(max_size=200))
def test_no_bytes_whatsoever_are_anything_but_read_or_refused(tmp_path: Path, content: bytes) -> None:
    assert_is_read_or_refused(tmp_path / "any.yaml", content)


@any_file
@given(
    text=st.sampled_from([SAMPLE, FROM_THE_GO_SERVICE]),
    at=st.integers(0, len(SAMPLE)),
    length=st.integers(0, 20),
    instead=st.text(max_size=10) | st.sampled_from(PIECES),
)
def test_no_slip_in_a_good_file_is_anything_but_read_or_refused(
    tmp_path: Path, text: str, at: int, length: int, instead: str
) -> None:
    content = text[:at] + instead + text[at + length :]

    assert_is_read_or_refused(tmp_path / "any.yaml", content.encode("utf-8", "surrogatepass"))


values = st.recursive(
    st.text(max_size=20)
    | st.integers().map(str)
    | st.none()
    | st.sampled_from(["user", "daily", "9:30", "1h", "50%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PIECES), inner, max_size=3),
    max_leaves=5,
)
definitions = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "interval": values
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("type", "value", "timezone", "at_time", "weekday", "day", "expression", "anchor"), values
            ),
        ),
        "config": values
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("endpoint", "headers", "method"), values)),
        **dict.fromkeys(
            ("window", "timeout", "retries", "concurrency", "missed", "executor", "what"), values
        ),
        "rate_limit": values
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("base", "min", "max"), values)),
    },
)


@any_file
@given(tasks=st.lists(definitions, max_size=3))
def test_no_value_of_any_key_is_anything_but_read_or_refused(tmp_path: Path, tasks: list[object]) -> None:
    content = yaml.safe_dump({"tasks": tasks}, allow_unicode=True)

    assert_is_read_or_refused(tmp_path / "any.yaml", content.encode("utf-8", "surrogatepass"))
