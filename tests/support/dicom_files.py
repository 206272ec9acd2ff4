"""DICOM files as a clinic's camera writes them, with a patient's name."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DermoscopicPhotographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from support.images import photo


def dicom(
    pixels: bytes = b"",
    coding: str = JPEGBaseline8Bit,
    kind: str = DermoscopicPhotographyImageStorage,
    **elements: object,
) -> bytes:
    """Write a file with one picture of 640 x 480: *pixels*, or a drawn photo."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = coding
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 480, 640, 3
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.PlanarConfiguration, dataset.PixelRepresentation = 0, 0
    dataset.PhotometricInterpretation = "RGB"
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = (
        pixels if coding == ExplicitVRLittleEndian else encapsulate([pixels or photo()])
    )
    dataset["PixelData"].VR = "OB"
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
