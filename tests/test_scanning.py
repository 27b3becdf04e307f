from __future__ import annotations

import pytest

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.notebook.scanning import excerpt, scan, unquoted, words_of


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        (" \t\n ", []),
        ("a  b\tc\nd", ["a", "b", "c", "d"]),
        ("""-i d={'a': 1, "b": [1, 2]} -b""", ["-i", """d={'a': 1, "b": [1, 2]}""", "-b"]),
        ("-i s='US west' -q", ["-i", "s='US west'", "-q"]),
        ('--inputs {"a": 1} x', ["--inputs", '{"a": 1}', "x"]),
        ("--inputs dict(a=1, b=(1, [2, {3: 4}])) x", ["--inputs", "dict(a=1, b=(1, [2, {3: 4}]))", "x"]),
        ("""a='''it's "so" ok''' b""", ["""a='''it's "so" ok'''""", "b"]),
        ('a="""x y"""z w', ['a="""x y"""z', "w"]),
        (r"a='it\'s so' b", [r"a='it\'s so'", "b"]),
        (r"a='\\' b", [r"a='\\'", "b"]),
        (r"a=r'\d +' b", [r"a=r'\d +'", "b"]),
        ("a=b'x y' f'{z} w'", ["a=b'x y'", "f'{z} w'"]),
        ("a='' b=\"\" c", ["a=''", 'b=""', "c"]),
        ("a='(' b=')' c", ["a='('", "b=')'", "c"]),
        ("a=[')', 1] c", ["a=[')', 1]", "c"]),
        ("a=1 # no comment", ["a=1", "#", "no", "comment"]),
        (r"c:\temp\x a\ b", [r"c:\temp\x", "a\\", "b"]),
        ("a) b] c", ["a)", "b]", "c"]),
        ("a='x''y z' w", ["a='x''y z'", "w"]),
    ],
)
def test_a_line_is_split_outside_quotes_and_brackets(line: str, words: list[str]) -> None:
    assert scan(line) == words
    found, problem = words_of(line)
    assert problem is None
    assert all(line[word.start :].startswith(word.text) for word in found)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-i s='US west", "the quote ' at column 6 is not closed: 'US west"),
        ('-i s="US', 'the quote " at column 6 is not closed'),
        ("a='''x' y", "the quote ''' at column 3 is not closed"),
        ('a="""x""', 'the quote """ at column 3 is not closed'),
        (r"a='x\'", "the quote ' at column 3 is not closed"),
        ("don't", "the quote ' at column 4 is not closed: 't"),
        ("a=[1, (2 b", "the bracket ( at column 7 is not closed: (2 b"),
        ("a={'b': [1, 2] c", "the bracket { at column 3 is not closed"),
        ("a=[1, 'x] b", "the quote ' at column 7 is not closed"),
        ("a={1: [2} b", "the bracket [ at column 7 is closed by } at column 9: [2}"),
    ],
)
def test_what_is_not_closed_is_named_with_its_column(line: str, told: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        scan(line)
    assert told in caught.value.message
    assert ":" not in told or caught.value.message.endswith(told)
    assert caught.value.hint.startswith("end it with ")


def test_an_apostrophe_hints_at_the_other_quotes() -> None:
    with pytest.raises(ArgumentError, match='in double quotes: "it\'s"'):
        scan("it's")


def test_a_half_typed_line_still_has_words() -> None:
    words, problem = words_of("-b  x='US we")
    assert [(word.text, word.start) for word in words] == [("-b", 0), ("x='US we", 4)]
    assert isinstance(problem, ArgumentError)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("'a b'", "a b"),
        ('"""a"""', "a"),
        (r"r'\d'", r"\d"),
        ("ab", "ab"),
        ("", ""),
        ("''", ""),
        ("b'x'", "b'x'"),
        ("a'b'", "a'b'"),
        ("f'{x}'", "f'{x}'"),
        ("42", "42"),
    ],
)
def test_quotes_come_off_a_plain_text(text: str, plain: str) -> None:
    assert unquoted(text) == plain


def test_an_excerpt_is_short() -> None:
    assert excerpt("x" * 40) == "x" * 40
    assert excerpt("x" * 41) == "x" * 39 + "…"
