"""DICOM: photographs and dermoscopy are read; patient data is not."""

import sys

import numpy as np
import pytest
from macule.errors import BadImage, UnsupportedImage
from macule.inference import decoding
from macule.inference.decoding import icc
from pydicom import dataelem
from pydicom.uid import (
    CTImageStorage,
    DermoscopicPhotographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    VLPhotographicImageStorage,
)
from support.dicom_files import dicom
from support.images import photo, pixels_of, saved, skin

ANY = 10**9


@pytest.mark.parametrize("kind", [DermoscopicPhotographyImageStorage, VLPhotographicImageStorage])
def test_clinical_photographs_are_read(kind: str) -> None:
    """JPEG, JPEG 2000 and raw pixels give the original picture."""
    expected = pixels_of(decoding.decode(saved(skin(), "PNG"), 64, "squash")).astype(int)
    for body in (
        dicom(photo(), kind=kind),
        dicom(saved(skin(), "JPEG2000", no_jp2=True), JPEG2000Lossless, kind),
        dicom(skin().tobytes(), ExplicitVRLittleEndian, kind),
    ):
        found = pixels_of(decoding.decode(body, 64, "squash"))

        assert decoding.inspect(body, ANY).upright_size == (640, 480)
        assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize("coding", [JPEGBaseline8Bit, ExplicitVRLittleEndian])
def test_its_profile_is_applied(coding: str) -> None:
    """The element ICCProfile applies if the picture has no profile of its own."""
    pixels = photo() if coding == JPEGBaseline8Bit else skin().tobytes()
    profile = icc.build_profile(icc.PRIMARIES[12])

    plain = decoding.decode(dicom(pixels, coding), 64, "squash")
    shown = decoding.decode(dicom(pixels, coding, ICCProfile=profile), 64, "squash")

    assert not shown.ignored
    assert np.abs(pixels_of(shown).astype(int) - pixels_of(plain)).mean() > 1


def test_patient_data_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only elements of the picture are turned into values."""
    read, convert = [], dataelem.convert_raw_data_element

    def watched(raw: dataelem.RawDataElement, **options: object) -> dataelem.DataElement:
        read.append(raw.tag)
        return convert(raw, **options)

    monkeypatch.setattr("pydicom.dataset.convert_raw_data_element", watched)
    decoding.decode(dicom(photo()), 64, "squash")

    assert read
    assert {tag.group for tag in read} <= {0x0002, 0x0008, 0x0028, 0x7FE0}
    assert (0x0010, 0x0010) not in read


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (dicom(photo(), kind=CTImageStorage), "class"),
        (dicom(b"\0" * 64, RLELossless), "transfer syntax"),
        (dicom(skin().tobytes(), ExplicitVRLittleEndian, BitsAllocated=16), "16 bits"),
    ],
)
def test_other_modalities_are_rejected(body: bytes, why: str) -> None:
    """A scan is rejected with an error that says what to send."""
    with pytest.raises(UnsupportedImage, match=why):
        decoding.inspect(body, ANY)


def test_damaged_files_are_bad() -> None:
    """A truncated file and one without pixels are rejected as damaged."""
    with pytest.raises(BadImage):
        decoding.inspect(dicom(photo())[:200], ANY)
    with pytest.raises(BadImage):
        decoding.inspect(dicom(b"\0" * 64, ExplicitVRLittleEndian), ANY)


def test_without_pydicom_it_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says so, and what to send."""
    body = dicom(photo())
    monkeypatch.setitem(sys.modules, "pydicom", None)

    with pytest.raises(UnsupportedImage, match="extra `dicom`"):
        decoding.prepare(body)
