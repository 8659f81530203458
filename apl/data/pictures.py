"""Images that lie inside a Parquet file, as Hugging Face keeps them: found, and taken out."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from apl.errors import BadInput, one_line
from apl.noise.labels import IntArray

BATCH = 64  # rows that are in memory at a time, with their images
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6")


class Picture(NamedTuple):
    """An image that lies in its row, by the name that the row has for it, '' for none."""

    name: str


@dataclass
class Pictures:
    """Images inside files: each file with its column, and in which row, counted through all of
    them, that of each sample lies."""

    files: list[tuple[Path, str]]
    rows: list[int]

    @contextlib.contextmanager
    def taken_out(self, folder: Path, chosen: IntArray) -> Iterator[list[str]]:
        """The images of the chosen samples as files in a folder, which is there for so long."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        places: dict[int, list[int]] = {}
        for k, sample in enumerate(chosen.tolist()):
            places.setdefault(self.rows[sample], []).append(k)
        paths = [str(folder / str(k)) for k in range(len(chosen))]
        try:
            row = 0
            for file, column in self.files:
                for content in _contents(file, column):
                    for k in places.get(row, ()):
                        Path(paths[k]).write_bytes(content)
                    row += 1
            yield paths
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def pyarrow_parquet(path: Path) -> Any:
    """pyarrow's reader; BadInput where it is not installed."""
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise BadInput(f"{path} needs pyarrow: pip install pyarrow, or give a .csv") from None
    return parquet


def _contents(path: Path, column: str) -> Iterator[bytes]:
    """The bytes of the image in each row, b'' where there is none."""
    file = pyarrow_parquet(path).ParquetFile(path)
    for batch in file.iter_batches(BATCH, columns=[column]):
        for value in batch.column(0).to_pylist():
            content = value.get("bytes") if isinstance(value, Mapping) else value
            yield content if isinstance(content, bytes) else b""


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, without the images in it: a `Picture` stands for each.

    Where Hugging Face's `datasets` wrote it, labels are the names that it has for their numbers.
    Raises BadInput for what is no such file.
    """
    parquet = pyarrow_parquet(path)
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        kinds = {field.name: _kind(file, field) for field in schema}
        columns = [f"{name}.path" if kind == "struct" else name for name, kind in kinds.items()
                   if kind not in ("bytes", "struct alone")]  # fmt: skip
        named = _class_names(schema.metadata or {})
        for batch in file.iter_batches(columns=columns):
            cells = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            for k in range(batch.num_rows):
                yield {
                    name: _cell(cells[name][k] if name in cells else None, kind, named.get(name))
                    for name, kind in kinds.items()
                }
    except BadInput:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise BadInput(f"{path} is damaged or no Parquet: {one_line(error)[:300]}") from None


def parquet_changed(path: Path, changes: Mapping[int, Mapping[str, str] | None]) -> bytes:
    """A Parquet file with some of its rows changed (`apl.data.rows.changed`), all else as it is."""
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    parquet = pyarrow_parquet(path)
    table = parquet.read_table(path)
    named = _class_names(table.schema.metadata or {})
    for name in {name for change in changes.values() for name in change or ()}:
        place = table.schema.get_field_index(name)
        kind = table.schema.field(name).type
        values = table.column(name).to_pylist()
        for number, change in changes.items():
            if change and name in change:
                text = change[name]
                classes = named.get(name, [])
                value: Any = classes.index(text) if text in classes else text
                if pyarrow.types.is_integer(kind):
                    value = int(value)
                values[number - 1] = [value] if pyarrow.types.is_list(kind) else value
        table = table.set_column(place, table.schema.field(name), pyarrow.array(values, kind))
    gone = {number - 1 for number, change in changes.items() if change is None}
    if gone:
        table = table.take([i for i in range(table.num_rows) if i not in gone])
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def _kind(file: Any, field: Any) -> str:
    """What a column holds: 'struct' or 'struct alone' where its bytes are images, with or without
    a path; 'paths' where only these are there; 'bytes' for images alone, '' for anything else."""
    from pyarrow import types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    inner = {each.name: each.type for each in field.type} if types.is_struct(field.type) else {}
    if "bytes" in inner and _is_binary(types, inner["bytes"]):
        if "path" not in inner:
            return "struct alone"
        return "paths" if _all_null(file, f"{field.name}.bytes") else "struct"
    if _is_binary(types, field.type) and not types.is_struct(field.type):
        for batch in file.iter_batches(BATCH, columns=[field.name]):
            first = next((v for v in batch.column(0).to_pylist() if v is not None), None)
            if first is not None:
                return "bytes" if first.startswith(_MAGIC) else ""
    return ""


def _is_binary(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _all_null(file: Any, path: str) -> bool:
    """Whether the file's statistics say that nothing stands in a column."""
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        for k in range(metadata.row_group(group).num_columns):
            column = metadata.row_group(group).column(k)
            if column.path_in_schema == path:
                known = column.statistics
                if known is None or known.null_count != column.num_values:
                    return False
    return bool(metadata.num_rows)


def _cell(value: Any, kind: str, names: Sequence[str] | None) -> Any:
    if kind in ("bytes", "struct alone"):
        return Picture("")
    if kind in ("struct", "paths"):
        path = (value or {}).get("path") or ""
        return Picture(path) if kind == "struct" else path
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of classes by column, as `datasets` writes them into a file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
