"""Files that are ZIP archives inside (DOCX, EPUB), opened so that none unpacks to more than it may."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

from quietmind.base.errors import NotesError
from quietmind.base.units import MIB, format_bytes

if TYPE_CHECKING:
    from lxml.etree import _Element

# Of text, unpacked: a hundred times War and Peace. Pictures are not unpacked and do not count.
LARGEST = 64 * MIB
_ENCRYPTED = 0x1  # bit 0 of the general purpose flags (APPNOTE.TXT 4.4.4)
_MOST_MEMBERS = 100_000


class Zipped:
    """The members of an archive. What is read of all of them together is at most LARGEST bytes."""

    def __init__(self, data: bytes, name: str) -> None:
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
            raise NotesError(f"is damaged, or no {name} ({error})") from error
        self._name = name
        self._left = LARGEST
        self._members = {info.filename: info for info in self._archive.infolist()}
        if len(self._members) > _MOST_MEMBERS:
            raise NotesError(f"holds {len(self._members):,} files, more than any {name}")

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def read(self, member: str) -> bytes:
        """Return the bytes of ``member``. Raises NotesError when it is not there, is damaged or is too large.

        The size that the archive states is looked at first, and no more than that is unpacked.
        """
        info = self._members.get(member)
        if info is None:
            raise NotesError(f"is damaged, or no {self._name}: there is no {member} in it")
        if info.flag_bits & _ENCRYPTED:
            raise NotesError("is protected by a password; save it without one")
        if info.file_size > self._left:
            raise NotesError(f"unpacks to more than the {format_bytes(LARGEST)} of text that a note may have")
        try:
            content = self._archive.read(info)
        except (
            zipfile.BadZipFile,
            zlib.error,
            ValueError,
            NotImplementedError,
            OSError,
            EOFError,
            RuntimeError,
        ) as error:
            raise NotesError(f"is damaged: {member} cannot be unpacked ({error})") from error
        self._left -= len(content)
        return content

    def xml(self, member: str) -> _Element:
        """Return the root of ``member``, which is XML. Raises NotesError as :meth:`read`, and when it is none."""
        return parsed_xml(self.read(member), f"{member} in it")


def parsed_xml(data: bytes, name: str) -> _Element:
    """Return the root of ``data``. Entities are left as they are: nothing grows, and nothing else is opened.

    Raises NotesError when it is no XML.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise NotesError(f"is damaged: {name} is no XML ({error})") from error
