#!/usr/bin/env python3
"""Restores a SQLite source from a Tidemark region (format version 1) without Tidemark.

    pip install cryptography blake3 zstandard
    decode.py DIRECTORY IDENTITY SOURCE TARGET [EPOCH:SEQ]

DIRECTORY is a region (a directory region, or a bucket's prefix copied to disk), IDENTITY a recovery
identity file without passphrase. It follows docs/FORMAT.md and nothing else: signatures, links,
hashes and the digest of the restored database are all checked, and any doubt ends it.
"""

import base64
import json
import os
import struct
import sys

import blake3
import zstandard
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SESSION, PACK, LOG, FENCE, BASE, POINT, BEAT, CLAIM, REGION, KEYRING, ENROL, DRILL_CLAIM = range(1, 13)
FRAME_RAW_MAX = 1 << 20


def need(condition, message):
    if not condition:
        sys.exit(f"decode.py: {message}")


def b3(data):
    return blake3.blake3(data).digest()


def key_id(public):
    return b3(public)[:16].hex()


# --- section 2: the envelope -----------------------------------------------------------------


class Object:
    """An object whose signature and body have been checked."""

    def __init__(self, data, kind, name):
        need(data[:8] == b"TIDEMARK", f"{name}: not a Tidemark object")
        need(data[8] == 1 and data[10] == 1 and data[11] == 0, f"{name}: version or suite unknown")
        need(data[9] == kind, f"{name}: kind {data[9]} where {kind} belongs")
        (n,) = struct.unpack_from("<I", data, 12)
        end = 16 + n + 96
        need(len(data) >= end, f"{name}: truncated")
        self.name, self.head = name, json.loads(data[16 : 16 + n])
        self.signer = data[16 + n : 48 + n]
        message = b"tidemark-v1\0" + data[: 16 + n] + self.signer
        try:
            Ed25519PublicKey.from_public_bytes(self.signer).verify(data[48 + n : end], message)
        except Exception:
            sys.exit(f"decode.py: {name}: the signature does not fit")
        self.link = b3(data[:end])
        self.body = data[end:]
        need(len(self.body) == self.head.get("body_len", 0), f"{name}: the body has another length")
        if self.body:
            need(b3(self.body).hex() == self.head["body_hash"], f"{name}: the body was changed")


class Region:
    def __init__(self, folder):
        self.folder = folder

    def read(self, key):
        with open(os.path.join(self.folder, key), "rb") as file:
            return file.read()

    def get(self, key, kind):
        return Object(self.read(key), kind, key)

    def names(self, prefix):
        folder = os.path.join(self.folder, prefix)
        if not os.path.isdir(folder):
            return []
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))


# --- section 3: identity and keyring -----------------------------------------------------------


def read_identity(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    need(lines and lines[0] == "tidemark-identity-1", "not a tidemark identity file")
    fields = dict(line.split(" = ", 1) for line in lines[1:])
    need("secret" in fields, "the identity is sealed by a passphrase: use tidemark-restore")
    word = fields["secret"].strip().strip('"')
    need(word.startswith("tmi1"), "the secret is not a tmi1 key")
    raw = base64.b32decode(word[4:].upper() + "=" * (-len(word[4:]) % 8))
    need(raw[0] == 1 and b3(b"tmi1" + raw[:-4])[:4] == raw[-4:], "the secret is damaged")
    return X25519PrivateKey.from_private_bytes(raw[1:33]), raw[33:49], raw[49:65].hex()


def read_keyring(region, repo, root):
    prev, ring = None, None
    for name in region.names("meta/keyring"):
        ring = region.get(f"meta/keyring/{name}", KEYRING)
        need(key_id(ring.signer) == root, f"{ring.name}: not signed by the root")
        need(ring.head["repo"] == repo.hex(), f"{ring.name}: of another repository")
        need(ring.head["version"] == int(name), f"{ring.name}: stands under another version's name")
        need(ring.head["prev"] == prev, f"{ring.name}: does not follow the one before")
        prev = ring.link.hex()
    need(ring is not None, "the repository has no keyring: no agent was enrolled")
    return {m["key"] for m in ring.head["members"] if m["role"] == "agent" and not m.get("revoked")}


# --- section 4: encryption ---------------------------------------------------------------------


def hkdf_extract(salt, ikm):
    mac = hmac.HMAC(salt or b"\0" * 32, hashes.SHA256())
    mac.update(ikm)
    return mac.finalize()


def hkdf_expand(prk, info, length):
    out, block = b"", b""
    while len(out) < length:
        mac = hmac.HMAC(prk, hashes.SHA256())
        mac.update(block + info + bytes([len(out) // 32 + 1]))
        block = mac.finalize()
        out += block
    return out[:length]


def hpke_open(private, encapsulated, info, sealed):
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""
    kem = b"KEM" + struct.pack(">H", 0x20)
    suite = b"HPKE" + struct.pack(">HHH", 0x20, 0x01, 0x02)

    def extract(suite_id, salt, label, ikm):
        return hkdf_extract(salt, b"HPKE-v1" + suite_id + label + ikm)

    def expand(suite_id, prk, label, context, length):
        return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite_id + label + context, length)

    mine = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    secret = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", encapsulated + mine, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    prk = extract(suite, secret, b"secret", b"")
    key = expand(suite, prk, b"key", context, 32)
    nonce = expand(suite, prk, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, sealed, b"")


class Vault:
    """Opens bodies; caches the sessions' secrets."""

    def __init__(self, region, private, repo, agents):
        self.region, self.private, self.repo, self.agents = region, private, repo, agents
        self.secrets = {}
        self.mine = key_id(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def get(self, key, kind):
        found = self.region.get(key, kind)
        need(found.signer.hex() in self.agents, f"{key}: its signer is not an enrolled agent")
        need(found.head["repo"] == self.repo.hex(), f"{key}: of another repository")
        return found

    def secret(self, session):
        if session not in self.secrets:
            head = self.get(f"data/session/{session}", SESSION).head
            mine = [r for r in head["recipients"] if r["recipient"] == self.mine]
            need(mine, f"session {session} was not sealed to this identity")
            info = b"tidemark-v1 session" + self.repo + bytes.fromhex(session)
            try:
                secret = hpke_open(
                    self.private, bytes.fromhex(mine[0]["encapsulated"]), info, bytes.fromhex(mine[0]["sealed"])
                )
            except Exception:
                sys.exit(f"decode.py: session {session} does not open with this identity")
            commitment = hkdf_expand(hkdf_extract(b"", secret), b"tidemark-v1 session commitment", 32)
            need(commitment.hex() == head["commitment"], f"session {session}: wrong commitment")
            self.secrets[session] = secret
        return self.secrets[session]

    def open(self, found, kind, source):
        """Decrypts the frames of a body; returns them as a list."""
        head, body = found.head, found.body
        bound = (
            b"TMCRYPT1" + bytes([1, kind, 0, 0]) + struct.pack("<I", FRAME_RAW_MAX) + self.repo
            + b3(source.encode())[:16] + bytes.fromhex(head["incarnation"])
            + bytes.fromhex(head["object"]) + bytes.fromhex(head["session"])
        )
        secret = self.secret(head["session"])
        prk = hkdf_extract(bytes.fromhex(head["object"]), secret)
        keys = hkdf_expand(prk, b"tidemark-v1 object" + bound, 64)
        header = bound + keys[32:]
        need(body[:128] == header, f"{found.name}: the encrypted body belongs elsewhere")
        cipher, at, number, frames = AESGCM(keys[:32]), 128, 0, []
        while at < len(body):
            (length,) = struct.unpack_from("<I", body, at)
            sealed = body[at + 4 : at + 4 + length]
            at += 4 + length
            need(at <= len(body), f"{found.name}: truncated frame")
            nonce = b"\0" * 7 + struct.pack(">I", number) + (b"\1" if at == len(body) else b"\0")
            try:
                packed = cipher.decrypt(nonce, sealed, header)
            except Exception:
                sys.exit(f"decode.py: {found.name}: frame {number} is damaged")
            frames.append(zstandard.ZstdDecompressor().decompress(packed, max_output_size=FRAME_RAW_MAX))
            number += 1
        need(frames, f"{found.name}: no frames")
        return frames


# --- sections 5.1 and 6: tables -----------------------------------------------------------------


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, n):
        need(self.at + n <= len(self.data), "a table is truncated")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def u32(self):
        return struct.unpack("<I", self.bytes(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.bytes(8))[0]


def read_base_index(data):
    r = Reader(data)
    need(r.bytes(1) == b"\1", "a base index of another version")
    r.bytes(32)
    files = [(r.bytes(r.varint()).decode(), r.varint()) for _ in range(r.varint())]
    packs = []
    for _ in range(r.varint()):
        pack = {"object": r.bytes(16).hex(), "session": r.bytes(16).hex(), "link": r.bytes(32)}
        pack["size"] = r.varint()
        pack["frames"] = [(r.varint(), r.varint(), r.varint()) for _ in range(r.varint())]
        packs.append(pack)
    names = ("file", "first", "count", "page_size", "pack", "frame", "offset")
    runs = [dict(zip(names, [r.varint() for _ in names])) for _ in range(r.varint())]
    need(r.at == len(data), "bytes follow a base index")
    return files, packs, runs


def read_pages(data):
    r = Reader(data)
    need(r.bytes(4) == b"TMSQ" and r.bytes(1) == b"\1", "not a SQLite log payload")
    flags = r.bytes(1)[0]
    r.bytes(2)
    page_size, size, key, digest = r.u32(), r.u32(), r.bytes(32), r.bytes(16)
    number, numbers = 0, []
    for _ in range(r.varint()):
        number += r.varint()
        numbers.append(number)
    pages = [(n, r.bytes(page_size)) for n in numbers]
    need(r.at == len(data), "bytes follow a log payload")
    return page_size, size, key, digest if flags & 1 else None, pages


# --- sections 5 and 6: restore ------------------------------------------------------------------


def read_log(vault, source):
    """The chain over all epochs: a list of (epoch, objects from 0 to its end)."""
    epochs = []
    for name in vault.region.names(f"meta/claim/{source}"):
        epoch, objects, prev = int(name), [], None
        claim = vault.get(f"meta/claim/{source}/{name}", CLAIM)
        need(claim.head["source"] == source and claim.head["epoch"] == epoch, f"{claim.name}: misplaced")
        while True:
            seq = len(objects)
            late = f"meta/late/{source}/{name}/{seq:016d}"
            key = f"meta/log/{source}/{name}/{seq:016d}"
            if os.path.exists(os.path.join(vault.region.folder, late)):
                key = late
            elif not os.path.exists(os.path.join(vault.region.folder, key)):
                break
            elif vault.region.read(key)[9] == FENCE:
                break
            found = vault.get(key, LOG)
            head = found.head
            need((head["source"], head["epoch"], head["seq"]) == (source, epoch, seq), f"{key}: misplaced")
            need(head["prev"] == prev, f"{key}: does not follow the object before it")
            prev = found.link.hex()
            objects.append(found)
        if epochs and objects:
            end = objects[0].head["follows"]
            need(end and end["epoch"] == epochs[-1][0], f"{objects[0].name}: follows another epoch")
            keep = 0 if end["seq"] is None else end["seq"] + 1
            need(len(epochs[-1][1]) >= keep, f"epoch {end['epoch']} is incomplete here")
            if keep:
                need(epochs[-1][1][keep - 1].link.hex() == end["link"], "the epochs do not link")
            del epochs[-1][1][keep:]
        if objects or not epochs:
            epochs.append((epoch, objects))
    need(any(objects for _, objects in epochs), f"nothing is stored for {source}")
    return epochs


def choose_base(vault, source, epoch, objects, last):
    best = None
    folder = f"meta/base/{source}/{epoch:08d}"
    for generation in vault.region.names(folder):
        for number in vault.region.names(f"{folder}/{generation}"):
            base = vault.get(f"{folder}/{generation}/{number}", BASE)
            usable = base.head["usable_from"]
            if usable <= last and usable < len(objects) and base.head["generation"] == int(generation):
                need(objects[usable].link.hex() == base.head["usable_link"], f"{base.name}: off the chain")
                best = base
    need(best is not None, "no base is old enough for that position")
    chain = [best]
    while chain[0].head["parent"]:
        parent = chain[0].head["parent"]
        base = vault.get(f"{folder}/{parent['generation']:016d}/{parent['number']:06d}", BASE)
        need(base.link.hex() == parent["link"], f"{base.name}: is not the parent that was meant")
        chain.insert(0, base)
    return chain


def write_base(vault, source, base, out):
    _files, packs, runs = read_base_index(b"".join(vault.open(base, BASE, source)))
    contents = {}
    for number, pack in enumerate(packs):
        head = base.head
        key = f"data/pack/{source}/{head['epoch']:08d}/{head['generation']:016d}/{pack['object']}"
        found = vault.get(key, PACK)
        need(found.link == pack["link"], f"{key}: is not the pack that was meant")
        contents[number] = vault.open(found, PACK, source)
    for run in runs:
        frame = contents[run["pack"]][run["frame"]]
        data = frame[run["offset"] : run["offset"] + run["count"] * run["page_size"]]
        need(len(data) == run["count"] * run["page_size"], f"{base.name}: a run leaves its frame")
        out.seek(run["first"] * run["page_size"])
        out.write(data)


def whole_digest(out, page_size, size, key):
    total = 0
    out.seek(0)
    for number in range(1, size + 1):
        page = out.read(page_size)
        if number != (1 << 30) // page_size + 1:
            digest = blake3.blake3(page + struct.pack("<I", number), key=key).digest()
            total += int.from_bytes(digest[:16], "little")
    return (total % (1 << 128)).to_bytes(16, "little")


def restore(folder, identity, source, target, position):
    private, repo, root = read_identity(identity)
    region = Region(folder)
    vault = Vault(region, private, repo, read_keyring(region, repo, root))
    epochs = read_log(vault, source)
    epoch, objects = [pair for pair in epochs if pair[1]][-1]
    last = len(objects) - 1
    if position:
        epoch, last = (int(part) for part in position.split(":"))
        objects = dict(epochs).get(epoch, [])
        need(last < len(objects), f"{position} is not in the log")
    while last >= 0 and not objects[last].head["restorable"]:
        last -= 1
    chain = choose_base(vault, source, epoch, objects, last)
    with open(target, "xb") as new:
        new.close()
    with open(target, "r+b") as out:
        for base in chain:
            write_base(vault, source, base, out)
        for found in objects[chain[-1].head["start"] : last + 1]:
            need(not found.head.get("gap"), f"{found.name}: a gap: {found.head.get('gap')}")
            page_size, size, key, digest, pages = read_pages(b"".join(vault.open(found, LOG, source)))
            for number, page in pages:
                out.seek((number - 1) * page_size)
                out.write(page)
            out.truncate(size * page_size)
        need(digest is not None, "the end carries no digest")
        need(whole_digest(out, page_size, size, key) == digest, "the restored database is not the source's")
    print(f"{source} restored to {epoch}:{last}, committed {objects[last].head['last_commit']}: digest equal")


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    restore(*sys.argv[1:5], sys.argv[5] if len(sys.argv) == 6 else None)
