"""``WWW-Authenticate``: what follows the grammar is read, what does not is passed over."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obo_asgi._www_authenticate import HeaderChallenge, parse_header
from obo_asgi.challenges import bearer_challenge

CLAIMS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'

TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}", fullmatch=True)
TOKEN68 = st.from_regex(r"[A-Za-z0-9._~+/-]{1,20}={0,2}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
SEPARATORS = st.sampled_from([", ", ",", " ,\t", ",,", " , , "])
PIECES = [
    *("Bearer", "Basic", "bearer ", "realm", "claims", "error", "=", '"', "\\", '\\"', ",", ", "),
    *(" ", "\t", "\n", "\x00", "é", "{", "}", ":", 'claims="{', "e30=", "abc==", '=""', '"a"'),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@st.composite
def written(draw: st.DrawFn) -> tuple[HeaderChallenge, str]:
    """Give a challenge, and one of the many ways to write it."""
    scheme = draw(TOKENS)
    named = draw(st.dictionaries(TOKENS.map(str.lower), VALUES, max_size=3))
    if not named:
        rest = draw(TOKEN68.map(" {}".format) | st.just(""))
        return HeaderChallenge(scheme.lower(), {}), scheme + rest
    parameters = []
    for name, value in named.items():
        escaped = r'(["\\])' if draw(st.booleans()) else r"(.)"
        quoted = '"' + re.sub(escaped, r"\\\1", value) + '"'
        is_token = re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value) and draw(st.booleans())
        equals = draw(st.sampled_from(["=", " = ", "\t=", "=  "]))
        spelled = draw(st.sampled_from([name, name.upper()]))
        parameters.append(spelled + equals + (value if is_token else quoted))
    text = parameters[0]
    for parameter in parameters[1:]:
        text += draw(SEPARATORS) + parameter
    return HeaderChallenge(scheme.lower(), named), f"{scheme} {text}"


@settings(max_examples=50)
@given(st.lists(written(), max_size=3), st.data())
def test_what_follows_the_grammar_is_read(
    challenges: list[tuple[HeaderChallenge, str]], data: st.DataObject
) -> None:
    """Any challenges, in one line or in several, in any spelling, are read as they were meant."""
    lines: list[str] = []
    for _, text in challenges:
        if data.draw(st.booleans()) and lines:
            lines[-1] += data.draw(SEPARATORS) + text
        else:
            lines.append(data.draw(st.sampled_from(["", " ", ", "])) + text)

    assert [challenge for challenge, _ in challenges] == parse_header(lines)


@given(st.dictionaries(TOKENS.map(str.lower), st.none() | st.text()))
def test_what_is_built_here_is_read_back(parameters: dict[str, str | None]) -> None:
    """A challenge of ours is one challenge, with every parameter and no other."""
    expected = {name: value for name, value in parameters.items() if value is not None}
    quotable = {name: re.sub(r'[^ -~]|["\\]', "?", value) for name, value in expected.items()}

    assert [("bearer", {"realm": "", **quotable})] == parse_header([bearer_challenge(**parameters)])


@pytest.mark.parametrize(
    "parameters",
    [
        {"claims": "{"},
        {"claims": "{", "error": ":1}"},
        {"error": "x", "claims": "{}", "scope": "{}"},
        {"error": "claims={", "scope": ":1}"},
    ],
    ids=str,
)
def test_a_brace_is_no_way_out_of_the_quotes(parameters: dict[str, str]) -> None:
    """What is quoted by the rules is not taken for the JSON of one who does not quote."""
    assert [("bearer", {"realm": "", **parameters})] == parse_header(
        [bearer_challenge(**parameters)]
    )


@given(st.lists(HOSTILE | st.text(), max_size=3))
def test_no_line_is_an_error(lines: list[str]) -> None:
    """Whatever a line holds, the challenges that come out have a scheme and names in lower case."""
    for scheme, parameters in parse_header(lines):
        for name in (scheme, *parameters):
            assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name)


@pytest.mark.parametrize(
    "line",
    [
        *('x="' * 10_000, 'a="\\' * 8_000, "a " * 16_000, "a=\t" * 9_000, "," * 32_000),
        *("a" * 32_000, "a" * 15_000 + " " * 15_000 + "x", "=" * 32_000, 'a="' + "\\" * 32_000),
        *('claims="{' * 4_000, 'claims="{"a":' * 3_000, 'claims="{"a":' + "[" * 32_000),
        *('claims="{"a":' + "1" * 32_000, "a=b  " * 8_000, 'a="b" ' * 8_000, "a" * 10_000_000),
    ],
    ids=lambda line: repr(line[:16]),
)
def test_no_line_takes_long(line: str) -> None:
    """Lines that make patterns backtrack, or JSON nest, are read in time that grows with them."""
    before = time.process_time()
    parse_header([f"Bearer {line}", line])

    assert 2 > time.process_time() - before


def test_what_is_too_long_is_cut() -> None:
    """Of a line only the first 32 KiB are looked at; the others are not touched by that."""
    long = f'Bearer realm="{"x" * 32 * 1024}", error="late"'

    assert [("bearer", {}), ("basic", {})] == parse_header([long, "Basic"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("Bearer", [("bearer", {})], id="a scheme alone"),
        pytest.param("BEARER Error=X", [("bearer", {"error": "X"})], id="case of names and values"),
        pytest.param(
            "Negotiate, Bearer error=x", [("negotiate", {}), ("bearer", {"error": "x"})], id="two"
        ),
        pytest.param(
            'NTLM TlRMTVNTUAAC==, Bearer realm="a"',
            [("ntlm", {}), ("bearer", {"realm": "a"})],
            id="token68",
        ),
        pytest.param(
            'Bearer realm="a", error="x", Digest realm="b", nonce="c,d=e"',
            [
                ("bearer", {"realm": "a", "error": "x"}),
                ("digest", {"realm": "b", "nonce": "c,d=e"}),
            ],
            id="commas between, and inside quotes",
        ),
        pytest.param(
            r'Bearer realm="a \"b\" \\ c\d"', [("bearer", {"realm": 'a "b" \\ cd'})], id="escapes"
        ),
        pytest.param('Bearer error="x", error="y"', [("bearer", {"error": "x"})], id="twice"),
        pytest.param('Bearer error=""', [("bearer", {"error": ""})], id="an empty value"),
        pytest.param("", [], id="nothing"),
        pytest.param(" , ,, ", [], id="commas"),
        pytest.param('error="x"', [], id="no scheme"),
        pytest.param('Bearer error="x', [("bearer", {})], id="an open quote"),
        pytest.param(
            'Bearer uri=https://a/b?c, error="x"', [("bearer", {"error": "x"})], id="not quoted"
        ),
        pytest.param(
            'Bearer realm="a"b, error="x"', [("bearer", {"error": "x"})], id="text after a quote"
        ),
        pytest.param('Bearer é="a", error=x', [("bearer", {"error": "x"})], id="not ASCII"),
        pytest.param('"', [], id="a quote alone"),
        pytest.param("Bearer error=x\n", [("bearer", {"error": "x"})], id="a line's end"),
    ],
)
def test_a_line_is_read_leniently(line: str, expected: list[HeaderChallenge]) -> None:
    """Each part that makes sense counts; the part up to the next comma is lost where none does."""
    assert expected == parse_header([line])


def test_parameters_stay_on_their_line() -> None:
    """A line that starts without a scheme adds nothing to the challenge of the line before."""
    assert [("bearer", {"realm": "a"})] == parse_header(['Bearer realm="a"', 'error="x"'])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["access_token", "id_token"]), JSON), st.booleans())
def test_json_between_quotes_is_read_whole(claims: dict[str, object], is_ascii: bool) -> None:
    """Claims that Microsoft.Identity.Web puts between quotes as they are come out as they are."""
    text = json.dumps(claims, ensure_ascii=is_ascii)
    line = f'Bearer consentUri="https://a", claims="{text}", scopes="a,b"'

    expected = {"consenturi": "https://a", "claims": text, "scopes": "a,b"}
    assert [("bearer", expected)] == parse_header([line])


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param('{"a":"\\"},{\\""}', id="quotes and braces in the JSON"),
        pytest.param('{"a":{"b":[1,null]},"c":"\\\\"}', id="backslashes"),
        pytest.param("{}", id="empty object"),
        pytest.param(CLAIMS, id="Entra's"),
    ],
)
def test_json_keeps_its_own_escapes(claims: str) -> None:
    """The escapes of the JSON are not taken for those of the header."""
    line = f'Bearer claims="{claims}", error="x"'

    assert [("bearer", {"claims": claims, "error": "x"})] == parse_header([line])


@pytest.mark.parametrize("escape", [True, False], ids=["escaped", "as it is"])
def test_json_is_read_in_either_form(escape: bool) -> None:
    """Claims that are escaped by the rules, and such that are not, come out the same."""
    claims = CLAIMS.replace('"', '\\"') if escape else CLAIMS

    assert [("bearer", {"claims": CLAIMS})] == parse_header([f'Bearer claims="{claims}"'])


@pytest.mark.parametrize("claims", ['{"a":', '{"a":1', '{"a" 1}', "{" * 5000], ids=lambda c: c[:8])
def test_broken_json_costs_its_own_value_alone(claims: str) -> None:
    """JSON that is not whole is passed over; what stands before and after is read."""
    [challenge] = parse_header([f'Bearer error="x", claims="{claims}", scope="a"'])

    assert ("x", "a") == (challenge.parameters["error"], challenge.parameters["scope"])
