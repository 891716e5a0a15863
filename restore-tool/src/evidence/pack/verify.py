"""Verifies this pack with Python's standard library and openssl (3.0 or later) alone.

Run it in the pack's folder: python3 verify.py
Ends with 0 if everything is as it was written, 13 if something isn't, 3 if somebody still has to do
something about it (a signer that the root has not vouched for).
"""

import base64
import csv
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KEYRINGS = HERE / "region/meta/keyring"
EVIDENCE = HERE / "region/meta/evidence"
MAY_SIGN = {"drill", "keeper"}
wrong = []
exceptions = []


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def public_key(pem):
    """The 32 bytes of an Ed25519 key in PEM."""
    lines = [line for line in pem.read_text().split("\n") if line and "-----" not in line]
    return base64.b64decode("".join(lines))[-32:]


def signed(pem, message, signature):
    """Whether openssl finds the signature to be the key's over the message."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"message": message, "signature": signature}
        for name, data in files.items():
            pathlib.Path(folder, name).write_bytes(data)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(pem), "-rawin"]
        command += ["-in", f"{folder}/message", "-sigfile", f"{folder}/signature"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check_files():
    """Every file is listed with its SHA-256, and no other is there."""
    listed = {"SHA256SUMS"}
    for line in (HERE / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        listed.add(name)
        path = HERE / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256(path.read_bytes()) != digest:
            wrong.append(f"{name} is not the file that was exported")
    for path in HERE.rglob("*"):
        name = path.relative_to(HERE).as_posix()
        if path.is_file() and name not in listed:
            wrong.append(f"{name} was not exported")


def members():
    """Who may sign what: the newest keyring, if the root signed every version of it."""
    root = HERE / "keys/root.pem"
    newest = {"members": []}
    for number, path in enumerate(sorted(KEYRINGS.iterdir()), start=1):
        data = path.read_bytes()
        (length,) = struct.unpack("<I", data[12:16])
        unsigned, rest = data[: 16 + length], data[16 + length :]
        signer, signature = rest[:32], rest[32:96]
        newest = json.loads(unsigned[16:])
        if data[:8] != b"TIDEMARK" or newest["version"] != number or path.name != f"{number:08}":
            wrong.append(f"keyring {path.name} is not version {number}")
        if signer != public_key(root):
            wrong.append(f"keyring {path.name} is not signed by the root key")
        elif not signed(root, b"tidemark-v1\0" + unsigned + signer, signature):
            wrong.append(f"the root's signature on keyring {path.name} is wrong")
    return {member["key"]: member for member in newest["members"]}


def check_signer(folder, known):
    """One signer's chain; returns its records' rows."""
    pem = HERE / f"keys/{folder.name}.pem"
    key = public_key(pem)
    member = known.get(key.hex())
    if member is None:
        exceptions.append(f"signer {folder.name} is not enrolled: the root has not vouched for it")
    elif member["role"] not in MAY_SIGN:
        wrong.append(f"signer {folder.name} is enrolled as {member['role']}: it may not sign evidence")
    rows, before = {}, None
    for number, path in enumerate(sorted(folder.iterdir())):
        data, name = path.read_bytes(), path.relative_to(HERE).as_posix()
        try:
            envelope = json.loads(data)
            payload = base64.b64decode(envelope["payload"], validate=True)
            signature = envelope["signatures"][0]
            predicate = json.loads(payload)["predicate"]
            kind = envelope["payloadType"].encode()
            message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
            raw = base64.b64decode(signature["sig"], validate=True)
        except (KeyError, IndexError, ValueError) as error:
            wrong.append(f"{name} is no record: {error}")
            continue
        if signature["keyid"] != folder.name:
            wrong.append(f"{name} is signed by {signature['keyid']}, a foreign key")
        elif not signed(pem, message, raw):
            wrong.append(f"{name}: its signature is wrong: it was edited")
        if path.name != f"{number:016}":
            wrong.append(f"{name} stands where record {number} should: one is missing")
        if predicate["seq"] != int(path.name):
            wrong.append(f"{name} is record {predicate['seq']}: the chain was reordered")
        if predicate.get("prev_sha256") != before:
            wrong.append(f"{name} does not follow the record before it")
        if member and member.get("revoked") and predicate["created_at"] > member["revoked"]["at"]:
            wrong.append(f"{name} was signed after its signer was revoked")
        before = sha256(data)
        rows[before] = (str(predicate["seq"]), predicate)
    return rows


def check_csv(records):
    """Every row of the CSV is a record of this pack, and says what the record says."""
    with open(HERE / "evidence.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    meta = json.loads((HERE / "evidence.csv.meta.json").read_text())
    if rows and not {"record_sha256", "evidence_id", "type", "created_at", "outcome", "reason", "seq"} <= set(rows[0]):
        wrong.append("evidence.csv: a column's name was changed")
        return
    if len(rows) != meta["rows"]:
        wrong.append(f"evidence.csv has {len(rows)} rows, and its meta file says {meta['rows']}")
    for row in rows:
        found = records.get(row["record_sha256"])
        if found is None:
            wrong.append(f"evidence.csv: no record has the SHA-256 {row['record_sha256']}")
            continue
        seq, predicate = found
        said = {
            "evidence_id": predicate.get("evidence_id", row["evidence_id"]),
            "type": predicate.get("type", ""),
            "created_at": predicate["created_at"],
            "outcome": predicate.get("result", {}).get("outcome", ""),
            "reason": predicate.get("reason", ""),
            "seq": seq,
        }
        for column, value in said.items():
            if row[column] != value and row[column] != "'" + value:
                wrong.append(f"evidence.csv: {column} of {row['evidence_id']} is not what the record says")


def main():
    """Checks everything and says so."""
    check_files()
    known, records, signers = members(), {}, 0
    if EVIDENCE.is_dir():
        for folder in sorted(EVIDENCE.iterdir()):
            records.update(check_signer(folder, known))
            signers += 1
    check_csv(records)
    for line in wrong:
        print("WRONG:", line)
    for line in exceptions:
        print("TO DO:", line)
    print(f"{len(records)} records of {signers} signers, keyring of root {public_key(HERE / 'keys/root.pem').hex()}")
    if wrong:
        return 13
    if exceptions:
        return 3
    print("Everything is as it was written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
