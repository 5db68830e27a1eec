"""Files whose types are known, because we made them or Python's standard library has them.

Compressed ones may differ in bytes where the libraries that compress are of other versions.
"""

# ruff: noqa: D102 - the methods that make files are named after the types

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import io
import json
import lzma
import marshal
import pickle
import plistlib
import random
import sqlite3
import struct
import sysconfig
import tarfile
import time
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from p2u_lab.language.items import shuffled
from p2u_lab.language.lines import texts
from p2u_lab.libraries import imported

#: The time in all archives.
NOON = (2024, 1, 1, 12, 0, 0)


class Maker:
    """Makes files of many types from one random number generator.

    Every method but the private ones makes a file of Magika's label of the same name.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _words(self, count: int) -> str:
        return " ".join(self._random.choice(_WORDS) for _ in range(count))

    def _records(self) -> list[dict[str, object]]:
        r = self._random
        keys = r.sample(_WORDS, r.randrange(3, 7))
        return [
            {k: r.choice((r.randrange(1000), round(r.random(), 3), self._words(2))) for k in keys}
            for _ in range(r.randrange(4, 40))
        ]

    def _table(self, delimiter: str) -> bytes:
        out, records = io.StringIO(), self._records()
        writer = csv.DictWriter(out, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
        return out.getvalue().encode()

    def _picture(self, kind: str, **options: object) -> bytes:
        r = self._random
        image = imported("PIL.Image")
        size = (r.randrange(16, 80), r.randrange(16, 80))
        rows = np.frombuffer(r.randbytes(48), np.uint8).reshape(4, 4, 3)
        out = io.BytesIO()
        image.fromarray(rows).resize(size).save(out, kind, **options)
        return out.getvalue()

    def csv(self) -> bytes:
        return self._table(",")

    def tsv(self) -> bytes:
        return self._table("\t")

    def json(self) -> bytes:
        indent = self._random.choice((None, 1, 2, 4))
        return json.dumps({self._words(1): self._records()}, indent=indent).encode()

    def jsonl(self) -> bytes:
        return "".join(json.dumps(record) + "\n" for record in self._records()).encode()

    def xml(self) -> bytes:
        root = ElementTree.Element(self._words(1))
        for record in self._records():
            item = ElementTree.SubElement(root, "item", {"id": str(self._random.random())})
            for key, value in record.items():
                ElementTree.SubElement(item, key).text = str(value)
        ElementTree.indent(root)
        return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))

    def html(self) -> bytes:
        items = "\n".join(f"<li><a href='#{n}'>{self._words(3)}</a></li>" for n in range(12))
        return (
            f"<!DOCTYPE html>\n<html>\n<head><title>{self._words(3)}</title></head>\n<body>\n"
            f"<h1>{self._words(2)}</h1>\n<p>{self._words(40)}</p>\n<ul>\n{items}\n</ul>\n"
            "</body>\n</html>\n"
        ).encode()

    def svg(self) -> bytes:
        r = self._random
        shapes = "\n".join(
            f'  <circle cx="{r.randrange(99)}" cy="{r.randrange(99)}" r="{r.randrange(9)}"/>'
            for _ in range(r.randrange(3, 20))
        )
        head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        return f"{head}\n{shapes}\n</svg>\n".encode()

    def ini(self) -> bytes:
        lines = []
        for record in self._records()[:6]:
            lines += [f"[{self._words(1)}]", *(f"{k} = {v}" for k, v in record.items()), ""]
        return "\n".join(lines).encode()

    def yaml(self) -> bytes:
        lines = ["---"]
        for record in self._records():
            lines.append(f"- name: {self._words(2)}")
            lines += [f"  {key}: {value}" for key, value in record.items()]
        return "\n".join([*lines, ""]).encode()

    def markdown(self) -> bytes:
        parts = [f"# {self._words(3)}"]
        for _ in range(5):
            parts += [f"## {self._words(2)}", f"{self._words(25)}, see [{self._words(1)}](#top)."]
            parts.append("\n".join(f"- **{self._words(1)}**: {self._words(6)}" for _ in range(4)))
            parts.append(f"```sh\npip install {self._words(1)}\n```")
        return "\n\n".join(parts).encode()

    def diff(self) -> bytes:
        old = [self._words(6) for _ in range(40)]
        new = [self._words(6) if self._random.random() < 0.1 else line for line in old]
        new.append(self._words(4))
        return "\n".join(difflib.unified_diff(old, new, "a/file", "b/file", lineterm="")).encode()

    def eml(self) -> bytes:
        return (
            f"From: {self._words(1)}@example.org\nTo: {self._words(1)}@example.com\n"
            f"Subject: {self._words(4)}\nDate: Mon, 1 Jan 2024 12:00:00 +0000\n"
            f"Message-ID: <{self._random.randrange(10**9)}@example.org>\nMIME-Version: 1.0\n"
            f'Content-Type: text/plain; charset="utf-8"\n\n{self._words(60)}\n'
        ).encode()

    def shell(self) -> bytes:
        a, b = self._words(1), self._words(1)
        return (
            f"#!/bin/sh\nset -eu\n{a}=${{1:-{b}}}\nfor file in *.{b}; do\n"
            f'  if [ -f "$file" ]; then\n    echo "{self._words(5)} $file" >&2\n'
            f'    grep -q {self._words(1)} "$file" || rm -f "$file"\n  fi\ndone\nexit 0\n'
        ).encode()

    def sql(self) -> bytes:
        records = self._records()
        keys, table = list(records[0]), self._words(1)
        lines = [f"CREATE TABLE {table} (" + ", ".join(f"{k} TEXT" for k in keys) + ");"]
        for record in records:
            values = ", ".join(f"'{v}'" for v in record.values())
            lines.append(f"INSERT INTO {table} ({', '.join(keys)}) VALUES ({values});")
        return "\n".join(lines).encode()

    def png(self) -> bytes:
        return self._picture("PNG")

    def jpeg(self) -> bytes:
        return self._picture("JPEG")

    def gif(self) -> bytes:
        return self._picture("GIF")

    def bmp(self) -> bytes:
        return self._picture("BMP")

    def tiff(self) -> bytes:
        return self._picture("TIFF")

    def pdf(self) -> bytes:
        date = time.gmtime(self._random.randrange(1 << 30))  # not the time of making it
        return self._picture("PDF", creationDate=date, modDate=date)

    def zip(self) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for n in range(self._random.randrange(1, 6)):
                info = zipfile.ZipInfo(f"{self._words(1)}{n}.txt", NOON)
                archive.writestr(info, self._words(50))
        return out.getvalue()

    def tar(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for n in range(self._random.randrange(1, 6)):
                content = self._words(80).encode()
                info = tarfile.TarInfo(f"{self._words(1)}{n}.txt")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()

    def gzip(self) -> bytes:
        return gzip.compress(self._words(200).encode(), mtime=self._random.randrange(1 << 31))

    def bzip(self) -> bytes:
        return bz2.compress(self._words(200).encode())

    def xz(self) -> bytes:
        return lzma.compress(self._words(200).encode())

    def zlibstream(self) -> bytes:
        return zlib.compress(self._words(200).encode(), self._random.choice((1, 6, 9)))

    def wav(self) -> bytes:
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(self._random.choice((1, 2)))
            file.setsampwidth(2)
            file.setframerate(self._random.choice((8000, 16000, 44100)))
            file.writeframes(self._random.randbytes(4000))
        return out.getvalue()

    def sqlite(self) -> bytes:
        base = sqlite3.connect(":memory:")
        base.execute(f"CREATE TABLE {self._words(1)}s (a TEXT, b INTEGER)")
        name = base.execute("SELECT name FROM sqlite_master").fetchone()[0]
        rows = [(self._words(4), n) for n in range(self._random.randrange(5, 80))]
        base.executemany(f"INSERT INTO {name} VALUES (?, ?)", rows)
        base.commit()
        try:
            return base.serialize() if hasattr(base, "serialize") else b""
        finally:
            base.close()

    def npy(self) -> bytes:
        out = io.BytesIO()
        values = [self._random.random() for _ in range(self._random.randrange(50, 900))]
        np.save(out, np.array(values, self._random.choice((np.float32, np.float64))))
        return out.getvalue()

    def pickle(self) -> bytes:
        return pickle.dumps(self._records(), protocol=self._random.choice((2, 4)))

    def pythonbytecode(self) -> bytes:
        lines = [f"def {self._words(1)}{n}(x):\n    return x + {n}" for n in range(9)]
        code = compile("\n".join(lines), f"{self._words(1)}.py", "exec")
        from importlib.util import MAGIC_NUMBER

        stamp = struct.pack("<3I", 0, self._random.randrange(1 << 31), 99)
        return MAGIC_NUMBER + stamp + marshal.dumps(code)

    def appleplist(self) -> bytes:
        return plistlib.dumps({"items": self._records()})

    def applebplist(self) -> bytes:
        return plistlib.dumps({"items": self._records()}, fmt=plistlib.FMT_BINARY)


_WORDS = sorted({w.lower() for name in texts() for w in name.split() if w.isalpha() and len(w) > 2})


def made(each: int) -> list[tuple[str, str, bytes]]:
    """``(name, label, content)`` of so many files of each type."""
    out = []
    labels = sorted(name for name in vars(Maker) if not name.startswith("_"))
    for place, label in enumerate(labels):
        maker = Maker(place)
        make: Callable[[], bytes] = getattr(maker, label)
        out += [(f"{label}{n}", label, content) for n in range(each) if (content := make())]
    return out


def modules(count: int) -> list[tuple[str, str, bytes]]:
    """Modules of the standard library: every second from its middle on, without its head."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = [p for p in sorted(folder.glob("*.py")) if p.stat().st_size > 4000]
    out = []
    for n, path in enumerate(shuffled(found, lambda p: p.name)[:count]):
        content = path.read_bytes()
        if n % 2:
            content = content[content.index(b"\n", len(content) // 2) + 1 :]
        out.append((path.name, "python", content))
    return out
