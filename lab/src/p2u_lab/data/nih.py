"""NIH ChestX-ray14 (Wang et al. 2017): PNG files, a CSV file of findings, lists of the splits."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from p2u.errors import FormatError
from p2u_lab.base import MissingDataError
from p2u_lab.data.images import Images, check_split, of_files
from p2u_lab.places import data_path

SOURCE = "https://nihcc.app.box.com/v/ChestXray-NIHCC (free; name the NIH as the source)"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
NONE = "No Finding"


def nih_chest(split: str, root: Path | None = None) -> Images:
    """A split with any number of the 14 findings per image.

    Args:
        split: ``train`` (the official training and validation list) or ``test``.
        root: The folder with the CSV file, the lists, and the images in ``images/`` or in the
            archives' folders ``images_001/images/``...; else ``nih-chest-xray`` of the data folder.

    Returns:
        Labels (items, 14) of 0 and 1. Images of the list that are not there are passed over, so
        that one of the archives will do.

    Raises:
        MissingDataError: The table, the list or all images are not there.
        FormatError: The table is not of this kind.
    """
    check_split(split, tuple(LISTS), "NIH ChestX-ray14")
    root = root or data_path("nih-chest-xray", SOURCE)
    listing = root / LISTS[split]
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if not tables or not listing.is_file():
        raise MissingDataError(
            f"{root} lacks {listing.name if tables else TABLES[0]}",
            hint=f"get it from {SOURCE} and put it there",
        )
    findings = _findings(tables[0])
    folders = [root / "images", *sorted(root.glob("images_[0-9][0-9][0-9]/images"))]
    there = {p.name: p for folder in folders if folder.is_dir() for p in folder.glob("*.png")}
    names = [name for name in listing.read_text(encoding="utf-8").split() if name in there]
    if not names:
        raise MissingDataError(
            f"{root} has none of the images of {listing.name}",
            hint=f"get the archives from {SOURCE} and unpack them into {root / 'images'}",
        )
    lacking = [name for name in names if name not in findings]
    if lacking:
        raise FormatError(f"no row for {lacking[0]} of {listing.name}", file=str(tables[0]))
    labels = np.array(
        [[finding in findings[name] for finding in FINDINGS] for name in names], np.int64
    )
    return of_files([there[name] for name in names], labels, FINDINGS, root)


def _findings(table: Path) -> dict[str, set[str]]:
    """Image name -> its findings."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"Image Index", "Finding Labels"} <= set(rows[0]):
        raise FormatError("no columns 'Image Index' and 'Finding Labels'", file=str(table))
    known = {*FINDINGS, NONE}
    found = {}
    for row in rows:
        names = set((row["Finding Labels"] or "").split("|"))
        if not names <= known:
            raise FormatError(
                f"{row['Image Index']} has findings {sorted(names - known)}", file=str(table)
            )
        found[row["Image Index"]] = names - {NONE}
    return found
