"""Verifies this pack with Python's standard library and openssl (3.0 or later) alone.

Run it in the pack's folder: python3 verify.py
With an earlier pack (python3 verify.py --since FOLDER) every record of that one must still be in this one.
Ends with 0 if everything is as it was written, 13 if something isn't, 3 if somebody still has to do
something about it (a signer that the root has not vouched for).
"""

import base64
import csv
import hashlib
import io
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


def stands(folder, member):
    """What the keyring says of a signer."""
    if member is None:
        exceptions.append(f"signer {folder.name} is not enrolled: the root has not vouched for it")
        return "not enrolled yet"
    if member["role"] not in MAY_SIGN:
        wrong.append(f"signer {folder.name} is enrolled as {member['role']}: it may not sign evidence")
        return "enrolled in another role"
    return "revoked" if member.get("revoked") else "enrolled"


def outlives(revoked, seq, digest, at):
    """Whether a record of a revoked signer counts: it was there when the root took the right away."""
    anchors = (revoked.get("anchors") or {}).get("evidence")
    if anchors is None:
        return instant(at) <= instant(revoked["at"])
    named = [last["sha256"] for last in anchors if last["seq"] == seq]
    return any(seq <= last["seq"] for last in anchors) and (not named or digest in named)


def check_signer(folder, known):
    """One signer's chain; returns its records."""
    pem = HERE / f"keys/{folder.name}.pem"
    key = public_key(pem)
    member = known.get(key.hex())
    standing = stands(folder, member)
    rows, before = [], None
    for number, path in enumerate(sorted(folder.iterdir())):
        data, name = path.read_bytes(), path.relative_to(HERE).as_posix()
        try:
            envelope = json.loads(data)
            payload = base64.b64decode(envelope["payload"], validate=True)
            signature = envelope["signatures"][0]
            predicate = json.loads(payload)["predicate"]
            seq = int(predicate["seq"])
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
        if seq != int(path.name):
            wrong.append(f"{name} is record {seq}: the chain was reordered")
        if predicate.get("prev_sha256") != before:
            wrong.append(f"{name} does not follow the record before it")
        before = sha256(data)
        if member and member.get("revoked") and not outlives(member["revoked"], seq, before, predicate["created_at"]):
            wrong.append(f"{name} was signed after its signer was revoked")
        rows.append({
            "signer": folder.name, "name": (member or {}).get("name", ""), "standing": standing, "seq": seq,
            "sha256": before, "predicate": predicate,
        })
    return rows


def pointed(predicate, path):
    """The field at /a/b of a record, or None."""
    for name in path.strip("/").split("/"):
        predicate = predicate.get(name) if isinstance(predicate, dict) else None
    return predicate


def shown(value, between=" "):
    """A field as a cell shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # As the records write numbers: 1e-7, where Python writes 1e-07.
        digits, _, exponent = repr(value).partition("e")
        return f"{digits}e{int(exponent)}" if exponent else digits
    if isinstance(value, list):
        return between.join(shown(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def instant(text):
    """RFC 3339 in UTC, to be compared with others."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


# Columns that show one field of the record.
FIELDS = {
    "type": "/type", "created_at": "/created_at", "action": "/action", "outcome": "/result/outcome",
    "exit_code": "/result/exit", "code": "/result/code", "error": "/result/error", "user": "/actor/user",
    "uid": "/actor/uid", "login_uid": "/actor/login_uid", "sudo_user": "/actor/sudo_user", "host": "/actor/host",
    "machine_id_sha256": "/actor/machine_id_sha256", "reason": "/reason", "source": "/source/name",
    "reached_at": "/recovery/reached_at", "position": "/recovery/position", "bytes": "/recovery/bytes",
    "fetched_bytes": "/transfer/fetched_bytes", "took_ms": "/timing/took_ms", "identity": "/key_ids",
    "tool_version": "/tool/version", "about": "/review/evidence_id", "seq": "/seq", "prev_sha256": "/prev_sha256",
    "verdict": "/result/verdict", "scenario": "/plan/scenario", "trigger": "/plan/trigger",
    "selection": "/recovery_pt/selection", "target_time": "/recovery_pt/target_time",
    "declared_at": "/timing/declared_at", "last_recovered_commit_at": "/recovery/last_recovered_commit_at",
    "rpo_measured_s": "/recovery/rpo_measured_s", "rpo_target_s": "/objectives/rpo_target_s",
    "rpo_met": "/result/rpo_met", "rto_measured_s": "/timing/rto_measured_s",
    "rto_projected_full_s": "/timing/rto_projected_full_s", "rto_target_s": "/objectives/rto_target_s",
    "rto_met": "/result/rto_met", "pitr_error_ms": "/recovery/pitr_error_ms",
    "pitr_precision_target_s": "/objectives/pitr_precision_target_s", "pitr_met": "/result/pitr_met",
    "sandbox_host": "/environment/host", "isolation": "/environment/isolation/netns",
    "egress_probe": "/environment/isolation/egress_probe_result",
    "scratch_verified_absent": "/handling/teardown/verified_absent", "next_due": "/governance/next_due",
}
RUNGS = ["chain", "ciphertext", "decrypt", "materialise", "replay", "logical", "scenario"]
STATUSES = ["passed", "failed", "warned", "recorded", "not_run"]


def drill_cells(predicate):
    """What is counted from the checks of a drill."""
    if not predicate.get("type", "").endswith("_drill"):
        names = ["proved_rungs", "segregated"] + [f"checks_{status}" for status in STATUSES]
        return {name: "" for name in names}
    counted = {}
    for check in predicate.get("checks") or []:
        status = check.get("status") if check.get("status") in STATUSES else "not_run"
        for of in (check.get("level"), None):
            counted[of, status] = counted.get((of, status), 0) + 1
    proved = []
    for rung in RUNGS:  # a rung over one that was not proved is none
        if not counted.get((rung, "passed")) or counted.get((rung, "failed")):
            break
        if not counted.get((rung, "not_run")):
            proved.append(rung)
    said = pointed(predicate, "/environment/segregated_from_source")
    said = said.get("value") if isinstance(said, dict) else said
    cells = {f"checks_{status}": str(counted.get((None, status), 0)) for status in STATUSES}
    return {**cells, "proved_rungs": " ".join(proved), "segregated": shown(said is True)}


def decisions_about(record, records):
    """The decisions about a record, the oldest first: (whether it counts, the review, its line)."""
    found = []
    for review in records:
        about = review["predicate"].get("review") or {}
        same = (about.get("signer"), about.get("seq"), about.get("sha256"))
        if review["predicate"].get("type") == "sign_off" and same == (record["signer"], record["seq"], record["sha256"]):
            counts = review["standing"] in ("enrolled", "revoked")
            line = (f"{shown(about.get('decision'))} by {shown(about.get('reviewer'))} ({shown(about.get('ticket'))}) at "
                    f"{review['predicate']['created_at']}, signer {review['signer']} {review['standing']}")
            found.append((counts, review["predicate"], line if counts else line + ": does not count"))
    return found


def cells_of(record, records):
    """Every cell of a record's row, made from the records alone."""
    predicate = record["predicate"]
    row = {name: shown(pointed(predicate, path)) for name, path in FIELDS.items()}
    before = pointed(predicate, "/request/before")
    row["requested"] = f"before {before}" if isinstance(before, str) else shown(pointed(predicate, "/request/to"))
    for name in ("read_from", "regions_away"):
        own, drills = predicate.get(name), pointed(predicate, f"/recovery_pt/{name}")
        listed = drills if own is None else own
        row[name] = " ".join(one["region"] for one in (listed if isinstance(listed, list) else []))
    found = decisions_about(record, records)
    counting = [review for counts, review, _ in found if counts]
    of = predicate if predicate.get("type") == "sign_off" else counting[-1] if counting else {}
    for name in ("reviewer", "ticket", "decision"):
        row[name] = shown(pointed(of, f"/review/{name}"))
    row["reviewed_at"] = counting[-1]["created_at"] if counting else ""
    row["decisions"] = "; ".join(line for _, _, line in found)
    row["fixes"] = shown(predicate.get("fixes") if isinstance(predicate.get("fixes"), list) else None, "; ")
    lists = (pointed(predicate, "/result/exceptions"), predicate.get("exceptions"))
    row["exceptions"] = next((shown(one, "; ") for one in lists if isinstance(one, list) and one), "")
    causes = pointed(predicate, "/result/causes")
    row["causes"] = shown(causes, "; ") if isinstance(causes, list) and causes else ""
    row["evidence_id"] = predicate.get("evidence_id") or f"{record['signer'][:8]}-{record['seq']}"
    row["signer"], row["signer_name"] = record["signer"], record["name"]
    row["signer_standing"], row["record_sha256"] = record["standing"], record["sha256"]
    row.update(drill_cells(predicate))
    # A quote stands before a cell that a spreadsheet would run.
    return {name: "'" + cell if cell[:1] in tuple("=+-@\t\r") else cell for name, cell in row.items()}


def is_of(predicate, source):
    """Whether a record is about a source, or about several and this one among them."""
    several = predicate.get("sources")
    return pointed(predicate, "/source/name") == source or (isinstance(several, list) and source in several)


def selected(records, selection):
    """The records that the CSV must hold, failures included, in its order."""
    kinds = {"drills": lambda kind: kind.endswith("_drill"), "access": lambda kind: kind == "access",
             "disposals": lambda kind: kind == "disposal"}
    takes = kinds.get(selection["kind"], lambda kind: True)
    start, end, source = selection.get("from"), selection.get("to"), selection.get("source")
    return [record for record in records
            if takes(record["predicate"].get("type", ""))
            and (not source or is_of(record["predicate"], source))
            and (not start or instant(record["predicate"]["created_at"]) >= instant(start))
            and (not end or instant(record["predicate"]["created_at"]) < instant(end))]


def check_csv(records, known):
    """Every record of the period is a row, every cell of it is what the records say, and no other row is there."""
    data = (HERE / "evidence.csv").read_bytes()
    meta = json.loads((HERE / "evidence.csv.meta.json").read_text(encoding="utf-8"))
    if meta["file"] != "evidence.csv" or meta["sha256"] != sha256(data):
        wrong.append("evidence.csv.meta.json is about another file than evidence.csv")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))
    titles, rows = (rows[0], rows[1:]) if rows else ([], [])
    expected = selected(records, meta["selection"])
    if len(rows) != meta["rows"] or len(rows) != len(expected):
        told = f"its meta file says {meta['rows']}, and the records of the period are {len(expected)}"
        wrong.append(f"evidence.csv has {len(rows)} rows, {told}")
    for cells, record in zip(rows, expected):
        said = cells_of(record, records)
        if titles != [title for title in titles if title in said] or set(said) != set(titles) or len(cells) != len(titles):
            wrong.append("evidence.csv: its columns are not those of an export")
            return
        for title, cell in zip(titles, cells):
            if cell != said[title]:
                wrong.append(f"evidence.csv: {title} of record {record['seq']} of {record['signer']} is {cell!r}, and the "
                             f"record says {said[title]!r}")
    check_numbers(meta, records, expected, known)


def check_numbers(meta, records, expected, known):
    """The first and last number of every signer that the meta file names."""
    told = {signer["signer"]: signer for signer in meta["signers"]}
    for signer in sorted(set(known) | {record["signer"] for record in records}):
        own = [record["seq"] for record in records if record["signer"] == signer]
        rows = [record["seq"] for record in expected if record["signer"] == signer]
        last = (signer, max(own, default=None))
        head = next((record["sha256"] for record in records if (record["signer"], record["seq"]) == last), None)
        ends = [[min(numbers), max(numbers)] if numbers else None for numbers in (rows, own)]
        said = told.pop(signer, {})
        if [said.get("rows"), said.get("chain"), said.get("records"), said.get("head_sha256")] != [*ends, len(own), head]:
            wrong.append(f"evidence.csv.meta.json: the numbers of signer {signer} are not those of its records")
    for signer in told:
        wrong.append(f"evidence.csv.meta.json names signer {signer}, of whom nothing is here")


def check_since(folder):
    """Every record of an earlier pack is in this one, byte for byte: none was cut off at a chain's end."""
    earlier = pathlib.Path(folder, "region/meta/evidence")
    if not earlier.is_dir():
        wrong.append(f"{folder} is no earlier pack: no record is in it")
    for path in sorted(earlier.glob("*/*")):
        here = EVIDENCE / path.relative_to(earlier)
        name = here.relative_to(HERE).as_posix()
        if not here.is_file():
            wrong.append(f"{name} is missing: the earlier pack has it")
        elif here.read_bytes() != path.read_bytes():
            wrong.append(f"{name} is another record than in the earlier pack")


def main():
    """Checks everything and says so."""
    if sys.argv[1:2] == ["--since"]:
        check_since(sys.argv[2])
    check_files()
    known, records, signers = members(), [], []
    if EVIDENCE.is_dir():
        for folder in sorted(EVIDENCE.iterdir()):
            records.extend(check_signer(folder, known))
            signers.append(folder.name)
    found = json.loads((HERE / "evidence.csv.meta.json").read_text(encoding="utf-8")).get("findings", [])
    records.sort(key=lambda record: (instant(record["predicate"]["created_at"]), record["signer"], record["seq"]))
    check_csv(records, signers)
    for line in wrong:
        print("WRONG:", line)
    for line in exceptions:
        print("TO DO:", line)
    for line in found:
        print("FOUND WHEN IT WAS EXPORTED:", line)
    print(f"{len(records)} records of {len(signers)} signers, keyring of root {public_key(HERE / 'keys/root.pem').hex()}")
    if wrong:
        return 13
    if exceptions:
        return 3
    print("Everything is as it was written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
