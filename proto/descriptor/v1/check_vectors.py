#!/usr/bin/env python3
"""Checks vectors.json and descriptor.schema.json with an implementation of its own.

Standard library only. Exit code 0 when everything agrees, 1 with a line per disagreement otherwise.
"""

import base64
import hashlib
import hmac
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_INTEGER, MAX_DEPTH, MAX_BYTES = 2**53 - 1, 64, 1 << 20
SECTIONS = ("model", "prompt", "agent", "policy", "halting", "metadata")
DOMAIN = "mcp-agent-runtime/descriptor/v1"


class Refused(Exception):
    """A document has no acceptable canonical form; the text is the reason."""


# --- Strict JSON, RFC 8785 without fractions ------------------------------------------------------------------------


def refuse(reason):
    raise Refused(reason)


def integer(digits):
    if digits == "-0" or len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        refuse("NUMBER")
    return int(digits)


def unique(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
        refuse("DUPLICATE_KEY")
    return dict(pairs)


def depth_of(text):
    """The deepest nesting, counted outside strings."""
    deepest = level = 0
    for char in re.sub(r'"(?:[^"\\]|\\.)*"', "", text):
        level += (char in "[{") - (char in "]}")
        deepest = max(deepest, level)
    return deepest


def parse(text):
    if len(text.encode()) > MAX_BYTES:
        refuse("SIZE")
    if depth_of(text) > MAX_DEPTH:
        refuse("DEPTH")
    try:
        value = json.loads(
            text,
            parse_int=integer,
            parse_float=lambda _: refuse("NUMBER"),
            parse_constant=lambda _: refuse("SYNTAX"),
            object_pairs_hook=unique,
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate
    except (json.JSONDecodeError, UnicodeEncodeError):
        raise Refused("SYNTAX") from None
    return value


SHORT = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


def quoted(text):
    escape = lambda char: SHORT.get(ord(char)) or (f"\\u{ord(char):04x}" if ord(char) < 32 else char)
    return '"' + "".join(map(escape, text)) + '"'


def canonical(value):
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    by_utf16 = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(quoted(key) + ":" + canonical(value[key]) for key in by_utf16) + "}"


# --- The part of JSON Schema that descriptor.schema.json uses -------------------------------------------------------

TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
}
KEYWORDS = {
    "$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "anyOf", "pattern", "minLength", "maxLength",
    "minimum", "maximum", "items", "uniqueItems", "properties", "required", "additionalProperties", "propertyNames",
}


def fits(value, schema, root):
    if schema is False:
        return False
    unknown = set(schema) - KEYWORDS
    assert not unknown, f"the schema uses {unknown}, which this checker does not know"
    if "$ref" in schema and not fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root):
        return False
    if "type" in schema and not TYPES[schema["type"]](value):
        return False
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return False
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    if isinstance(value, str):
        return text_fits(value, schema)
    if isinstance(value, dict):
        return object_fits(value, schema, root)
    if isinstance(value, list):
        distinct = not schema.get("uniqueItems") or len(set(map(canonical, value))) == len(value)
        return distinct and all(fits(item, schema.get("items", {}), root) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True


def text_fits(value, schema):
    long_enough = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    return long_enough and ("pattern" not in schema or re.search(schema["pattern"].replace("$", r"\Z"), value) is not None)


def object_fits(value, schema, root):
    if any(key not in value for key in schema.get("required", [])):
        return False
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    named = all(fits(key, schema.get("propertyNames", {}), root) for key in value)
    return named and all(fits(item, properties.get(key, others), root) for key, item in value.items())


# --- Ed25519 verification, RFC 8032 ---------------------------------------------------------------------------------

P, Q = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P:
        return None
    return x if x & 1 == sign else P - x


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    m, n = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = n - m, d - c, d + c, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def point_of(data):
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    x = recover_x(y, sign) if y < P else None
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def signed(public, message, signature):
    key, commitment = point_of(public), point_of(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= Q or len(signature) != 64:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    (x1, y1, z1, _), (x2, y2, z2, _) = times(scalar, BASE), add(commitment, times(challenge, key))
    return (x1 * z2 - x2 * z1) % P == 0 and (y1 * z2 - y2 * z1) % P == 0


# --- The vectors ----------------------------------------------------------------------------------------------------


def hash_of(domain, data):
    return "sha256:" + hashlib.sha256(domain.encode() + b"\n" + data).hexdigest()


def pae(kind, payload):
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


class Check:
    def __init__(self, vectors, schema):
        self.vectors, self.schema = vectors, schema
        self.public = bytes.fromhex(vectors["key"]["public_hex"])
        self.checks, self.failures = 0, []

    def same(self, actual, expected, what):
        self.checks += 1
        if actual != expected:
            self.failures.append(f"{what}: {actual!r} is not {expected!r}")

    def signature(self, kind, item, what):
        message = pae(self.vectors["payload_types"][kind], item["canonical"].encode())
        signature = bytes.fromhex(item["signature_hex"])
        self.same(signed(self.public, message, signature), True, what + " signature")
        self.same(signed(self.public, message + b" ", signature), False, what + " signature of other bytes")

    def key(self):
        key = self.vectors["key"]
        self.same(hashlib.sha256(self.public).hexdigest()[:16], key["key_id"], "key id")
        der = base64.b64decode("".join(key["public_pem"].splitlines()[1:-1]))
        self.same(der, bytes.fromhex("302a300506032b6570032100") + self.public, "public key in PEM")

    def descriptors(self):
        for item in self.vectors["descriptors"]:
            name, text, document = item["name"], item["canonical"], item["document"]
            self.same(canonical(document), text, name + " canonical form")
            self.same(canonical(parse(text)), text, name + " canonical form, parsed again")
            self.same(fits(document, self.schema, self.schema), True, name + " fits the schema")
            self.same(hash_of(DOMAIN, text.encode()), item["hash"], name + " hash")
            hashes = {s: hash_of(f"{DOMAIN}/{s}", canonical(document[s]).encode()) for s in SECTIONS}
            self.same(hashes, item["section_hashes"], name + " section hashes")
            self.signature("descriptor", item, name)
            self.envelope(item, name)
            for layer in document["policy"]["alignment_policy"]:
                text_hash = hash_of("mcp-agent-runtime/alignment-policy/v1", layer["text"].encode())
                self.same(text_hash, layer["hash"], name + " policy hash")
            for prompt in document["prompt"]["roles"].values():
                text_hash = hash_of("mcp-agent-runtime/role-prompt/v1", prompt["text"].encode())
                self.same(text_hash, prompt["hash"], name + " role prompt hash")

    def envelope(self, item, name):
        envelope = json.loads(item["envelope"])
        self.same(envelope["payloadType"], self.vectors["payload_types"]["descriptor"], name + " payload type")
        self.same(base64.b64decode(envelope["payload"]), item["canonical"].encode(), name + " payload")
        (signature,) = envelope["signatures"]
        self.same(signature["keyid"], self.vectors["key"]["key_id"], name + " key id")
        self.same(base64.b64decode(signature["sig"]).hex(), item["signature_hex"], name + " signature in the envelope")

    def diffs(self):
        hashes = {item["name"]: item["section_hashes"] for item in self.vectors["descriptors"]}
        for item in self.vectors["diffs"]:
            a, b = hashes[item["a"]], hashes[item["b"]]
            self.same(sorted(s for s in SECTIONS if a[s] != b[s]), item["sections"], f"diff {item['a']} {item['b']}")

    def canonical_forms(self):
        for item in self.vectors["canonical_forms"]:
            self.same(canonical(parse(item["text"])), item["canonical"], item["name"])

    def refusal(self, text):
        try:
            document = parse(text)
        except Refused as refused:
            return str(refused)
        if canonical(document) != text:
            return "NOT_CANONICAL"
        return "ACCEPTED" if fits(document, self.schema, self.schema) else "SHAPE"

    def rejected(self):
        # Rules beyond shape are partly in the schema and partly in prose: either answer is right here. A document that
        # leaves out a null is refused for its shape by a schema and for its spelling by a reader that fills it in.
        others = {"INVALID": {"ACCEPTED", "SHAPE"}, "NOT_CANONICAL": {"NOT_CANONICAL", "SHAPE"}}
        for item in self.vectors["rejected"]:
            reason, expected = self.refusal(item["text"]), item["reason"]
            allowed = others.get(expected, {expected}) if item["name"] == "missing-null" or expected == "INVALID" else {expected}
            self.same(reason in allowed, True, f"{item['name']} refused as {reason}")

    def chains(self):
        for chain in self.vectors["chains"]:
            head, broken = bytes.fromhex(chain["genesis"].removeprefix("sha256:")), None
            for seq, event in enumerate(chain["events"]):
                digest = hashlib.sha256(b"mcp-agent-runtime/event/v1\n" + head + bytes.fromhex(event["leaf_hex"])).digest()
                if event["seq"] != seq or event["hash"] != "sha256:" + digest.hex():
                    broken = seq
                    break
                head = digest
            self.same(broken, chain["first_broken"], chain["name"])

    def commitments(self):
        for item in self.vectors["commitments"]:
            parts = [item["run"].encode(), item["seq"].to_bytes(8, "big", signed=True), item["field"].encode()]
            place = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
            salt = mac(bytes.fromhex(item["salt_key_hex"]), place)
            self.same(salt.hex(), item["salt_hex"], "salt")
            commitment = "hmac-sha256:" + mac(salt, bytes.fromhex(item["payload_hex"])).hex()
            self.same(commitment, item["commitment"], "commitment")

    def run_seals(self):
        for item in self.vectors["run_seals"]:
            name, text = item["name"], item["canonical"]
            self.same(canonical(item["document"]), text, name + " canonical form")
            self.same(hash_of("mcp-agent-runtime/run-seal/v1", text.encode()), item["hash"], name + " hash")
            self.signature("run_seal", item, name)

    def session_seals(self):
        for item in self.vectors["session_seals"]:
            name, text, document = item["name"], item["canonical"], item["document"]
            self.same(canonical(document), text, name + " canonical form")
            self.same(hash_of("mcp-agent-runtime/session-seal/v1", text.encode()), item["hash"], name + " hash")
            runs = b"".join(bytes.fromhex(seal.removeprefix("sha256:")) for seal in item["run_seals"])
            self.same(hash_of("mcp-agent-runtime/run-seals/v1", runs), document["run_seals"], name + " run seals")
            self.same(len(item["run_seals"]), document["runs"], name + " number of runs")
            self.signature("session_seal", item, name)


def main():
    vectors = json.loads((HERE / "vectors.json").read_text(encoding="utf-8"))
    schema = json.loads((HERE / "descriptor.schema.json").read_text(encoding="utf-8"))
    check = Check(vectors, schema)
    check.key()
    check.descriptors()
    check.diffs()
    check.canonical_forms()
    check.rejected()
    check.chains()
    check.commitments()
    check.run_seals()
    check.session_seals()
    for failure in check.failures:
        print(failure)
    print(f"{check.checks - len(check.failures)} of {check.checks} checks agree")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
