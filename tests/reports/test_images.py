"""Images that failed elsewhere are decoded, or rejected with the reason."""

import numpy as np
import pytest
from macule.inference import decoding
from reports.image_reports import REPORTS, SKIN, WHITE, Report
from support.images import pixels_of, saved, skin

MOST_PIXELS = 120_000_000


def decoded(body: bytes) -> np.ndarray:
    decoding.inspect(body, MOST_PIXELS)
    return pixels_of(decoding.decode(body, 64, "squash", 20))[0].astype(int)


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.source)
def test_reported_images_get_the_correct_result(report: Report) -> None:
    """Each file of a public report gets the result that its user needed."""
    body = report.body()

    if isinstance(report.right, type):
        with pytest.raises(report.right) as caught:
            decoded(body)
        assert report.expected in str(caught.value)
    elif report.right == WHITE:
        assert (decoded(body) == 255).all()
    else:
        drawn = skin() if report.right == SKIN else skin().convert("L")
        inks = decoding.inspect(body, MOST_PIXELS).mode == "CMYK"
        assert np.abs(decoded(body) - decoded(saved(drawn, "PNG"))).mean() < (12 if inks else 4)
