"""Read the lines of text files: gzipped or not, in UTF-8 or another encoding."""

import codecs
import gzip
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from job.core.errors import DataError
from job.spec.commands import check_command
from job.spec.schema import DataSpec

# No real text is longer, but a small compressed file may unpack to such a line.
MAX_LINE_BYTES = 64 * 1024 * 1024
# Limit on unpacking: the larger of these bytes and this multiple of the compressed size. gzip
# shrinks texts to between a tenth and a third of their size, a zip bomb to a thousandth.
MAX_UNPACKED_BYTES = 2**30
MAX_UNPACKED_RATIO = 200
# First bytes of other formats, and what to do with such a file.
MAGIC_BYTES = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; rename a workbook to end in `.xlsx`",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; rename it to end in `.xls`",
    b"PAR1": "a Parquet file; rename it to end in `.parquet`",
    b"\x1f\x8b": "a gzip file without the suffix `.gz`, or gzipped twice; unpack it",
}
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# The byte order mark of UTF-32 begins like that of UTF-16.
UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
CHUNK = 2**16
# Suffixes of tables and of JSON, if a text file has neither.
SUFFIXES_OF_TEXT = (".csv", ".jsonl")
FIRST_BYTES = 1000
# Bytes to read to guess the encoding of a file that is not UTF-8.
GUESS_BYTES = 2**18
# Encodings that programs still write. With all encodings, the library guesses worse.
LIKELY = ["cp1252", "cp1250", "cp1251", "cp932", "gb18030", "euc_kr", "big5", "euc_jp"]


def read_lines(file: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Decode line by line, so that an error can name the line.

    A file that begins with the byte order mark of UTF-16 is decoded as UTF-16.
    """
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    line, room = 0, max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * file.stat().st_size)
    used = "utf-8" if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding
    try:
        with opener(file, "rb") as opened:
            handle = cast("IO[bytes]", opened)
            start = handle.read(4)
            handle.seek(0)
            if start[:2] in MARKS and start not in UTF32:
                used = MARKS[start[:2]]
            elif used != "utf-8":
                # Another file of the same data may need the encoding; here it would garble texts.
                used = "utf-8" if _is_utf8(handle.read(GUESS_BYTES)) else used
                handle.seek(0)
            for line, raw in enumerate(_raw_lines(handle, used), start=1):
                if len(raw) >= MAX_LINE_BYTES:
                    msg = f"`{file}` line {line} is longer than {MAX_LINE_BYTES:,} bytes. Split it."
                    raise DataError(msg)
                if (room := room - len(raw)) < 0:
                    msg = f"`{file}` unpacks to more than {MAX_UNPACKED_BYTES:,} bytes and "
                    msg += f"{MAX_UNPACKED_RATIO} times its size (at line {line}): it may be a zip "
                    raise DataError(msg + "bomb. If you trust it, unpack it with `gunzip` first.")
                if line == 1:
                    _refuse_other_formats(file, raw, used)
                text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
                yield text.removeprefix("\ufeff") if line == 1 else text
    except UnicodeDecodeError as error:
        # Other encodings are decoded in blocks, before the lines are split.
        where = f"in line {line}" if used == "utf-8" else f"after line {line}"
        byte = f"byte 0x{error.object[error.start]:02x} {where}"
        cause = WrongEncoding(f"`{file}` is not {used.upper()}: {byte}.", file)
        raise cause.to_error() from cause
    except (EOFError, zlib.error):
        msg = f"`{file}` is a damaged or truncated gzip file (after line {line}). Fetch it again."
        raise DataError(msg) from None


def _raw_lines(handle: IO[bytes], encoding: str) -> Iterator[bytes | str]:
    if encoding == "utf-8":
        yield from iter(lambda: handle.readline(MAX_LINE_BYTES), b"")
        return
    # In other encodings, the byte of a line feed may be a part of a character.
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    while part := handle.read(CHUNK):
        *lines, rest = (rest + decoder.decode(part)).split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(rest) >= MAX_LINE_BYTES:
            break
    if rest := rest + decoder.decode(b"", final=True):
        yield rest


def _refuse_other_formats(file: Path, start: bytes | str, encoding: str) -> None:
    if isinstance(start, str):
        return
    for magic, what in MAGIC_BYTES.items():
        if start.startswith(magic):
            msg = f"`{file}` is {what}."
            raise DataError(msg)
    if b"\0" in start and not start.startswith(UTF32):
        msg = (
            f"`{file}` is not {encoding.upper()}: its first line contains zero bytes, so it may be "
        )
        cause = WrongEncoding(msg + "UTF-16.", file)
        raise cause.to_error() from cause


@dataclass(frozen=True)
class WrongEncoding(Exception):
    """A file has another encoding than `data.encoding`: the cause of a `DataError`."""

    reason: str
    file: Path

    def to_error(self, source: str | None = None, spec: DataSpec | None = None) -> DataError:
        """Return the error with the command that checks the file, or all of the source."""
        way_out = "Save it as UTF-8."
        if likely := likely_encoding(self.file):
            command = check_command(source or str(self.file), spec, encoding=likely)
            way_out = f"Save it as UTF-8, or, as it looks like {likely}: `{command}`."
        return DataError(f"{self.reason} {way_out}")


def _is_utf8(start: bytes) -> bool:
    """Tell whether the first bytes are UTF-8 that no other encoding would write by chance."""
    if start.isascii() or b"\0" in start:
        return False
    # Without an incomplete character at the end.
    whole = start[: start.rfind(b"\n") + 1] or start
    return not whole.isascii() and _decodes(whole, "utf-8")


def renaming(path: Path) -> str:
    """Return the command that renames a table or JSON lines in a file with another suffix."""
    if path.suffix.lower() not in ("", ".txt", ".text", ".tab", ".dat", ".psv"):
        return ""
    with path.open("rb") as file:
        is_json = file.read(FIRST_BYTES).lstrip()[:1] in (b"{", b"[")
    old, new = (shlex.quote(str(p)) for p in (path, path.with_suffix(SUFFIXES_OF_TEXT[is_json])))
    return f" Rename it: `mv {old} {new} && embedtune check {new}`."


def likely_encoding(file: Path) -> str | None:
    """Guess the encoding of a file that is not UTF-8."""
    from charset_normalizer import from_bytes

    opener = gzip.open if file.suffix.lower() == ".gz" else open
    with opener(file, "rb") as opened:
        data = cast("IO[bytes]", opened).read(GUESS_BYTES)
    if data.startswith(UTF32):
        return "utf-32"
    if b"\0" in data:
        wide = "utf-32" if b"\0\0" in data[:4] else "utf-16"
        name = f"{wide}-be" if data[:1] == b"\0" else f"{wide}-le"
        return name if _decodes(data[: len(data) // 4 * 4], name) else None
    # Without an incomplete character at the end, which would rule out the right encoding.
    sample = data[: data.rfind(b"\n") + 1] or data
    # Short texts with many accents need the higher tolerance.
    for tolerance in (0.2, 0.5):
        found = from_bytes(sample, threshold=tolerance, cp_isolation=LIKELY)
        if (best := found.best()) is not None:
            break
    else:
        return None
    western = next((match for match in found if match.encoding == "cp1252"), None)
    # cp1252 and cp1250 differ only in Eastern European letters.
    if best.encoding == "cp1250" and (
        _decodes(sample, "cp1252", str(best))
        or (western and (western.chaos, western.coherence) == (best.chaos, best.coherence))
    ):
        return "cp1252"
    return best.encoding


def _decodes(data: bytes, encoding: str, expected: str | None = None) -> bool:
    try:
        return data.decode(encoding) == expected or expected is None
    except UnicodeDecodeError:
        return False
