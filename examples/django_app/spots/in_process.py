"""The model in this process, as with TensorFlow: loaded once a worker, shared by its threads."""

import macule
from django.conf import settings

from spots.answers import Answer, Refused, data_uri

classifier = macule.load(settings.MACULE_MODEL, max_bytes=settings.MAX_PHOTO_BYTES)


def classify(photo):
    """Classify an uploaded file.

    Raises: Refused.
    """
    try:
        result = classifier.predict(photo)
    except macule.Macule as error:
        raise Refused(error.status, str(error)) from error
    try:
        overlay = data_uri(result.explain().overlay)
    except macule.NoMaps:  # not every model has them
        overlay = ""
    predictions = [(row.name, row.probability) for row in result.predictions]
    return Answer(result.decision, predictions, overlay, result.disclaimer)


def ready():
    return True  # the worker does not start without its model
