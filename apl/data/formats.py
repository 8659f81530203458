"""Files that are not read, and what to save them as: by their suffix, or by how they begin, since
many a spreadsheet is called .csv."""

from __future__ import annotations

from pathlib import Path

_SHEET = "a spreadsheet: save it as CSV UTF-8 (.csv)"
_PANDAS = "{}: read it with pandas ({}) and write .to_parquet or .to_csv"
_ARRAYS = "{}: write its arrays with numpy.savez as .npz ({})"
_R = "of R: write.csv(x, 'x.csv', row.names = FALSE)"
_PICKLE = "a pickle, which may run anything and is never opened: write .npz or .parquet"
_TABLES_INSIDE = "a database: export the table as .csv"
_PACKED = "packed: unpack it first"

_KINDS = {
    ".xlsx .xls .xlsm .xlsb .ods .numbers": _SHEET,
    ".mat": _ARRAYS.format("MATLAB's", "scipy.io.loadmat, from v7.3 on h5py"),
    ".h5 .hdf5 .hdf .he5": _ARRAYS.format("HDF5", "h5py"),
    ".nc .nc4 .cdf": _ARRAYS.format("NetCDF", "xarray"),
    ".zarr": _ARRAYS.format("Zarr", "zarr"),
    ".rds .rdata .rda": _R,
    ".pkl .pickle .joblib .dill .p": _PICKLE,
    ".pt .pth .ckpt": "of torch: write its tensors as arrays, numpy.savez as .npz",
    ".safetensors": _ARRAYS.format("tensors", "safetensors.numpy.load_file"),
    ".sqlite .sqlite3 .db .mdb .accdb .duckdb": _TABLES_INSIDE,
    ".feather .arrow .ipc": _PANDAS.format("Arrow's", "read_feather"),
    ".orc": _PANDAS.format("ORC", "read_orc"),
    ".dta": _PANDAS.format("Stata's", "read_stata"),
    ".sav .zsav .por": _PANDAS.format("SPSS's", "read_spss"),
    ".sas7bdat .xpt": _PANDAS.format("SAS's", "read_sas"),
    ".arff": _PANDAS.format("Weka's", "scipy.io.arff.loadarff into a DataFrame"),
    ".tfrecord .tfrecords": "TensorFlow's records: write files of images, or .npz",
    ".lmdb": "LMDB: write its images as files in folders of classes",
    ".dcm .dicom": "DICOM: write PNGs of 16 bits",
    ".nii .mha .nrrd": _ARRAYS.format("volumes", "SimpleITK"),
    ".xml .yaml .yml .toml": "no table: write a .csv with a row for each sample",
    ".txt .dat .data .tab .prn": "text: a table is called .csv or .tsv",
    ".html .htm": "a page: save its table as .csv",
    ".pdf .doc .docx": "a document: save its table as .csv",
    ".ipynb .py .r .rmd": "a program: give what it writes",
    ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar": _PACKED,
}
_BY_SUFFIX = {suffix: hint for kinds, hint in _KINDS.items() for suffix in kinds.split()}
_BEGINNINGS = (
    (b"PK\x03\x04", _SHEET),  # every zip, but whoever calls it .csv means a spreadsheet
    (b"\xd0\xcf\x11\xe0", _SHEET),
    (b"\x89HDF", _BY_SUFFIX[".h5"]),
    (b"MATLAB 5.0", _BY_SUFFIX[".mat"]),
    (b"SQLite format 3", _TABLES_INSIDE),
    (b"RDX", _R),
    (b"PAR1", "Parquet: call it .parquet"),
    (b"ARROW1", _BY_SUFFIX[".feather"]),
    (b"\x93NUMPY", "an array of NumPy's: call it .npy"),
    (b"\x1f\x8b", _PACKED),
    (b"BZh", _PACKED),
    (b"7z\xbc\xaf", _PACKED),
    (b"%PDF", _BY_SUFFIX[".pdf"]),
    (b"\x80\x04\x95", _PICKLE),
    (b"\x80\x05\x95", _PICKLE),
    (b"<!doctype html", _BY_SUFFIX[".html"]),
    (b"<html", _BY_SUFFIX[".html"]),
    (b"<table", _BY_SUFFIX[".html"]),
    (b"<?xml", _BY_SUFFIX[".xml"]),
)


def hint(path: Path) -> str:
    """What a file is whose suffix nothing here reads, and what to save it as; '' where that is not
    known."""
    return _BY_SUFFIX.get(path.suffix.lower(), "")


def hint_of(content: bytes) -> str:
    """What a file is that does not hold what it is called, by its first bytes; '' where that is
    not known."""
    start = content[:64].lstrip().lower()
    return next((hint for begin, hint in _BEGINNINGS if start.startswith(begin.lower())), "")
