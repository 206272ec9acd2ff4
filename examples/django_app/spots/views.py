from django import forms
from django.conf import settings
from django.http import JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from spots.answers import Refused

if settings.MACULE_URL:
    from spots.over_http import classify, ready
else:
    from spots.in_process import classify, ready

TOO_LARGE = f"This photo is too large. Send one of at most {settings.MAX_PHOTO_BYTES // 2**20} MB."


class PhotoForm(forms.Form):
    # not ImageField: Pillow would open the file first, with any of its forty formats
    photo = forms.FileField(
        widget=forms.FileInput(attrs={"accept": "image/*"}),
        error_messages={"required": "Choose a photo first.", "empty": "This file is empty."},
    )


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def spot(request):
    """Show the form, and the model's answer for the photo that was sent with it."""
    answer, problem, status = None, None, 200
    if request.method == "POST":
        try:
            answer = classify(uploaded(request))
        except Refused as refused:
            problem, status = refused.detail, refused.status
    page = {"form": PhotoForm(), "answer": answer, "problem": problem}
    return render(request, "spot.html", page, status=status)


def uploaded(request):
    """Return the photo of the form.

    Raises: Refused.
    """
    form = PhotoForm(request.POST, request.FILES)
    dropped = int(request.META.get("CONTENT_LENGTH") or 0) > settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    if dropped or (form.is_valid() and form.cleaned_data["photo"].size > settings.MAX_PHOTO_BYTES):
        raise Refused(413, TOO_LARGE)
    if not form.is_valid():
        raise Refused(400, form.errors["photo"][0])
    return form.cleaned_data["photo"]


@never_cache
@require_safe
def health(request):
    """Return whether photos can be answered now."""
    ok = ready()
    return JsonResponse({"status": "ok" if ok else "unavailable"}, status=200 if ok else 503)
