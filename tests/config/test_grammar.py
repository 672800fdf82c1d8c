"""Hydra's sweep grammar as the language of search spaces."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.grammar import Choice, Interval, parse_value, quote_sweeps, read_sweep

Config = dict[str, Any]
Compose = Callable[..., Config]

KEY = "model.units"


def read(text: str) -> Choice | Interval | None:
    return read_sweep(text, KEY)


def options(text: str) -> list[Any]:
    domain = read(text)
    assert isinstance(domain, Choice)
    return list(domain.options)


def message(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read(text)
    return str(caught.value)


def same(a: object, b: object) -> bool:
    """Returns whether two values are equal and have the same types; in Python, 1, 1.0 and True are equal."""
    return repr(a) == repr(b)


# ---- choices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(16, 64)", [16, 64]),
        ("choice(16)", [16]),
        (" choice(16,64)", [16, 64]),
        (" 16,64 ", [16, 64]),
        ("16,64", [16, 64]),
        ("16, 64 ,128", [16, 64, 128]),
        ("-1,1", [-1, 1]),
        ("1e-3,1e-2", [0.001, 0.01]),
        ("relu,tanh", ["relu", "tanh"]),
        ("choice(relu, tanh)", ["relu", "tanh"]),
        ("choice(two words, one)", ["two words", "one"]),
        ("choice(true, false)", [True, False]),
        ("null,1", [None, 1]),
        ("true,false,null", [True, False, None]),
        ("choice([32, 64], [64])", [[32, 64], [64]]),
        ("[1,2],[3]", [[1, 2], [3]]),
        ("choice([1, [2, 3]], [null, true])", [[1, [2, 3]], [None, True]]),
        ("choice([a, 'b,c'], [])", [["a", "b,c"], []]),
        ("choice({a: 1}, {a: 2})", [{"a": 1}, {"a": 2}]),
        ("choice({a: 'b,c'}, {a: [1, 'f,g']})", [{"a": "b,c"}, {"a": [1, "f,g"]}]),
        ("choice('a,b', \"c(d)\")", ["a,b", "c(d)"]),
        ("'a,b','c'", ["a,b", "c"]),
        (r"choice('it\'s', 'so')", ["it's", "so"]),
        ("choice('1', 1)", ["1", 1]),
        ("choice('')", [""]),
        ("model_a:build,model_b:build", ["model_a:build", "model_b:build"]),
        ("/a/b,c.d", ["/a/b", "c.d"]),
        ("tag(choice(1, 2))", [1, 2]),
        pytest.param("choice(16, 64) ", [16, 64]),
        pytest.param("choice(null, 1)", [None, 1]),
    ],
)
def test_a_list_of_values_is_a_choice(text: str, expected: list[Any]) -> None:
    assert same(options(text), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("range(1, 4)", [1, 2, 3]),
        ("range(4)", [0, 1, 2, 3]),
        ("range(1, 6, 2)", [1, 3, 5]),
        ("range(start=1, stop=4)", [1, 2, 3]),
        ("range(-2, 2)", [-2, -1, 0, 1]),
        ("range(3, 0, -1)", [3, 2, 1]),
        ("range(0, 1, 0.25)", [0.0, 0.25, 0.5, 0.75]),
        ("range(0, 0.5, 0.1)", [0.0, 0.1, 0.2, 0.3, 0.4]),
        ("range(-1, 1, 0.5)", [-1.0, -0.5, 0.0, 0.5]),
        ("range(1, 0, -0.25)", [1.0, 0.75, 0.5, 0.25]),
        ("range(1.0, 4)", [1.0, 2.0, 3.0]),
    ],
)
def test_a_range_excludes_its_end(text: str, expected: list[Any]) -> None:
    assert same(options(text), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sort(3, 1, 2)", [1, 2, 3]),
        ("sort(3, 1, 2, reverse=true)", [3, 2, 1]),
        ("sort(range(3, 0, -1))", [1, 2, 3]),
        ("sort(range(1, 4), reverse=true)", [3, 2, 1]),
        ("sort(b, a)", ["a", "b"]),
        ("sort(choice(true, false))", [False, True]),
    ],
)
def test_a_sorted_choice_is_in_order(text: str, expected: list[Any]) -> None:
    assert same(options(text), expected)


@pytest.mark.parametrize("text", ["shuffle(3, 1, 2)", "shuffle(range(1, 4))", "shuffle(choice(1, 2, 3))"])
def test_a_shuffled_choice_has_the_same_values(text: str) -> None:
    assert sorted(options(text)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float(range(1, 3))", [1.0, 2.0]),
        ("float(choice(1, 2))", [1.0, 2.0]),
        ("float(1, 2)", [1.0, 2.0]),
        ("int(choice(1.5, 2.5))", [1, 2]),
        ("int(choice('1', '2'))", [1, 2]),
        ("str(choice(1, 2))", ["1", "2"]),
        ("bool(choice(0, 1))", [False, True]),
    ],
)
def test_a_cast_applies_to_each_value(text: str, expected: list[Any]) -> None:
    assert same(options(text), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choice(2, 1, 2, 1)", [2, 1]),
        ("relu,relu", ["relu"]),
        ("0.1,1e-1", [0.1]),
        ("choice([1, 2], [1, 2], [2, 1])", [[1, 2], [2, 1]]),
        ("choice(1, 1.0, true)", [1, 1.0, True]),
        ("choice(0, 0.0, false)", [0, 0.0, False]),
        ("choice(1, '1', true, 'true')", [1, "1", True, "true"]),
    ],
)
def test_duplicate_values_are_dropped_but_1_and_true_differ(text: str, expected: list[Any]) -> None:
    assert same(options(text), expected)


def test_mappings_with_reordered_keys_are_duplicates() -> None:
    assert options("choice({a: 1, b: 2}, {b: 2, a: 1})") == [{"a": 1, "b": 2}]


# ---- intervals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0, 0.5)", Interval(0.0, 0.5, integer=False, log=False)),
        ("interval(1, 4)", Interval(1.0, 4.0, integer=False, log=False)),
        ("interval(-1.5, -0.5)", Interval(-1.5, -0.5, integer=False, log=False)),
        ("interval(start=1, end=2)", Interval(1.0, 2.0, integer=False, log=False)),
        ("float(interval(1, 4))", Interval(1.0, 4.0, integer=False, log=False)),
        ("int(interval(16, 512))", Interval(16, 512, integer=True, log=False)),
        ("int(interval(-4, 4))", Interval(-4, 4, integer=True, log=False)),
        ("tag(log, interval(1e-4, 1e-1))", Interval(0.0001, 0.1, integer=False, log=True)),
        ("tag(log, int(interval(16, 512)))", Interval(16, 512, integer=True, log=True)),
        ("int(tag(log, interval(16, 512)))", Interval(16, 512, integer=True, log=True)),
    ],
)
def test_an_interval_is_read(text: str, expected: Interval) -> None:
    assert same(read(text), expected)


def test_an_interval_of_whole_numbers_includes_both_ends() -> None:
    whole = Interval(1, 4, integer=True, log=False)

    assert list(whole.all()) == [1, 2, 3, 4]
    assert (whole.size, list(whole.extremes())) == (4, [1, 4])


def test_an_interval_of_real_numbers_cannot_be_counted() -> None:
    assert Interval(1.0, 4.0, integer=False, log=False).size is None


@pytest.mark.parametrize(
    ("integer", "value", "expected"),
    [
        (False, 0.5, 1.0),
        (False, 2, 2.0),
        (False, 2.5, 2.5),
        (False, 4.000001, 4.0),
        (True, 0, 1),
        (True, 4.6, 4),
        (True, 2.4, 2),
        (True, 2.6, 3),
        (True, -math.inf, 1),
        (True, math.inf, 4),
    ],
)
def test_clamp_returns_the_closest_value_in_the_interval_with_its_type(
    integer: bool, value: float, expected: float
) -> None:
    low, high = (1, 4) if integer else (1.0, 4.0)

    assert same(Interval(low, high, integer=integer, log=False).clamp(value), expected)


@pytest.mark.parametrize(
    "text",
    [
        "choice(16, relu, true)",
        "range(-3, 4)",
        "interval(-1, 1)",
        "int(interval(-3, 3))",
        "tag(log, interval(1e-4, 1e-1))",
        "tag(log, int(interval(1, 1000)))",
    ],
)
def test_sampling_is_seeded_and_stays_within_the_domain_and_its_type(text: str) -> None:
    domain = read(text)
    assert domain is not None
    drawn = [domain.sample(random.Random(seed)) for seed in range(300)]

    assert drawn == [domain.sample(random.Random(seed)) for seed in range(300)]
    if isinstance(domain, Choice):
        assert {json.dumps(value) for value in drawn} == {json.dumps(value) for value in domain.options}
    else:
        assert all(domain.low <= value <= domain.high for value in drawn)
        assert {type(value) for value in drawn} == {int if domain.integer else float}


def test_a_logarithmic_interval_is_sampled_evenly_on_a_log_scale() -> None:
    domain, rng = Interval(1e-4, 1.0, integer=False, log=True), random.Random(0)

    assert sum(domain.sample(rng) < 1e-2 for _ in range(2000)) == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("text", ["int(interval(1, 3))", "range(1, 4)"])
def test_whole_numbers_are_sampled_evenly_including_both_ends(text: str) -> None:
    domain, rng = read(text), random.Random(0)
    assert domain is not None
    drawn = [domain.sample(rng) for _ in range(3000)]

    assert [drawn.count(value) for value in (1, 2, 3)] == pytest.approx([1000] * 3, abs=100)


# ---- plain values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "relu",
        "16",
        "null",
        "[1, 2]",
        "{a: 1}",
        "a text (with, parentheses)",
        "hello (world)",
        "foo(1, 2)",
        "choices(1, 2)",
        "my_range(1, 2)",
        "Choice(1, 2)",
        "my.package:function",
        "/path/to/file.npz",
        r"C:\data\file.npz",
        "sqlite:///mlruns/mlflow.db",
        "http://user@host:5000/path?a=1",
        "'a,b'",
        '"choice(1, 2)"',
        "a,",
        "1,,2",
        "~/data",
        "choice",
        "float(3)",
        "$x",
        "${model.units}",
        "é, ü: ß!",
    ],
)
def test_a_plain_value_is_not_a_sweep(text: str) -> None:
    assert read(text) is None


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("range(4, 1)", "has no values"),
        ("range(1, 1)", "has no values"),
        ("range(0)", "has no values"),
        ("shuffle()", "has no values"),
        ("interval(5, 1)", "the first number must be smaller than the second"),
        ("interval(1, 1)", "the first number must be smaller than the second"),
        ("int(interval(5, 1))", "the first number must be smaller than the second"),
        ("interval(0, inf)", "both ends must be finite numbers"),
        ("interval(-inf, 0)", "both ends must be finite numbers"),
        ("interval(nan, 1)", "both ends must be finite numbers"),
        ("tag(log, interval(0, 1))", "a logarithmic interval must start above 0"),
        ("tag(log, interval(-1, 1))", "a logarithmic interval must start above 0"),
        ("tag(log, int(interval(0, 9)))", "a logarithmic interval must start above 0"),
        ("tag(log, choice(1, 2))", "tag(log, …) works only with interval(…)"),
        ("tag(log, range(1, 3))", "tag(log, …) works only with interval(…)"),
        ("tag(linear, interval(1, 2))", "unknown tag 'linear'; the only tag is log"),
        ("tag(log, b, a, interval(1, 2))", "unknown tag 'a'; the only tag is log"),
        ("glob(*)", "glob picks files of a config group, which cannot be searched; write choice(…)"),
        ("glob([a*, b])", "glob picks files of a config group, which cannot be searched; write choice(…)"),
        ("choice(1, 2", "cannot be read as a sweep (no viable alternative at input 'choice(1, 2')"),
        ("choice(, 1)", "cannot be read as a sweep (no viable alternative at input 'choice(, ')"),
        pytest.param("int(interval(0.2, 0.8))", "contains only one whole number; write model.units=0"),
    ],
)
def test_a_faulty_sweep_is_refused_with_its_key(text: str, expected: str) -> None:
    assert message(text) == f"{KEY}={text}: {expected}"


UNREADABLE = [
    "choice()",
    "choice(range(1, 3), 4)",
    "choice(1, 2)3",
    "interval(1)",
    "interval(1, 2, 3)",
    "interval(a, b)",
    "range(a, b)",
    "shuffle(interval(1, 2))",
    "sort(1, a)",
    "int(relu)",
    "tag(log)",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_an_unreadable_sweep_is_refused(text: str) -> None:
    assert message(text).startswith(f"{KEY}={text}: cannot be read as a sweep (")
    assert "\n" not in message(text)


@pytest.mark.parametrize("text", ["interval(1)", "choice(range(1, 3), 4)"])
def test_the_message_about_an_unreadable_sweep_says_why(text: str) -> None:
    assert "key=" not in message(text)


@pytest.mark.parametrize("text", ["range(0, 1, 0)", "interval(1, 2),3", "choice(shuffle(1, 2), 3)"])
def test_a_sweep_that_hydra_accepts_but_cannot_be_searched_is_refused(text: str) -> None:
    assert message(text).startswith(f"{KEY}={text}: ")


def test_a_mapping_may_have_keys_of_several_types() -> None:
    assert len(options("choice({a: 1, 2: 3}, {a: 2})")) == 2


# ---- one plain value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", 20),
        ("1e-3", 0.001),
        ("null", None),
        ("true", True),
        ("2h", "2h"),
        ("", ""),
        ("'a,b'", "a,b"),
        ("[1, 'a']", [1, "a"]),
    ],
)
def test_a_plain_value_is_read_as_on_the_command_line(text: str, expected: object) -> None:
    assert same(parse_value(text, KEY), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2", "model.units=1,2: must be a single value"),
        ("choice(1)", "model.units=choice(1): must be a single value"),
        ("interval(0, 1)", "model.units=interval(0, 1): must be a single value"),
        ("[1", "model.units=[1: cannot be read"),
    ],
)
def test_a_sweep_is_refused_as_a_plain_value(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_value(text, KEY)

    assert str(caught.value) == expected


# ---- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16,64", "choice(16, 64)"),
        ("range(1, 4)", "choice(1, 2, 3)"),
        ("choice(relu, true, 1.0, [1, 2])", "choice(relu, true, 1.0, [1, 2])"),
        ("interval(0, 5e-1)", "interval(0, 0.5)"),
        ("int(interval(16, 512))", "int(interval(16, 512))"),
        ("tag(log, interval(1e-4, 1e-1))", "tag(log, interval(0.0001, 0.1))"),
        ("int(tag(log, interval(16, 512)))", "tag(log, int(interval(16, 512)))"),
    ],
)
def test_a_domain_prints_as_it_would_be_written_in_a_config(text: str, expected: str) -> None:
    assert str(read(text)) == expected


UNQUOTED = "grammar.py, Choice.__str__: writes texts without the quotes that they need"
SIX_DIGITS = "grammar.py, Interval.__str__: writes six digits"


@pytest.mark.parametrize(
    "text",
    [
        "choice(16, 64, -3)",
        "choice(1, 1.0, true)",
        "choice(relu, 'two words', a:b, /path)",
        "choice([32, 64], [64])",
        "range(0, 0.5, 0.1)",
        "interval(0, 0.5)",
        "interval(-1.5, 1)",
        "int(interval(16, 512))",
        "tag(log, interval(1e-4, 1e-1))",
        "tag(log, int(interval(16, 512)))",
        pytest.param("null,1"),
        pytest.param("choice('1', '2')"),
        pytest.param("choice('true', true)"),
        pytest.param("choice('a,b', c)"),
        pytest.param("choice('c(d)', c)"),
        pytest.param(r"choice('it\'s', c)"),
        pytest.param("choice('', c)"),
        pytest.param("choice({a: 1}, {a: 2})"),
        pytest.param("choice(inf, 1)"),
        pytest.param("interval(0.123456789, 1)"),
        pytest.param("interval(0, 1234567)"),
        pytest.param("int(interval(1, 1234567))"),
    ],
)
def test_a_printed_domain_reads_back_as_the_same_domain(text: str) -> None:
    domain = read(text)

    assert same(read(str(domain)), domain)


# ---- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.units=16,64", "model.units='16,64'"),
        ("model.units=choice(16, 64)", "model.units='choice(16, 64)'"),
        ("model.layers=range(1,4)", "model.layers='range(1,4)'"),
        (
            "optimizer.learning_rate=tag(log, interval(1e-4, 1))",
            "optimizer.learning_rate='tag(log, interval(1e-4, 1))'",
        ),
        ("model.units=[1,2],[3]", "model.units='[1,2],[3]'"),
        # Hydra's parser does not accept null here.
        ("model.pooling.kind=choice(max,null)", "model.pooling.kind='choice(max,null)'"),
        ("+model.units=16,64", "+model.units='16,64'"),
        ("++model.units=16,64", "++model.units='16,64'"),
        ("model=mlp,cnn", "model='mlp,cnn'"),
        ("+experiment=mlp,cnn", "+experiment='mlp,cnn'"),
        ("model.activation='relu','tanh'", r"model.activation='\'relu\',\'tanh\''"),
        ('model.activation="relu","tanh"', 'model.activation=\'"relu","tanh"\''),
    ],
)
def test_a_sweep_on_the_command_line_is_quoted(override: str, expected: str) -> None:
    assert quote_sweeps([override]) == [expected]


@pytest.mark.parametrize(
    "override",
    [
        "",
        "model.units=16",
        "model.units=",
        "model.units=[1,2]",
        "model.units='16,64'",
        'name="a,b"',
        "model=cnn",
        "+experiment=quick",
        "~model.units",
        "--cfg",
        "--cfg=job",
        "-m",
        "job",
        "model.units=choice(16",
        "model.units=[1",
        "description=a text (with, parentheses",
        "hydra.run.dir=a,b",
        "hydra.verbose=true,false",
        "hydra/launcher=a,b",
        "hydra.mode=MULTIRUN",
    ],
)
def test_an_argument_without_a_sweep_is_left_unchanged(override: str) -> None:
    assert quote_sweeps([override]) == [override]


def test_the_order_of_arguments_is_kept() -> None:
    assert quote_sweeps(["+experiment=mlp", "model.units=1,2", "--cfg", "job"]) == [
        "+experiment=mlp",
        "model.units='1,2'",
        "--cfg",
        "job",
    ]


def test_no_arguments_give_no_arguments() -> None:
    assert quote_sweeps([]) == []


def parsed(argument: str) -> Any:
    override = OverridesParser.create().parse_overrides([argument])[0]
    assert not override.is_sweep_override()
    value = override.value()
    return value.text if isinstance(value, QuotedString) else value


def test_any_text_survives_the_command_line() -> None:
    rng = random.Random(0)
    for _ in range(300):
        texts = ["".join(rng.choices("'\"\\,()[]{} ab$:=#1é", k=rng.randint(0, 6))) for _ in range(rng.randint(2, 3))]
        quoted = [QuotedString(text, rng.choice(list(Quote))).with_quotes() for text in texts]
        sweep = f"choice({', '.join(quoted)})" if rng.random() < 0.5 else ",".join(quoted)

        assert options(sweep) == list(dict.fromkeys(texts))
        assert options(parsed(quote_sweeps([f"model.activation={sweep}"])[0])) == list(dict.fromkeys(texts))


@pytest.mark.parametrize(
    "sweep",
    [
        "16,64",
        "null,1",
        "choice(true, false)",
        "range(1, 4)",
        "int(interval(16, 512))",
        "tag(log, interval(1e-4, 1e-1))",
        "choice([32, 64], [64])",
        "'a,b','c(d)'",
        """choice('it\\'s', "so")""",
        "'a\"b',c",
        r"'back\\slash',c",
        "$x,b",
        "a b,c d",
    ],
)
def test_hydra_passes_sweeps_on_unchanged(compose_config: Compose, sweep: str) -> None:
    config = compose_config(f"model.units={sweep}", f"+model.added={sweep}", f"++model.layers={sweep}")

    for key in ("units", "added", "layers"):
        assert isinstance(config["model"][key], str)
        assert same(read(config["model"][key]), read(sweep))
