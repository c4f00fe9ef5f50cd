# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.properties: any value stored in ZFS user properties is read back unchanged."""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from zfsvol import properties
from zfsvol.errors import InvalidArgument

# A slow machine is not an error.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

NAME = "zfsvol:name"

# zfsprops(7): a user property's name has at most 255 of these characters, one of them a colon; its value has fewer
# than 8,192 bytes.
PROPERTY_NAME = re.compile(r"[a-z0-9][a-z0-9:+._-]{0,254}\Z")
MAXIMUM = 8191

EMOJI = "\U0001f4a9"


def from_the_wire(value):
    """The value as a verb gets it: a JSON parser turns a pair of surrogates into one character."""
    return json.loads(json.dumps(value))


CHARACTERS = st.one_of(st.characters(), st.integers(0xD800, 0xDFFF).map(chr))
TEXTS = st.text(CHARACTERS).map(from_the_wire)

# Texts of several pieces, repeated from a short one so that Hypothesis finds them quickly.
LONG_TEXTS = st.builds(
    lambda text, times: from_the_wire(text * times), st.text(CHARACTERS, max_size=20), st.integers(0, 200)
)


def through_zfs(stored):
    """The properties that a later verb reads: ZFS accepts all, and each is one line in the output of `zfs get`."""
    for name, value in stored.items():
        assert PROPERTY_NAME.match(name)
        assert ":" in name
        assert len(value.encode("ascii")) <= MAXIMUM
        assert value.isprintable()
    lines = "".join(f"{name}\t{value}\n" for name, value in stored.items())
    return dict(line.split("\t", 1) for line in lines.splitlines())


def short(text):
    """A name for a test case."""
    return ascii(text)[:20]


def text_of_json_length(length):
    """A text that has this length as JSON, including the quotes."""
    return "x" * (length - 2)


class TestValues:
    @given(TEXTS)
    def test_any_text(self, text):
        stored = through_zfs(properties.encode(NAME, text))
        assert properties.decode(stored, NAME) == text
        assert properties.text(stored, NAME) == text

    @given(LONG_TEXTS)
    def test_long_texts(self, text):
        assert properties.text(through_zfs(properties.encode(NAME, text)), NAME) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "-",  # zfs's output for an unset property
            "none",
            "null",
            "true",
            '"',
            "\\",
            "a\tb\nc\rd",
            "\0",
            "\x1b[31m",
            "\x85\u2028",  # line ends in Unicode
            "\ud800",
            " spaces on both sides ",
            "name=value",
            "'; zpool destroy tank",
            EMOJI * 4000,
            "\0" * 4000,
            "é" * 8000,
        ],
        ids=short,
    )
    def test_awkward_text(self, text):
        assert properties.text(through_zfs(properties.encode(NAME, text)), NAME) == text

    @pytest.mark.parametrize("value", [True, False, 0, -1, 1 << 70, [], ["a", "b"], {"a": [None]}])
    def test_other_json(self, value):
        stored = through_zfs(properties.encode(NAME, value))
        assert properties.decode(stored, NAME) == value
        assert type(properties.decode(stored, NAME)) is type(value)

    def test_short_text_is_one_property(self):
        assert properties.encode(NAME, "disk") == {NAME: '"disk"'}

    def test_absent(self):
        assert properties.decode({}, NAME) is None
        assert properties.text({}, NAME) == ""
        assert properties.text({NAME + ".1": '"x"'}, NAME) == ""


class TestLongValues:
    @pytest.mark.parametrize("pieces", range(1, properties.PIECES))
    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_around_a_multiple_of_the_piece(self, pieces, more):
        text = text_of_json_length(pieces * properties.PIECE + more)
        assert properties.text(through_zfs(properties.encode(NAME, text)), NAME) == text

    def test_longest(self):
        text = text_of_json_length(properties.PIECES * properties.PIECE - 1)
        stored = through_zfs(properties.encode(NAME, text))
        assert len(stored) == properties.PIECES
        assert properties.text(stored, NAME) == text

    @pytest.mark.parametrize("length", [properties.PIECES * properties.PIECE, 1 << 20])
    def test_too_long(self, length):
        with pytest.raises(
            InvalidArgument, match=rf"too long.*{properties.PIECES * properties.PIECE}.*Nothing was changed"
        ):
            properties.encode(NAME, text_of_json_length(length))

    def test_length_counts_what_is_stored(self):
        # Each of these takes twelve bytes as JSON.
        with pytest.raises(InvalidArgument):
            properties.encode(NAME, EMOJI * 11000)

    @given(LONG_TEXTS, LONG_TEXTS)
    def test_pieces_left_by_an_older_value_are_not_read(self, older, newer):
        stored = properties.encode(NAME, older)
        stored.update(properties.encode(NAME, newer))
        assert properties.text(through_zfs(stored), NAME) == newer

    @pytest.mark.parametrize("old", [1, 2, 3, 5])
    @pytest.mark.parametrize("new", [1, 2, 3, 5])
    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_around_a_multiple_of_the_piece_over_an_older_value(self, old, new, more):
        stored = properties.encode(NAME, "o" * (old * properties.PIECE - 2))
        text = "n" * (new * properties.PIECE - 2 + more)
        stored.update(properties.encode(NAME, text))
        assert properties.text(through_zfs(stored), NAME) == text

    def test_names_of_pieces_do_not_meet_other_properties(self):
        stored = properties.encode("zfsvol:sr-name", text_of_json_length(20000))
        other = properties.encode("zfsvol:sr-description", text_of_json_length(20001))
        assert not set(stored) & set(other)


class TestSetByTheAdministrator:
    """Values that an administrator set with `zfs set`."""

    @pytest.mark.parametrize(
        "raw", ["database", "my disk", '"half', "", "{", "Grüße", "x" * MAXIMUM, "\udcff"], ids=short
    )
    def test_text_that_is_no_json(self, raw):
        assert properties.decode({NAME: raw}, NAME) == raw
        assert properties.text({NAME: raw}, NAME) == raw

    @pytest.mark.parametrize("raw", ["2024", "true", "null", "[1]", "1e3", "NaN"])
    def test_name_that_happens_to_be_json(self, raw):
        assert properties.text({NAME: raw}, NAME) == raw

    @pytest.mark.parametrize("raw", ["[" * 8000, '{"a":' * 1500, "9" * 8191], ids=short)
    def test_json_that_python_refuses(self, raw):
        assert properties.text({NAME: raw}, NAME) == raw

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50))
    def test_anything_gives_a_text(self, raw):
        assert isinstance(properties.text({NAME: raw}, NAME), str)

    def test_first_piece_of_a_long_value_alone(self):
        stored = properties.encode(NAME, text_of_json_length(3 * properties.PIECE))
        del stored[NAME + ".1"]
        assert isinstance(properties.text(stored, NAME), str)


class TestKeys:
    @given(st.dictionaries(TEXTS, TEXTS, max_size=8))
    def test_any_keys(self, keys):
        stored: "dict[str, str]" = {}
        for key, value in keys.items():
            stored.update(properties.encode_key(key, value))
        assert properties.decode_keys(through_zfs(stored)) == keys

    @given(st.dictionaries(LONG_TEXTS, LONG_TEXTS, max_size=4))
    def test_long_keys(self, keys):
        stored: "dict[str, str]" = {}
        for key, value in keys.items():
            stored.update(properties.encode_key(key, value))
        assert properties.decode_keys(through_zfs(stored)) == keys

    def test_keys_that_begin_alike(self):
        long = text_of_json_length(3 * properties.PIECE)
        keys = {"a": long, "a.1": "1", "a.2": long, "a.": "", "A": "upper", "": "empty", " ": "space", "ab": long}
        stored: "dict[str, str]" = {}
        for key, value in keys.items():
            added = properties.encode_key(key, value)
            assert not set(added) & set(stored)
            stored.update(added)
        assert properties.decode_keys(through_zfs(stored)) == keys

    @pytest.mark.parametrize("key", ["vdi-type", "\ud800", "a=b", EMOJI * 300, "@", "x" * 9000], ids=short)
    def test_property_name_is_one_that_zfs_takes(self, key):
        assert PROPERTY_NAME.match(properties.key_property(key))
        # Leaves room for the number of a piece.
        assert len(properties.key_property(key)) < 250

    @pytest.mark.parametrize("key", properties._HASHES)
    def test_known_hashes(self, key):
        assert properties._HASHES[key] == properties._hash(key)

    def test_new_value_of_a_key(self):
        stored = properties.encode_key("k", text_of_json_length(2 * properties.PIECE))
        stored.update(properties.encode_key("k", "short"))
        assert properties.decode_keys(through_zfs(stored)) == {"k": "short"}

    def test_unset_key_leaves_nothing(self):
        # Volume.unset removes the first piece, whose name is that of key_property.
        stored = properties.encode_key("k", text_of_json_length(3 * properties.PIECE))
        del stored[properties.key_property("k")]
        assert stored
        assert properties.decode_keys(through_zfs(stored)) == {}

    def test_too_long(self):
        with pytest.raises(InvalidArgument):
            properties.encode_key("k" * 70000, "v" * 70000)

    def test_other_properties_are_no_keys(self):
        stored = properties.encode(NAME, ["vdi-type", "system"])
        stored["com.example:key"] = '["a", "b"]'
        assert properties.decode_keys(stored) == {}

    @pytest.mark.parametrize(
        "raw", ["text", "null", '["a"]', '["a", "b", "c"]', '["a", 1]', '{"a": "b"}', "[" * 8000, ""], ids=short
    )
    def test_what_is_no_pair_is_passed_over(self, raw):
        stored = properties.encode_key("k", "v")
        stored[properties.KEY_PREFIX + "0" * 32] = raw
        assert properties.decode_keys(stored) == {"k": "v"}
