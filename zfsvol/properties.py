# SPDX-License-Identifier: LGPL-2.1-only
"""Stores texts and other JSON values as ZFS user properties, and reads them. Pure: strings in, strings out.

A value is stored as JSON in ASCII, so that line breaks, quotes, control characters and lone surrogates survive zfs's
line-wise output. A ZFS property holds 8,191 bytes; a longer JSON text continues in `<property>.1`, `<property>.2` and
so on. A full piece is followed by another; a shorter one is the last. So pieces left over from a longer value are never
read, and one `zfs set` with all pieces changes the value atomically.

A client's key may be any text, but a property's name may not. So the property is named by a hash of the key, and its
value holds both: `["key", "value"]`.
"""

import json

from zfsvol import naming
from zfsvol.errors import InvalidArgument

PIECE = 8000
PIECES = 16

KEY_PREFIX = "zfsvol:key:"

# The hashes of keys that xapi or the driver sets on nearly every disk. To compute one, hashlib has to load OpenSSL.
_HASHES = {
    naming.TEMPORARY: "73cdd8649a7e78f078b8174f9ff7d5ec",
    naming.IS_A_SNAPSHOT: "de3afccfc45a08b3deee9336d131de2d",
    naming.SNAPSHOT_OF: "cc4d307d82ecb9fb1a151b686e3f951a",
    naming.SNAPSHOT_TIME: "0104506b482cb104912b798e286e5404",
    naming.TYPE: "c0e93e89fc54cba2e19f6717308aa1be",
    naming.CONTENT: "df42ee6b10012903b2a03efe67ce6982",
}


def encode(name: str, value: object) -> "dict[str, str]":
    """The properties that store `value` under `name`.

    Raises InvalidArgument if it needs more than PIECES pieces of PIECE bytes.
    """
    text = json.dumps(value)
    if len(text) % PIECE == 0:
        text += " "  # the last piece must be a short one; JSON ignores the space
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    if len(pieces) > PIECES:
        raise InvalidArgument(
            f"The text is too long: it needs {len(text)} bytes as a ZFS property, and {PIECE * PIECES} is the limit. "
            "Nothing was changed."
        )
    return {name if index == 0 else f"{name}.{index}": piece for index, piece in enumerate(pieces)}


def _raw(properties: "dict[str, str]", name: str) -> "str | None":
    piece = properties.get(name)
    if piece is None:
        return None
    whole = piece
    index = 0
    while len(piece) == PIECE:
        index += 1
        piece = properties.get(f"{name}.{index}", "")
        whole += piece
    return whole


def decode(properties: "dict[str, str]", name: str) -> object:
    """The value stored under `name`; None if there is none.

    Text that is not JSON is returned as it is: an administrator may have set it with `zfs set`.
    """
    raw = _raw(properties, name)
    if raw is None:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def text(properties: "dict[str, str]", name: str) -> str:
    """The text stored under `name`; "" if there is none; the raw property if it does not hold a text."""
    value = decode(properties, name)
    return value if isinstance(value, str) else _raw(properties, name) or ""


def key_property(key: str) -> str:
    """The name of the property that stores the client's key `key`."""
    return KEY_PREFIX + (_HASHES.get(key) or _hash(key))


def _hash(key: str) -> str:
    import hashlib  # rarely needed: see _HASHES

    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def encode_key(key: str, value: str) -> "dict[str, str]":
    """The properties that store the client's key and its value; raises InvalidArgument as `encode`."""
    return encode(key_property(key), [key, value])


def decode_keys(properties: "dict[str, str]") -> "dict[str, str]":
    """All of the client's keys with their values."""
    keys = {}
    for name in properties:
        if name.startswith(KEY_PREFIX) and "." not in name:
            pair = decode(properties, name)
            if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
                keys[pair[0]] = pair[1]
    return keys
