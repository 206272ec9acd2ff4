"""A script writes the sizes in the documentation, one row for each bundle."""

import re

import pytest
from support.service import ROOT

from infra import bundle, figures

PAGE = (ROOT / "docs/deploy.md").read_text()


def shown() -> list[list[str]]:
    (table,) = figures.TABLE.findall(PAGE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


def test_every_bundle_has_its_row() -> None:
    """The table has a row with size and contents for each built tree, and no other row."""
    names = [row[0].strip("`").removesuffix(".zip") for row in shown()]

    assert names == list(bundle.TREES)
    for _, mb, zipped, contents in shown():
        assert re.fullmatch(r"\d+(\.\d)?|below 0\.1", mb)
        assert re.fullmatch(r"(\d+(\.\d)?|below 0\.1)?", zipped)
        assert contents


@pytest.mark.parametrize("name", figures.SAID)
def test_the_layers_size_is_the_same_everywhere(name: str) -> None:
    """The READMEs give the layer's size of the table."""
    (figure,) = re.findall(figures.SAID[name], (ROOT / name).read_text())

    assert figure in next(row[1] for row in shown() if row[0] == "`aws/layer.zip`")


def test_other_sizes_change_only_their_figures() -> None:
    """Other sizes change the table and one figure of each README, and nothing else."""
    sizes = dict.fromkeys(bundle.TREES, figures.Size(12.34, None))
    sizes["aws/layer"] = figures.Size(123.4, 45.6)
    texts = {page.name: text for page, text in figures.pages(sizes).items()}

    assert "| `aws/layer.zip` | 123 | 46 |" in texts["deploy.md"]
    assert figures.TABLE.sub("", texts["deploy.md"]) == figures.TABLE.sub("", PAGE)
    assert "a layer of 123 MB" in texts["README.md"]
