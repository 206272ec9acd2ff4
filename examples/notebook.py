# macule in a notebook. Cells begin with `# %%`: VS Code, PyCharm and Spyder run them one by one,
# and `jupytext --to ipynb examples/notebook.py` makes a notebook. docs/python.md says more.

# %%
from pathlib import Path

import macule

classifier = macule.load()
classifier

# %% [markdown]
# One photo. The decision comes first: ignore the probabilities of a photo that is `not_skin`.

# %%
folder = Path(__file__).parent if "__file__" in globals() else Path("examples")
result = classifier.predict(folder / "spot.jpg")
print(result.decision)
for prediction in result.predictions:
    print(f"{prediction.probability:7.1%}  {prediction.name}")
print(result.disclaimer)

# %% [markdown]
# The evidence. A notebook shows the image below; a script writes it to a file.

# %%
explanation = result.explain()
Path("overlay.png").write_bytes(explanation.overlay)
explanation

# %% [markdown]
# How stable is the answer when the photo gets smaller? Images in memory work like files.

# %%
from PIL import Image

photo = Image.open(folder / "spot.jpg")
sides = [1024, 512, 256, 128, 64]
smaller = [photo.resize((side, side * photo.height // photo.width)) for side in sides]
for side, found in zip(sides, classifier.predict_many(smaller), strict=True):
    best = found.predictions[0]
    print(f"{side:5} px  {found.decision:12}  {best.label}  {best.probability:.2f}")

# %% [markdown]
# Many photos, one of them damaged: the exception takes its place.

# %%
body = (folder / "spot.jpg").read_bytes()
for number, answer in enumerate(
    classifier.predict_many([body, body[:1000], b""], return_exceptions=True)
):
    if isinstance(answer, macule.Macule):
        print(number, type(answer).__name__, answer)
    else:
        print(number, answer.decision)
