"""Tasks of an environment: tables of them, the runtime's reading, resets that name one."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openenv_async import EngineOptions, EnvClient, Environment, connect, create_app, serve
from openenv_async.errors import EnvironmentRaised, InvalidModel, InvalidOption, OpenEnvError
from openenv_async.spec import EnvironmentSpec
from openenv_async.tasks import MAX_PAGE, TaskBook, TaskTable, public_row
from openenv_async.types import Task
from tests.quiz import (
    MARKER,
    AsyncQuiz,
    Guess,
    InlineQuiz,
    NumberedTasks,
    ProcessQuiz,
    Quiz,
    quiz_rows,
)

# -- tables -----------------------------------------------------------------------------------


def test_rows_of_a_file_become_tasks_whose_private_columns_stand_apart(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(
        '\ufeff{"id": 7, "question": "a", "answer": 1}\n\n{"question": "b", "answer": 2}'
    )
    table = TaskTable({"train": path}, private=("answer",))

    assert table.splits() == ["train"]
    assert table.count("train") == 2
    first, second = table.range("train", 0, 9)
    assert (first.id, first.data, first.private) == ("7", {"question": "a"}, {"answer": 1})
    assert first.split == "train"
    assert table.find("train", second.id) == second == table.get("train", 1)
    assert table.find("train", "8") is None
    assert "1" not in repr(first.private) or "answer" not in repr(first)


def test_an_id_that_is_made_lasts_and_does_not_depend_on_the_answer() -> None:
    def ids(answer: object) -> list[str]:
        rows = [{"question": q, "answer": answer} for q in "abc"]
        table = TaskTable({"train": rows}, private=["answer"])
        return [task.id for task in table.range("train", 0, 3)]

    assert ids(1) == ids(2)
    assert len(set(ids(1))) == 3


def test_a_file_is_read_once_and_not_before_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"
    table = TaskTable({"train": str(path)})
    path.write_text('{"n": 1}\n')
    assert table.count("train") == 1
    path.unlink()
    assert table.count("train") == 1
    assert table.get("train", 0).data == {"n": 1}
    again = pickle.loads(pickle.dumps(table))  # another process reads it anew
    with pytest.raises(FileNotFoundError):
        again.count("train")


def test_threads_that_come_at_once_read_a_file_once() -> None:
    made: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def rows() -> list[dict[str, Any]]:
        made.append(1)
        begun.set()
        assert go.wait(10)
        return quiz_rows("x", 5)

    table = TaskTable({"train": rows}, private=["answer"])
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(table.count("train"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (counts, made) == ([5] * 4, [1])


@pytest.mark.parametrize(
    ("rows", "private", "expected"),
    [
        ([{"id": "a"}, {"id": "a"}], (), "row 0 of the split 'train' and row 1 .* same id 'a'"),
        ([{"q": 1}, {"q": 1}], (), "the same id"),
        ([{"answer": 1}], ("answre",), "no row .* has the column 'answre'"),
        ([["a"]], (), "row 0 .* is a list: a row is a dict"),
        ([{"id": 1.5}], (), "an id is a text or an integer, not 1.5"),
    ],
)
def test_rows_that_are_no_tasks_are_named(
    rows: list[Any], private: tuple[str, ...], expected: str
) -> None:
    table = TaskTable({"train": rows}, private=private)
    with pytest.raises((TypeError, ValueError), match=expected):
        table.count("train")


def test_a_line_that_is_not_an_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ValueError, match=f"line 2 of {path} is not a JSON object"):
        TaskTable({"train": path}).count("train")


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TypeError, match=r"write private=\('answer',\)"):
        TaskTable({"train": []}, private="answer")
    with pytest.raises(TypeError, match="a dict of rows by split"):
        TaskTable([{"a": 1}])  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match="'id' cannot be private"):
        TaskTable({"train": []}, private=("id",))


# -- the runtime's reading ----------------------------------------------------------------------


def test_ids_of_made_tasks_are_found_by_reading_each_split_once() -> None:
    tasks = NumberedTasks(2 * MAX_PAGE + 1)
    book = TaskBook(tasks, "Quiz")
    assert not book.is_ready("all")
    assert book.find("n2000").data == {"question": "2000?"}
    assert book.find("n3", "all").split == "all"
    assert book.is_ready("all")
    assert book.is_ready(None)
    pages = [call for call in tasks.asked if call[0] == "range"]
    assert [call[2:] for call in pages] == [(0, 1000), (1000, 2000), (2000, 2001)]


def test_a_page_is_bounded_and_shows_nothing_private() -> None:
    book = TaskBook(NumberedTasks(), "Quiz")
    page = book.page("all", 0, 10**9)
    assert len(page) == MAX_PAGE
    assert book.page("all", 1500, 1600) == []
    assert MARKER not in str([public_row(task, n) for n, task in enumerate(page)])


def test_a_task_that_is_not_there_is_refused_by_name() -> None:
    table = TaskTable({"train": [{"id": "a"}], "test": [{"id": "a"}, {"id": "b"}]})
    book = TaskBook(table, "Quiz")
    with pytest.raises(InvalidOption, match=r"no split 'dev': it has train, test"):
        book.count("dev")
    with pytest.raises(InvalidOption, match=r"Quiz has no task 'c' in train, test"):
        book.find("c")
    with pytest.raises(InvalidOption, match=r"no task 'b' in the split 'train'"):
        book.find("b", "train")
    with pytest.raises(InvalidOption, match=r"'a' .* in the splits 'train' and 'test'"):
        book.find("a")
    with pytest.raises(InvalidOption, match=r"'test' of Quiz has 2 tasks, .* index 2"):
        book.get("test", 2)
    assert book.find("b").split == "test"


@pytest.mark.parametrize(
    ("change", "call", "expected"),
    [
        ({"count": lambda split: -1}, "count", "count('all') returned -1"),
        ({"count": lambda split: 1 / 0}, "count", "cannot be read: ZeroDivisionError"),
        ({"get": lambda split, index: {"id": 1}}, "get", "where a Task is due"),
        ({"get": lambda split, index: Task("", {})}, "get", "a text of 1 to 255"),
        ({"get": lambda split, index: Task("other", {})}, "find", "ids must last"),
        ({"range": lambda split, start, stop: []}, "find", "returned 0 tasks"),
        (
            {"range": lambda split, start, stop: [Task("n1")] * (stop - start)},
            "find",
            "has the id 'n1' at 0 and at 1: ids must be unique",
        ),
    ],
)
def test_tasks_that_are_wrong_are_the_environment_s_failure(
    change: dict[str, Any], call: str, expected: str
) -> None:
    tasks: Any = NumberedTasks(50)
    good = tasks.get
    tasks.range = lambda split, start, stop: [good(split, n) for n in range(start, stop)]
    vars(tasks).update(change)
    book = TaskBook(tasks, "Quiz")
    arguments = {"count": ("all",), "get": ("all", 0), "find": ("n1",)}[call]
    with pytest.raises(EnvironmentRaised) as caught:
        getattr(book, call)(*arguments)
    assert expected in caught.value.message


# -- what an environment declares ---------------------------------------------------------------


def test_a_method_or_property_named_tasks_is_the_authors_own() -> None:
    class Own(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    def number(self: Any) -> int:
        return 3

    for own in (number, property(number), staticmethod(number)):
        made = type("Made", (Own,), {"tasks": own})
        assert EnvironmentSpec(made).tasks is None


def test_what_is_not_tasks_is_refused_when_the_environment_is_read() -> None:
    class Listed(Quiz):
        tasks: ClassVar[Any] = [{"question": "a"}]

    with pytest.raises(TypeError, match=r"tasks of Listed .* has no splits\(\)"):
        EnvironmentSpec(Listed)

    class Failing(Quiz):
        @classmethod
        def tasks_for(cls, **params: Any) -> Any:
            raise OSError("no such data set")

    with pytest.raises(InvalidModel, match="its tasks: OSError: no such data set"):
        EnvironmentSpec(Failing)


def test_tasks_may_depend_on_constructor_arguments() -> None:
    class Sized(Quiz):
        def __init__(self, size: int = 3) -> None:
            self.size = size

        @classmethod
        def tasks_for(cls, **params: Any) -> Any:
            return NumberedTasks(params.get("size", 3))

    tasks = EnvironmentSpec(Sized, params={"size": 9}).tasks
    assert tasks is not None
    assert tasks.count("all") == 9


def test_the_schema_of_reset_has_the_options_that_name_a_task() -> None:
    class Plain(Environment[Any, Any, Any]):
        def reset(self) -> str:
            return ""

        def step(self, action: str) -> str:
            return action

    class Indexed(Quiz):
        def reset(self, index: int = 0, question: str = "", answer: str = "") -> Any: ...  # type: ignore[override]  # an own index

    assert {"task_id", "split", "index"} <= EnvironmentSpec(Quiz).schema["reset"][
        "properties"
    ].keys()
    assert "task_id" not in EnvironmentSpec(Plain).schema["reset"]["properties"]
    own = EnvironmentSpec(Indexed)
    assert own.task_options == ["task_id", "split"]
    assert not own.names_task({"index": 1})


# -- resets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", [Quiz, InlineQuiz, AsyncQuiz, ProcessQuiz])
async def test_a_reset_that_names_a_task_gets_its_columns(environment: Any) -> None:
    async with connect(environment) as env:
        for options in (
            {"task_id": "train-2400"},
            {"task_id": "train-2400", "split": "train", "hints": 2},
            {"split": "train", "index": 2400},
        ):
            first = await env.reset(**options)
            assert first.observation == first.observation.__class__(
                f"train 2400? ({options.get('hints', 0)} hints)"
            )
            result = await env.step({"text": f"{MARKER}2400"})
            assert (result.reward, result.terminated) == (1.0, True)
        await env.reset(question="mine", answer="42")  # a task of the caller's own
        assert (await env.step({"text": "42"})).reward == 1.0


@pytest.mark.parametrize("environment", [Quiz, InlineQuiz, AsyncQuiz, ProcessQuiz])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"task_id": "nope"}, "Quiz has no task 'nope' in train, test"),
        ({"task_id": "train-1", "split": "test"}, "no task 'train-1' in the split 'test'"),
        ({"task_id": "train-1", "split": "dev"}, "no split 'dev'"),
        ({"task_id": 1}, "task_id must be a text"),
        ({"task_id": "train-1", "split": 1}, "split must be a name"),
        ({"split": "test", "index": 20}, "has 20 tasks, and none with the index 20"),
        ({"index": 1}, "named by task_id, or by split and index"),
        ({"task_id": "train-1", "answer": "mine"}, "has the option 'answer' twice"),
        ({"task_id": "train-1", "question": "mine"}, "has the option 'question' twice"),
        ({"task_id": "train-1", "tests": 1}, "takes no option 'tests'"),
        ({"split": "train"}, "takes no option 'split'"),
    ],
)
async def test_a_reset_to_no_task_is_refused_and_the_session_goes_on(
    environment: Any, options: dict[str, Any], expected: str
) -> None:
    async with connect(environment) as env:
        with pytest.raises(InvalidOption) as caught:
            await env.reset(**options)
        assert expected in caught.value.message
        assert MARKER not in str(caught.value.to_wire())
        await env.reset(task_id="test-3")
        assert (await env.step({"text": f"{MARKER}3"})).reward == 1.0


async def test_a_private_column_that_does_not_fit_is_named_and_not_shown() -> None:
    class Typed(Quiz):
        tasks = TaskTable(
            {"train": [{"id": "a", "question": "q", "answer": MARKER}]}, private=["answer"]
        )

        def reset(self, question: str = "", answer: int = 0) -> Any:  # type: ignore[override]  # another type
            return None

    async with connect(Typed) as env:
        with pytest.raises(InvalidOption, match=r"the task 'a' of Typed does not fit") as caught:
            await env.reset(task_id="a")
    assert "'answer'" in caught.value.message
    assert MARKER not in str(caught.value.to_wire())


@pytest.mark.parametrize("environment", [Quiz, InlineQuiz, AsyncQuiz])
async def test_shared_workers_find_tasks_too(environment: Any) -> None:
    async with serve(environment, options=EngineOptions(workers=2)) as url:
        clients = [EnvClient(url, share=False) for _ in range(4)]
        for number, env in enumerate(clients):
            await env.reset(task_id=f"train-{number}")
            assert (await env.step({"text": f"{MARKER}{number}"})).reward == 1.0
            await env.close()


async def test_an_environment_may_ask_which_task_it_got_and_needs_one() -> None:
    class Curious(Environment[str, str, dict[str, Any]]):
        tasks = Quiz.tasks
        isolation = "inline"

        def reset(self, question: str, answer: str, task_id: str, split: str = "") -> str:
            return f"{task_id} of {split}: {question}"

        def step(self, action: str) -> str:
            return action

    async with connect(Curious) as env:
        with pytest.raises(InvalidOption, match=r"needs the option 'question'.*name a task"):
            await env.reset()
        assert (await env.reset(split="test", index=1)).observation == "test-1 of test: test 1?"


async def test_tasks_that_cannot_be_read_fail_their_reset_alone(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"

    class Late(Quiz):
        tasks = TaskTable({"train": path}, private=["answer"])

    async with connect(Late) as env:
        with pytest.raises(OpenEnvError, match=r"the tasks of Late cannot be read: FileNotFound"):
            await env.reset(task_id="a")
        path.write_text('{"id": "a", "question": "q", "answer": "x"}')
        await env.reset(task_id="a")
        assert (await env.step(Guess("x"))).reward == 1.0


async def test_a_large_split_is_read_in_a_thread_not_on_the_loop() -> None:
    readers: list[threading.Thread] = []

    def rows() -> list[dict[str, Any]]:
        readers.append(threading.current_thread())
        return quiz_rows("train", 3)

    for base in (InlineQuiz, AsyncQuiz):
        table = TaskTable({"train": rows}, private=["answer"])
        own: Any = type("Own", (base,), {"tasks": table})
        async with connect(own) as env:
            await env.reset(task_id="train-1")
    assert len(readers) == 2
    assert threading.main_thread() not in readers


async def test_tasks_are_found_though_the_threads_of_the_loop_are_all_blocked() -> None:
    loop, go = asyncio.get_running_loop(), threading.Event()
    pool = ThreadPoolExecutor(1)
    loop.set_default_executor(pool)
    blocked = loop.run_in_executor(None, go.wait, 30)
    try:
        async with asyncio.timeout(20), connect(AsyncQuiz) as env:
            assert await (await env.tasks()).count("test") == 20
            await env.reset(task_id="test-4")
        assert not blocked.done()
    finally:
        go.set()
        await blocked


async def test_a_server_of_an_inline_environment_has_read_its_tasks_when_it_serves() -> None:
    readers: list[threading.Thread] = []

    def rows() -> list[dict[str, Any]]:
        readers.append(threading.current_thread())
        return quiz_rows("train", 3)

    class Prepared(InlineQuiz):
        tasks = TaskTable({"train": rows, "lost": "/no/such.jsonl"}, private=["answer"])

    app = create_app(Prepared)
    async with serve(app) as url, EnvClient(url) as env:
        assert len(readers) == 1
        await env.reset(task_id="train-1", split="train")
        engine = app.state.openenv.engine
        assert engine._tasks is None  # its session was not moved to a task
        with pytest.raises(EnvironmentRaised, match="No such file"):
            await env.reset(task_id="x", split="lost")
    assert threading.main_thread() not in readers
